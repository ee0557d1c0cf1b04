"""Several tasks on one backbone: the term, absent tasks, every kind of model, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_transfer import ModelSpec, MultiTask, Task, TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.objectives.multitask.surgery import GradientSurgery
from hf_transfer.objectives.multitask.weightings import WEIGHTINGS, GradientNormalization
from tests.models import batch_for, lora, tiny_bert, tiny_llama, tiny_resnet, tiny_token_bert, tiny_vit
from tests.objectives.task_rows import EVERY, STARS, TAGS, TOPIC, WORDS, built, features_batch, task_batch


ROWS = (TOPIC, STARS, TAGS)
WORD_TASKS = (WORDS, Task("chunks", "tokens", num_labels=3))


def naive(objective, batch: TransferBatch) -> dict[str, float]:
    """The loss of each task by loops over its labelled rows."""
    found = {}
    for task in objective.tasks:
        head = objective.heads[task.name]
        total, count = 0.0, 0
        for features, labels in zip(batch.features, batch.columns[task.column], strict=True):
            scores = (head.weight @ features + head.bias).tolist()
            for score, label in zip(scores, labels.reshape(-1).tolist(), strict=False):
                if label == -100:
                    continue
                if task.kind == "classification":
                    total += math.log(sum(math.exp(x) for x in scores)) - scores[label]
                elif task.kind == "regression":
                    total += (score - label) ** 2
                else:
                    total += math.log(1 + math.exp(score)) - label * score
                count += 1
        found[task.name] = total / max(count, 1)
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_the_term_is_the_weighted_sum_of_the_losses(shared):
    tasks = [replace(TOPIC, weight=2.0), STARS, replace(TAGS, weight=0.25)]
    objective, batch = built(tasks), features_batch(tasks, shared=shared)
    losses = naive(objective, batch)
    expected = sum(task.weight * losses[task.name] for task in tasks)
    assert objective(batch).item() == pytest.approx(expected, rel=1e-6)
    for name, loss in losses.items():
        assert objective.diagnostics[f"loss_{name}"].item() == pytest.approx(loss, rel=1e-6)
        assert objective.diagnostics[f"weight_{name}"] == 1


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_an_absent_task_adds_an_exact_zero(weighting):
    objective, batch = built(ROWS, weighting=weighting), features_batch(ROWS)
    objective(batch)
    objective.begin_step()
    before = {name: value.clone() for name, value in objective.diagnostics.items()}
    weights = objective.weigher.weights.clone()
    absent = replace(batch, columns={**batch.columns, "labels_stars": torch.full((8,), -100.0)})
    term = objective(absent)
    term.backward()
    losses = naive(objective, absent)
    expected = weights[0] * losses["topic"] + weights[2] * losses["tags"]
    assert term.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(objective.weigher.weights, weights)
    for parameter in objective.heads["stars"].parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    # what is logged of it is what it last was
    assert objective.diagnostics["loss_stars"] == before["loss_stars"] > 0


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_no_label_at_all_is_an_exact_zero_with_a_graph(weighting):
    objective, batch = built(ROWS, weighting=weighting), features_batch(ROWS)
    nothing = replace(batch, columns={name: torch.full_like(x, -100) for name, x in batch.columns.items()})
    for _ in range(2):
        term = objective(nothing)
        objective.begin_step()
    assert term.item() == 0
    term.backward()
    assert batch.features.grad is not None and not batch.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())
    assert objective.weigher.weights.tolist() == pytest.approx([1] * 3) or weighting in ("random", "uncertainty")


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_random_degenerate_batches(weighting):
    generator = torch.Generator().manual_seed(0)
    objective = built(ROWS, weighting=weighting).float()
    for number in range(1000 // len(WEIGHTINGS) + 1):  # about 1000 in all
        rows = 1 + number % 3
        scale = [0.0, 1e-8, 1.0, 1e4][number % 4]
        features = (scale * torch.randn(rows, 4, generator=generator)).requires_grad_()
        labels = {
            "labels_topic": torch.randint(0, 4, (rows,), generator=generator),
            "labels_stars": scale * torch.randn(rows, generator=generator),
            "labels_tags": torch.randint(0, 2, (rows, 3), generator=generator).float(),
        }
        for column in labels.values():
            column[torch.rand(rows, generator=generator) < 0.6] = -100
        objective.begin_step()
        term = objective(TransferBatch(features=features, columns=labels))
        (gradient,) = torch.autograd.grad(term, features)
        assert term.isfinite() and gradient.isfinite().all(), number
        assert objective.weigher.weights.isfinite().all(), number
        if weighting != "uncertainty":  # whose weights are those of the paper
            assert objective.weigher.weights.sum().item() == pytest.approx(3, rel=1e-3), number


MODELS = {
    "bert": (tiny_bert, EVERY),
    "vit": (tiny_vit, ROWS),
    "resnet": (tiny_resnet, ROWS),
    "llama": (tiny_llama, ROWS),
    "tokens": (tiny_token_bert, WORD_TASKS),
    "lora": (lambda: lora(tiny_bert(), ["query"], "classifier"), EVERY),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("weighting", ["equal", "uncertainty", "gradnorm"])
def test_in_models(kind, weighting):
    make, tasks = MODELS[kind]
    model = make().train()
    with attach(model, [MultiTask(tasks, weighting=weighting)]) as attachment:
        objective = attachment.objectives["multi_task"]
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for step in range(3):
            attachment.progress = step / 3
            loss = model(**task_batch(model, tasks, 8, seed=step)).loss
            loss.backward()
            optimizer.step()
        assert loss > 0 and attachment.terms["task"] == 0
        assert all(parameter.grad is not None for parameter in objective.parameters())
        if weighting != "uncertainty":
            assert objective.weigher.weights.sum().item() == pytest.approx(len(tasks), rel=1e-5)
        names, _ = attachment.drain()
        assert {f"multi_task_loss_{task.name}" for task in tasks} <= {*names}


def test_in_bfloat16_and_under_autocast():
    model = tiny_bert().train().bfloat16()
    with attach(model, [MultiTask(EVERY, weighting="gradnorm")]) as attachment:
        attachment.objectives.float()
        model(**task_batch(model, EVERY)).loss.backward()
        assert attachment.terms["multi_task"].dtype == torch.float32
    model = tiny_bert().train()
    with attach(model, [MultiTask(EVERY, weighting="gradnorm")]) as attachment:
        with torch.autocast("cpu", torch.bfloat16):
            model(**task_batch(model, EVERY)).loss.backward()
        assert attachment.terms["multi_task"].isfinite()


def test_tasks_of_tokens_beside_tasks_of_rows_read_the_states():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    with attach(model, [MultiTask([TOPIC, WORDS])]) as attachment:
        batch = task_batch(model, [TOPIC, WORDS], shared=True)
        model(**batch)
        objective = attachment.objectives["multi_task"]
        states = model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        expected = F.cross_entropy(objective.heads["words"](states).flatten(0, 1), batch["labels_words"].flatten())
        torch.testing.assert_close(objective.diagnostics["loss_words"], expected.detach())


def test_unweighted_is_the_sum_of_single_tasks():
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    batch, total = task_batch(model, ROWS), 0.0
    with attach(model, [MultiTask(ROWS)]) as attachment:
        heads = attachment.objectives["multi_task"].heads.state_dict()
        together = model(**batch).loss
    for task in ROWS:
        with attach(model, [MultiTask([task])]) as attachment:
            own = {key: value for key, value in heads.items() if key.startswith(f"{task.name}.")}
            attachment.objectives["multi_task"].heads.load_state_dict(own)
            total = total + model(**batch).loss
    torch.testing.assert_close(together, total)


def test_what_it_was_given_is_its_configuration():
    weighting, surgery = GradientNormalization(alpha=0.5), GradientSurgery("pcgrad")
    objective = MultiTask(ROWS, weighting=weighting, surgery=surgery, sampling="sqrt", temperature=2.0)
    assert objective.weighting is weighting and objective.surgery is surgery
    assert MultiTask(ROWS, weighting="famo", surgery="nash").config() == {
        "tasks": ROWS,
        "weighting": "famo",
        "surgery": "nash",
        "sampling": "proportional",
        "temperature": 5.0,
        "weight": 1.0,
    }
    keys = built(ROWS, weighting=weighting).state_dict()
    assert len({value.data_ptr() for value in keys.values()}) == len(keys)  # a checkpoint holds nothing twice


def test_surgery_is_given_the_inputs_and_the_weighted_losses():
    seen = {}

    class Recording(GradientSurgery):
        def branch(self, inputs):
            seen["inputs"] = [tensor.clone() for tensor in inputs]
            return [2 * tensor for tensor in inputs]

        def total(self, losses, batch):
            seen["losses"] = losses
            return losses.sum() + 1

        def begin_step(self):
            seen["begun"] = True

    tasks = [replace(TOPIC, weight=3.0), STARS]
    objective, batch = built(tasks, surgery=Recording("pcgrad")), features_batch(tasks)
    objective.begin_step()
    term = objective(batch)
    doubled = naive(objective, replace(batch, features=2 * batch.features))
    assert seen["begun"] and len(seen["inputs"]) == 2
    assert seen["losses"].tolist() == pytest.approx([3 * doubled["topic"], doubled["stars"]], rel=1e-6)
    assert term.item() == pytest.approx(1 + 3 * doubled["topic"] + doubled["stars"], rel=1e-6)
    assert "conflict" in objective.diagnostics


@pytest.mark.parametrize("on", ["parameters", "representation"])
def test_surgery_of_agreeing_tasks_is_their_sum(on):
    """Two tasks with the same labels and heads: nothing conflicts."""
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    tasks = [Task("one", num_labels=3), Task("two", num_labels=3)]
    labels = batch_for(model, 6)["labels"]
    batch = {**batch_for(model, 6, labelled=False), "labels_one": labels, "labels_two": labels}
    gradients, heads = [], None
    for surgery in (None, GradientSurgery("pcgrad", on=on)):
        with attach(model, [MultiTask(tasks, surgery=surgery)]) as attachment:
            own = attachment.objectives["multi_task"].heads
            heads = own["one"].state_dict() if heads is None else heads
            own["one"].load_state_dict(heads)
            own["two"].load_state_dict(heads)
            attachment.progress = 0.0
            model(**batch).loss.backward()
        gradients.append([p.grad.clone() for p in model.bert.parameters() if p.grad is not None])
        model.zero_grad()
    for plain, combined in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, combined, rtol=1e-4, atol=1e-6)


# Dynamo (torch 2.13) looks at `.grad` of what it resumes with behind a break of the graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("weighting", "whole"), [("famo", True), ("uncertainty", True), ("gradnorm", False)])
def test_compiled_is_eager(weighting, whole):
    objective, batch = built(ROWS, weighting=weighting), features_batch(ROWS)

    def term(features, columns):
        return objective(TransferBatch(features=features, columns=columns))

    state, found = {key: value.clone() for key, value in objective.state_dict().items()}, []
    for run in (term, torch.compile(term, backend="eager", fullgraph=whole)):
        objective.load_state_dict(state)
        for _ in range(3):
            objective.begin_step()
            value = run(batch.features, dict(batch.columns))
            (gradient,) = torch.autograd.grad(value, batch.features)
        found.append([value.detach(), gradient, objective.weigher.weights.clone()])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(eager, compiled)
    assert not torch.equal(found[0][-1], torch.ones(3, dtype=torch.float64))


def dataset(rows: int = 24) -> Dataset:
    model = tiny_bert()
    batch = task_batch(model, [TOPIC, STARS], rows)
    batch.pop("domain")
    batch["task"] = torch.arange(rows) % 2
    return Dataset.from_dict({name: column.tolist() for name, column in batch.items()})


def trainer_for(folder, **options) -> TransferTrainer:
    torch.manual_seed(0)
    defaults = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "logging_steps": 1, "learning_rate": 1e-3}
    args = TransferArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **defaults,
    )
    return TransferTrainer(
        tiny_bert(), args, train_dataset=dataset(), objectives=[MultiTask([TOPIC, STARS], **options)]
    )


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm", "random"])
def test_resumed_is_straight_bit_for_bit(weighting, tmp_path):
    straight = trainer_for(tmp_path / "straight", weighting=weighting)
    straight.train()
    resumed = trainer_for(tmp_path / "resumed", weighting=weighting)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    first, second = straight.model.state_dict(), resumed.model.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    logged = straight.state.log_history[0]
    assert logged["multi_task_loss_topic"] > 0 and logged["loss_task"] == 0 and "multi_task_weight_stars" in logged
    order = list(straight._get_train_sampler())
    assert {*(number % 2 for number in order[:4])} == {0, 1}  # both tasks in a batch


def test_log_variances_have_no_weight_decay(tmp_path):
    trainer = trainer_for(tmp_path, weighting="uncertainty")
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert not any("log_variance" in name for name in decayed) and any("heads.topic.weight" in n for n in decayed)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weighting": "best"}, ValueError, "`weighting='best'` names no weighting.*Give one of equal, uncertainty"),
        ({"weighting": [1.0, 2.0]}, TypeError, "is no `TaskWeighting`.*`weight` of each `Task`"),
        ({"sampling": "fair"}, ValueError, "`fair` is no way to mix tasks.*proportional"),
        ({"sampling": "temperature", "temperature": 0.5}, ValueError, "temperature=0.5 is less than 1"),
        ({"surgery": "amputation"}, ValueError, "amputation.*pcgrad"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        MultiTask(ROWS, **options)


def test_refuses_no_tasks_and_two_of_a_name():
    with pytest.raises(ValueError, match="there is no task"):
        MultiTask([])
    with pytest.raises(ValueError, match="two tasks are called `topic`"):
        MultiTask([TOPIC, TOPIC])


def test_a_batch_without_the_column_of_a_task_is_refused():
    objective, batch = built(ROWS), features_batch([TOPIC, STARS])
    with pytest.raises(ValueError, match="needs column `labels_tags`.*has labels_stars, labels_topic.*`mix_tasks"):
        objective(batch)


def test_data_are_refused_before_the_first_step(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.train_dataset = trainer.train_dataset.remove_columns("labels_stars")
    with pytest.raises(ValueError, match="needs column `labels_stars` for task `stars`"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_sample_weights_count_in_every_task():
    objective = MultiTask([Task("topic", num_labels=4), Task("stars", "regression")])
    objective.build(ModelSpec(feature_dim=2, num_labels=2))
    columns = {
        "labels_topic": torch.tensor([3, 1, -100]),
        "labels_stars": torch.tensor([2.0, -100.0, 4.0]),
        "sample_weight": torch.tensor([0.5, 2.0, 0.0]),
    }
    term = objective(TransferBatch(features=torch.zeros(3, 2), columns=columns))
    assert term.item() == pytest.approx((0.5 + 2.0) * math.log(4) / 2 + (0.5 * 2**2 + 0.0) / 2)
