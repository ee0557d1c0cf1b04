"""The column `sample_weight` from the data set to the gradient."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from hf_transfer import (
    ClassBalanced,
    DomainAdversarial,
    FeatureExtractionTrainer,
    FocalLoss,
    LabelSmoothing,
    Mixup,
    Objective,
    RDrop,
    TransferArguments,
    TransferTrainer,
    attach,
    mix_domains,
)
from hf_transfer.functional.task_loss import TaskRows, task_loss
from hf_transfer.sample_weights import check_shape, check_values, has_sample_weight
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_token_bert, tiny_vit


WEIGHT = torch.tensor([0.0, 0.5, 2.0, 1.5, 1.0, 3.0, 0.25, 0.75])


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def weight_for(batch) -> torch.Tensor:
    return WEIGHT[: len(batch["labels"])]


def loss_and_gradient(model, batch, objectives=(), **columns):
    model.zero_grad()
    with attach(model, objectives):
        loss = model(**batch, **columns).loss
        loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# --- the loss of an attached model


@pytest.mark.parametrize("kind", TINY)
def test_every_kind_of_model(kind):
    """Weighted loss and gradient are the weighted sum of what the rows give one by one; ones change nothing."""
    torch.manual_seed(0)
    model = without_dropout(TINY[kind]())
    model.config.layerdrop = 0.0  # of wav2vec2: whole blocks at random
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # rows by themselves have other statistics
    batch = batch_for(model)
    weight = weight_for(batch)
    plain = loss_and_gradient(model, batch)
    ones = loss_and_gradient(model, batch, sample_weight=torch.ones_like(weight))
    torch.testing.assert_close(ones, plain, rtol=1e-4, atol=2e-5)
    loss, gradient = loss_and_gradient(model, batch, sample_weight=weight)
    rows = len(weight)
    entries = (batch["labels"] != -100).reshape(rows, -1).sum(1).tolist()
    parts = []
    for row in range(rows):
        if entries[row]:
            one = {name: value[row : row + 1] for name, value in batch.items()}
            alone = loss_and_gradient(model, one)
            parts.append([weight[row] * entries[row] / sum(entries) * value for value in alone])
    torch.testing.assert_close(loss, sum(part[0] for part in parts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, sum(part[1] for part in parts), rtol=1e-3, atol=1e-5)
    assert abs(loss - plain[0]) > 1e-4


def test_regression_and_several_labels_a_row():
    ids = torch.randint(1, 50, (4, 5))
    weight = WEIGHT[:4]
    model = without_dropout(tiny_bert(num_labels=1))
    labels = torch.tensor([0.5, -100.0, 2.0, 1.0])
    loss, _ = loss_and_gradient(model, {"input_ids": ids, "labels": labels}, sample_weight=weight)
    errors = (model(input_ids=ids).logits.squeeze(-1) - labels).square()
    torch.testing.assert_close(loss, (2.0 * errors[2] + 1.5 * errors[3]).detach() / 3)
    model = without_dropout(tiny_bert(problem_type="multi_label_classification"))
    labels = torch.randint(0, 2, (4, 3)).float()
    loss, _ = loss_and_gradient(model, {"input_ids": ids, "labels": labels}, sample_weight=weight)
    losses = F.binary_cross_entropy_with_logits(model(input_ids=ids).logits, labels, reduction="none").mean(-1)
    torch.testing.assert_close(loss, (weight * losses).mean().detach())


def test_the_weight_of_an_example_counts_for_its_tokens():
    model = without_dropout(tiny_token_bert())
    ids, labels = torch.randint(1, 50, (2, 4)), torch.tensor([[0, 1, -100, -100], [2, 2, 1, 0]])
    loss, _ = loss_and_gradient(model, {"input_ids": ids, "labels": labels}, sample_weight=torch.tensor([3.0, 0.5]))
    losses = F.cross_entropy(model(input_ids=ids).logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(loss, (3 * losses[0].sum() + 0.5 * losses[1].sum()).detach() / 6)


def test_under_lora():
    model = without_dropout(lora(TINY["bert"](), ["query"], "classifier"))
    batch = batch_for(model)
    plain = loss_and_gradient(model, batch)
    doubled = loss_and_gradient(model, batch, sample_weight=torch.full((len(batch["labels"]),), 2.0))
    torch.testing.assert_close(doubled[0], 2 * plain[0])
    torch.testing.assert_close(doubled[1], 2 * plain[1])


@pytest.mark.parametrize("terms", [[LabelSmoothing()], [FocalLoss()], [LabelSmoothing(), FocalLoss()]])
def test_with_task_terms_each_row_keeps_its_changed_loss(terms):
    model = without_dropout(tiny_bert())
    batch = batch_for(model)
    weight = weight_for(batch)
    loss, _ = loss_and_gradient(model, batch, terms, sample_weight=weight)
    total, count = 0.0, 0
    for row in range(len(weight)):
        if batch["labels"][row] != -100:
            one = {name: value[row : row + 1] for name, value in batch.items()}
            total, count = total + weight[row] * loss_and_gradient(model, one, terms)[0], count + 1
    torch.testing.assert_close(loss, total / count, rtol=1e-4, atol=1e-6)


def test_with_class_weights_both_count():
    term = ClassBalanced(counts=[1, 10, 5], beta=0.9)
    model = without_dropout(tiny_bert())
    batch = {"input_ids": torch.randint(1, 50, (2, 4)), "labels": torch.tensor([0, 1])}
    loss, _ = loss_and_gradient(model, batch, [term], sample_weight=torch.tensor([0.5, 4.0]))
    only = [loss_and_gradient(model, batch, [term], sample_weight=torch.eye(2)[row])[0] for row in range(2)]
    torch.testing.assert_close(loss, 0.5 * only[0] + 4 * only[1])


def mixed_by_hand(logits, labels, weight, partners, share):
    """lambda w_i l_i + (1 - lambda) w_j l_j, of rows with a label; over the rows where one of the two has one."""
    log_probabilities, total, count = logits.log_softmax(-1), 0.0, 0
    for i, j in enumerate(partners):
        parts = [(share, i), (1 - share, j)]
        known = [(s, r) for s, r in parts if labels[r] != -100]
        count += bool(known)
        total += sum(s * weight[r].item() * -log_probabilities[i, labels[r]].item() for s, r in known)
    return total / count


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0, -100, 2, 1]])
@pytest.mark.parametrize("before", [False, True])
def test_mixed_rows_count_what_their_parts_count(labels, before):
    from hf_transfer import TransferBatch
    from hf_transfer.objective import adjusted_task_loss

    logits, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor(labels)
    weight, partners, share = torch.tensor([2.0, 0.5, 0.0, 1.5]), [1, 0, 3, 2], 0.3
    batch = TransferBatch(
        features=torch.zeros(4, 2),
        logits=logits,
        labels=labels,
        columns={"mixed_with": torch.tensor(partners), "mixed_share": torch.full((4,), share, dtype=torch.float64)},
    )
    value = adjusted_task_loss([Mixup()], batch, weight)
    assert value.item() == pytest.approx(mixed_by_hand(logits, labels, weight, partners, share), rel=1e-6)
    # smoothing is linear in the targets: the same before and after
    terms = [LabelSmoothing(), Mixup()] if before else [Mixup(), LabelSmoothing()]
    smoothed = adjusted_task_loss(terms, batch, weight)
    torch.testing.assert_close(smoothed, adjusted_task_loss(terms[::-1], batch, weight))
    ones = adjusted_task_loss(terms, batch, torch.ones(4))
    torch.testing.assert_close(ones, adjusted_task_loss(terms, batch))


def test_mixup_in_a_model_and_copies_of_rows():
    model = without_dropout(tiny_vit())
    batch = batch_for(model)
    torch.manual_seed(3)
    plain, _ = loss_and_gradient(model, batch, [Mixup(alpha=1.0)])
    torch.manual_seed(3)
    doubled, _ = loss_and_gradient(
        model, batch, [Mixup(alpha=1.0)], sample_weight=torch.full((len(batch["labels"]),), 2.0)
    )
    torch.testing.assert_close(doubled, 2 * plain)
    bert = tiny_bert().train()
    batch = batch_for(bert)
    with attach(bert, [RDrop()]) as attachment:
        bert(**batch, sample_weight=torch.zeros(len(batch["labels"])))
    assert attachment.terms["task"] == 0 and attachment.terms["rdrop"] > 0


def test_a_batch_without_a_label_is_an_exact_zero_with_a_graph():
    model = without_dropout(tiny_bert())
    batch = {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([-100, -100])}
    loss, gradient = loss_and_gradient(model, batch, sample_weight=torch.tensor([2.0, 1.0]))
    assert loss == 0 and not gradient.any()
    logits = torch.full((2, 3), 1e4) * torch.tensor([1.0, -1.0, 0.0])
    assert task_loss(TaskRows.of(logits, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))).isfinite()


class Sees(Objective):
    def forward(self, batch):
        self.seen = dict(batch.columns)
        return batch.features.mean()


class Asks(Sees):
    columns = ("sample_weight",)


def test_objectives_see_it_only_if_they_ask():
    model = tiny_bert().train()
    for objective, expected in ((Sees(weight=0.0), set()), (Asks(weight=0.0), {"sample_weight"})):
        batch = batch_for(model)
        with attach(model, [objective]):
            model(**batch, sample_weight=weight_for(batch))
        assert set(objective.seen) == expected


def test_evaluation_is_untouched():
    model = tiny_bert().eval()
    batch = batch_for(model)
    bare = model(**batch)
    with attach(model, []):
        attached = model(**batch, sample_weight=torch.full((len(batch["labels"]),), math.nan))
    assert torch.equal(bare.loss, attached.loss) and torch.equal(bare.logits, attached.logits)


@pytest.mark.parametrize("bad", [-0.5, math.nan, math.inf])
def test_impossible_weights_are_refused_at_the_first_batch_only(bad):
    model = tiny_bert().train()
    batch = batch_for(model)
    weight = weight_for(batch).clone()
    with attach(model, []):
        wrong = weight.clone()
        wrong[1] = bad
        with pytest.raises(ValueError, match=f"`sample_weight` holds {bad}.*trains the model to be wrong.*from 0 on"):
            model(**batch, sample_weight=wrong)
        model(**batch, sample_weight=weight)
        model(**batch, sample_weight=wrong)  # looked at once: reading values back waits for the device


def test_weights_that_belong_to_no_row_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) in a batch of 2 rows.*is not known.*Give one number a row"):
        check_shape(torch.ones(2, 3), 2)
    check_shape(torch.ones(2), 2)
    check_values(torch.tensor([0, 1]))


# --- through the trainers


def table(rows=16, *, weight=None, seed=0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    columns = {
        "input_ids": torch.randint(1, 50, (rows, 6), generator=generator).tolist(),
        "labels": [row % 3 for row in range(rows)],
    }
    return Dataset.from_dict({**columns, **({} if weight is None else {"sample_weight": weight})})


def arguments(folder, *, of=TransferArguments, **options):
    quiet = {"save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    loop = {"per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 0.01, "dataloader_pin_memory": False}
    return of(output_dir=str(folder), **{**quiet, **loop, "logging_steps": 1, **options})


def trained(folder, data, cls=TransferTrainer, *, objectives=None, **options):
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    extra = {} if objectives is None else {"objectives": objectives}
    of = TransferArguments if issubclass(cls, TransferTrainer) else TrainingArguments
    trainer = cls(model, arguments(folder, of=of, **options), train_dataset=data, **extra)
    trainer.train()
    return trainer


def state(trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.model.state_dict().items() if "transfer_objectives" not in name}


def distance(first, second) -> float:
    return max((state(first)[name] - state(second)[name]).abs().max().item() for name in state(first))


def test_transfer_trainer_honours_it_without_any_objective(tmp_path):
    weight = [0.0 if row % 3 else 3.0 for row in range(16)]  # class 0 alone counts
    plain, ones = trained(tmp_path, table()), trained(tmp_path, table(weight=[1.0] * 16))
    weighted = trained(tmp_path, table(weight=weight), learning_rate=0.05, max_steps=20)
    assert plain.attachment is None and ones.attachment is not None
    assert distance(plain, ones) < 1e-6
    rows = torch.tensor(table()["input_ids"][:])
    assert (weighted.model.eval()(input_ids=rows).logits.argmax(-1) == 0).all()
    assert "loss_task" in weighted.state.log_history[0]
    assert weighted.evaluate(table(weight=weight))["eval_loss"] == pytest.approx(
        weighted.evaluate(table())["eval_loss"]
    )


def test_weight_zero_rows_are_never_learned_with_accumulation_and_mixing(tmp_path):
    """A mixed set: the targets' rows get 1.0; the gradient does not depend on rows of weight 0."""
    weight = [2.0, 0.0] * 8
    first = table(weight=weight)
    other = first.map(lambda row, index: {"labels": 2 - row["labels"]} if index % 2 else {}, with_indices=True)
    target = table(8, seed=1)
    options = {"objectives": [DomainAdversarial(weight=0.1)], "gradient_accumulation_steps": 2}
    runs = [trained(tmp_path, mix_domains(data, target), **options) for data in (first, other)]
    assert distance(*runs) == 0
    unweighted = trained(tmp_path, mix_domains(first.remove_columns("sample_weight"), target), **options)
    assert distance(runs[0], unweighted) > 1e-4


