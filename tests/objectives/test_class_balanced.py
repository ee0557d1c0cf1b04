"""Class-balanced weights: what is counted, what it does to the loss, and that the counts outlive the process."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_transfer import ModelSpec, TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.objective import adjusted_task_loss
from hf_transfer.objectives.task.class_balanced import ClassBalanced
from hf_transfer.objectives.task.focal_loss import FocalLoss
from hf_transfer.objectives.task.label_smoothing import LabelSmoothing
from tests.invariants.run import rows
from tests.models import NUM_LABELS, batch_for, lora, tiny_bert, tiny_token_bert, tiny_vit


def built(num_labels=3, **options) -> ClassBalanced:
    return ClassBalanced(**options).build(ModelSpec(feature_dim=4, num_labels=num_labels))


def weights_of(counts, beta=0.999) -> list[float]:
    inverse = [1 / sum(beta**k for k in range(n)) if n else None for n in counts]
    present = [w for w in inverse if w is not None]
    return [1.0 if w is None else w * len(present) / sum(present) for w in inverse]


def batch(labels, num_labels=3) -> TransferBatch:
    labels = torch.tensor(labels)
    generator = torch.Generator().manual_seed(5)
    shape = labels.shape if labels.is_floating_point() else (*labels.shape, num_labels)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    return TransferBatch(features=torch.zeros(len(labels), 4), logits=logits, labels=labels)


@pytest.mark.parametrize("labels", [[0, 2, 1, 2], [0, -100, 1, -100], [[0, 2, -100], [1, 1, -100]]])
def test_value_against_the_formula(labels):
    objective, data = built(counts=[3, 40, 500]), batch(labels)
    weights = weights_of([3, 40, 500])
    log_p = data.logits.log_softmax(-1).flatten(0, -2)
    known = [(n, y) for n, y in enumerate(data.labels.flatten().tolist()) if y != -100]
    expected = -sum(weights[y] * log_p[n, y].item() for n, y in known) / len(known)
    assert objective(data).item() == pytest.approx(expected, rel=1e-5)


def test_is_the_weighted_cross_entropy_of_torch_but_for_the_divisor():
    objective, data = built(counts=[3, 40, 500]), batch([0, 2, 1, 2])
    weights = torch.tensor(weights_of([3, 40, 500]), dtype=torch.float64)
    reference = F.cross_entropy(data.logits, data.labels, weight=weights, reduction="sum") / 4
    torch.testing.assert_close(objective(data), reference, rtol=1e-5, atol=0)


def test_equal_counts_change_nothing():
    data = batch([0, 2, 1, 2])
    torch.testing.assert_close(built(counts=[9, 9, 9])(data), F.cross_entropy(data.logits, data.labels))


def test_the_rare_class_pulls_harder():
    objective, data = built(counts=[3, 40, 500]), batch([0, 1, 2])
    even = TransferBatch(data.features, torch.zeros(3, 3, requires_grad=True), data.labels)
    objective(even).backward()
    pulls = [-even.logits.grad[n, n].item() for n in range(3)]
    assert pulls[0] > pulls[1] > pulls[2] > 0


def test_fit_counts_rows_and_leaves_unlabelled_ones_out():
    objective = built()
    objective.fit(torch.nn.Identity(), [{"labels": torch.tensor([0, 2, -100])}, {"labels": torch.tensor([2, 2])}])
    assert objective.rows_by_class[:, 1].tolist() == [1, 0, 3]
    assert objective(batch([0, 2])).isfinite()


def test_fit_counts_tokens():
    objective = built()
    objective.fit(torch.nn.Identity(), [{"labels": torch.tensor([[0, 2, -100], [2, 2, 1]])}])
    assert objective.rows_by_class[:, 1].tolist() == [1, 1, 3]


def test_fit_twice_counts_anew():
    objective, data = built(), [{"labels": torch.tensor([0, 2])}]
    objective.fit(torch.nn.Identity(), data)
    objective.fit(torch.nn.Identity(), data)
    assert objective.rows_by_class[:, 1].tolist() == [1, 0, 1]


def test_several_labels_a_row_balance_no_and_yes_of_each():
    objective = built(2, beta=0.9)
    labels = torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 1], [0, -100]])
    objective.fit(torch.nn.Identity(), [{"labels": labels[:2]}, {"labels": labels[2:]}])
    assert objective.rows_by_class.tolist() == [[4, 1], [2, 2]]
    data = batch(labels.tolist(), 2)
    table = [weights_of([4, 1], 0.9), weights_of([2, 2], 0.9)]
    total, count = 0.0, 0
    for n in range(5):
        for c in range(2):
            y = labels[n, c].item()
            if y != -100:
                p = data.logits[n, c].sigmoid()
                total -= table[c][int(y)] * (p if y else 1 - p).log().item()
                count += 1
    assert objective(data).item() == pytest.approx(total / count, rel=1e-5)


def test_smoothed_targets_of_a_class_without_rows_count_as_one():
    objective, data = built(counts=[5, 0, 5]), batch([0, 2])
    value = adjusted_task_loss([objective, LabelSmoothing(smoothing=0.3)], data)
    reference = F.cross_entropy(data.logits, data.labels, label_smoothing=0.3)
    torch.testing.assert_close(value, reference)


def test_the_order_of_task_terms_does_not_matter():
    terms = [built(counts=[3, 40, 500]), LabelSmoothing(), FocalLoss()]
    data = batch([0, 2, 1])
    torch.testing.assert_close(adjusted_task_loss(terms, data), adjusted_task_loss(terms[::-1], data))


def test_the_trainer_fits_and_a_resumed_run_is_the_straight_one(tmp_path):
    def trainer(folder):
        torch.manual_seed(0)
        args = TransferArguments(
            output_dir=str(folder), max_steps=6, save_steps=3, save_strategy="steps", per_device_train_batch_size=4,
            learning_rate=1e-2, report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True,
        )  # fmt: skip
        return TransferTrainer(tiny_bert(), args, objectives=[ClassBalanced()], train_dataset=rows(16, 0, True, False))

    straight = trainer(tmp_path)
    straight.train()
    expected = torch.bincount(torch.tensor(rows(16, 0, True, False)["labels"]), minlength=NUM_LABELS)
    assert torch.equal(straight.objectives["class_balanced"].rows_by_class[:, 1], expected)
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for (key, first), second in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(first, second), key


def test_counts_are_in_the_state():
    objective, fresh = built(counts=[3, 40, 500]), built()
    fresh.load_state_dict(objective.state_dict())
    data = batch([0, 2, 1])
    assert torch.equal(fresh(data), objective(data))


def test_given_counts_read_no_data():
    objective = built(counts=[1, 2, 3])
    assert not objective.learns_from_data and ClassBalanced.learns_from_data
    objective.fit(torch.nn.Identity(), iter(()))
    assert objective.rows_by_class[:, 1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert, tiny_vit])
def test_under_lora(make):
    targets = ["q_proj", "v_proj"] if make is tiny_vit else ["query", "value"]
    model = lora(make(), targets, "classifier").train()
    attachment = attach(model, [objective := ClassBalanced()])
    objective.fit(model, [batch_for(model)])
    model(**batch_for(model)).loss.backward()
    assert attachment.terms["task"] > 0


def test_no_labelled_row_is_an_exact_zero_with_a_graph():
    data = batch([-100, -100])
    value = built(counts=[1, 2, 3])(data)
    value.backward()
    assert value.item() == 0 and not data.logits.grad.any()


def test_unfitted_is_an_error_at_the_first_batch():
    model = tiny_bert().train()
    attach(model, [ClassBalanced()])
    with pytest.raises(RuntimeError, match=r"has not counted the classes.*TransferTrainer.*`fit\(model, batches\)`"):
        model(**batch_for(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, r"`beta=1.0` is outside \[0, 1\).*default 0.999"),
        ({"beta": -0.5}, r"`beta=-0.5` is outside \[0, 1\)"),
        ({"counts": [3, -1, 2]}, r"`counts=\[3, -1, 2\]` cannot be numbers of rows.*number of rows of each class"),
        ({"counts": [0, 0, 0]}, r"cannot be numbers of rows"),
        ({"counts": [1, 2]}, "`counts` has 2 numbers for a model of 3 classes.*one number for each class"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_counts_for_several_labels_a_row_are_refused():
    message = "`counts` for several labels a row.*Leave `counts` out"
    with pytest.raises(ValueError, match=message):
        attach(tiny_bert(problem_type="multi_label_classification"), [ClassBalanced(counts=[1, 2, 3])])
    with pytest.raises(ValueError, match=message):
        built(counts=[1, 2, 3])(batch([[1.0, 0, 0]]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-100, -100], "finds no label in the training data.*column `labels`"),
        ([0, 3], "values from 0 to 3, and the model has 3 classes.*`num_labels`"),
        ([-1, 0], "values from -1 to 0"),
    ],
)
def test_fit_refuses(labels, message):
    with pytest.raises(ValueError, match=message):
        built().fit(torch.nn.Identity(), [{"labels": torch.tensor(labels)}])


def test_a_column_of_the_data_set_is_enough():
    data = Dataset.from_dict({"labels": [0, 0, 1]}).with_format("torch")
    objective = built()
    objective.fit(torch.nn.Identity(), [data[:2], data[2:]])
    assert objective.rows_by_class[:, 1].tolist() == [2, 1, 0]