def test_stock_trainer_with_an_attached_model(tmp_path):
    class Attached(Trainer):
        def __init__(self, model, *args, **kwargs):
            attach(model, [])
            super().__init__(model, *args, **kwargs)

    data = table(weight=[0.25, 1.75] * 8)
    stock = trained(tmp_path, data, Attached, remove_unused_columns=False)
    assert distance(stock, trained(tmp_path, data)) < 1e-6
    dropped = trained(tmp_path, data, Attached)  # the column does not reach the model: the user's matter
    assert distance(dropped, stock) > 1e-4


class Items(torch.utils.data.Dataset):
    def __init__(self, data: Dataset):
        self.rows = data.to_list()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def test_who_has_the_column():
    data = table(weight=[1.0] * 16)
    stream = data.to_iterable_dataset()
    for weighted in (data, stream, stream.map(lambda row: row), Items(data), mix_domains(Items(table()), Items(data))):
        assert has_sample_weight(weighted)
    for plain in (table(), table().to_iterable_dataset().map(lambda row: row), Items(table()), None, [], object()):
        assert not has_sample_weight(plain)


def test_torch_data_sets_and_streams(tmp_path):
    data = table(weight=[0.25, 1.75] * 8)
    expected = trained(tmp_path, data)
    assert distance(trained(tmp_path, Items(data)), expected) == 0
    stream = trained(tmp_path, data.to_iterable_dataset().map(lambda row: row))
    assert stream.attachment is not None and distance(stream, trained(tmp_path, table())) > 1e-4


def test_features_computed_once_keep_the_weights(tmp_path):
    def run(data):
        torch.manual_seed(0)
        trainer = FeatureExtractionTrainer(
            tiny_bert(),
            arguments(tmp_path, max_steps=20, learning_rate=0.1),
            train_dataset=data,
            extraction={"cache_dir": tmp_path / "cache", "progress": False},
        )
        trainer.train()
        return trainer

    one_class = run(table(weight=[0.0 if row % 3 else 3.0 for row in range(16)]))
    rows = torch.tensor(table()["input_ids"][:])
    assert (one_class.model.eval()(input_ids=rows).logits.argmax(-1) == 0).all()


def test_what_acts_outside_the_model_is_refused(tmp_path):
    data = table(weight=[1.0] * 16)
    with pytest.raises(ValueError, match="`label_smoothing_factor=0.1` with a column `sample_weight`.*Leave it at 0"):
        TransferTrainer(tiny_bert(), arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=data)
    with pytest.raises(ValueError, match="`compute_loss_func` with a column `sample_weight`.*as an `Objective`"):
        TransferTrainer(tiny_bert(), arguments(tmp_path), train_dataset=data, compute_loss_func=lambda *_: 0)
