from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState

from hf_transfer.attach import attach
from hf_transfer.callbacks.domain_health import PREFIX, DomainHealth
from hf_transfer.data import mix_domains
from hf_transfer.objectives import DomainAdversarial
from hf_transfer.trainer import TransferTrainer
from tests.callbacks.harness import arguments, copy_of, seeded
from tests.launching import launch
from tests.models import batch_for, tiny_bert, tiny_vit


def reviews(rows=32, seed=0, low=1):
    """Text of tokens from `low` on, whose label the first token tells; two domains that share no word differ."""
    ids = np.random.default_rng(seed).integers(low, low + 12, (rows, 6))
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 3).tolist()})


SOURCE, TARGET = reviews(), reviews(seed=1, low=20)


def health(**options):
    return DomainHealth(SOURCE, TARGET, **{"rows": 32, "permutations": 19, **options})


def stock(folder, callback, model=None, data=SOURCE, **options):
    model = seeded() if model is None else model
    defaults = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-3}
    return Trainer(
        model,
        arguments(folder, **{**defaults, **options}),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[callback],
    )


def adapting(folder, callback, objective, **options):
    defaults = {"max_steps": 10, "eval_strategy": "steps", "eval_steps": 5, "logging_steps": 1, "learning_rate": 1e-3}
    return TransferTrainer(
        seeded(initializer_range=0.3),  # features large enough that a discriminator learns in a few steps
        arguments(folder, **{**defaults, **options}),
        objectives=[objective],
        train_dataset=mix_domains(SOURCE, TARGET),
        eval_dataset=SOURCE,
        callbacks=[callback],
    )


def test_a_stock_trainer_logs_the_signs_and_returns_them(tmp_path):
    callback = health()
    trainer = stock(tmp_path, callback)
    trainer.train()
    logs = [log for log in trainer.state.log_history if f"{PREFIX}mmd" in log]
    assert [log["step"] for log in logs] == [2, 4]
    names = {name.removeprefix(PREFIX) for name in logs[0] if name.startswith(PREFIX)}
    assert names == {
        "proxy_a_distance",
        "mmd",
        "mmd_p_value",
        "source_entropy",
        "target_entropy",
        "source_largest_share",
        "target_largest_share",
        "target_largest_class",
        "source_accuracy",
    }
    assert 1.0 < logs[-1][f"{PREFIX}proxy_a_distance"] <= 2.0  # the domains share no word
    assert callback.histogram.sum() == 32
    assert 0 < logs[0][f"{PREFIX}target_entropy"] <= math.log(3)
    metrics = trainer.evaluate()
    assert metrics[f"{PREFIX}proxy_a_distance"] == callback.history[-1]["proxy_a_distance"]
    # what an evaluation of all source rows finds
    predicted = trainer.predict(SOURCE)
    accuracy = (predicted.predictions.argmax(-1) == predicted.label_ids).mean()
    assert metrics[f"{PREFIX}source_accuracy"] == pytest.approx(accuracy)
    json.dumps(trainer.state.log_history)


def test_a_healthy_run_warns_of_nothing_and_trains_as_without(tmp_path):
    callback = health()
    with_it = stock(tmp_path, callback, max_steps=6)
    with_it.train()
    assert callback.warnings == {}
    without = stock(tmp_path, TrainerCallback(), max_steps=6)
    without.train()
    for name, value in copy_of(without.model).items():
        torch.testing.assert_close(copy_of(with_it.model)[name], value, rtol=0, atol=0)


def test_it_can_choose_the_best_model(tmp_path):
    trainer = stock(
        tmp_path,
        health(),
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="domain_proxy_a_distance",
        greater_is_better=False,
    )
    trainer.train()
    measured = [log[f"{PREFIX}proxy_a_distance"] for log in trainer.state.log_history if f"{PREFIX}mmd" in log]
    assert trainer.state.best_metric == min(measured)


def test_it_measures_once_for_several_evaluation_sets(tmp_path):
    callback = health()
    trainer = stock(tmp_path, callback, max_steps=2)
    trainer.eval_dataset = {"source": SOURCE, "target": TARGET}
    trainer.train()
    assert len(callback.history) == 1
    metrics = trainer.evaluate()  # asked again at the same step
    assert len(callback.history) == 2 and f"{PREFIX}mmd" in metrics


def test_every_epoch_and_the_trainers_log(tmp_path):
    callback = health(every="epoch")
    trainer = stock(tmp_path, callback, max_steps=-1, num_train_epochs=2, eval_strategy="no")
    told = []
    callback.log = lambda values: (told.append(dict(values)), trainer.log(values))
    trainer.train()
    assert len(told) == 2 and told[0][f"{PREFIX}mmd"] == callback.history[0]["mmd"]
    assert sum(f"{PREFIX}mmd" in log for log in trainer.state.log_history) == 2


def test_target_labels_are_never_read():
    class Watched(torch.utils.data.Dataset):
        asked: list[str] = []

        def __len__(self):
            return 8

        def __getitem__(self, index):
            class Row(dict):
                def __getitem__(row, name):
                    Watched.asked.append(name)
                    return super().__getitem__(name)

            return Row(input_ids=torch.arange(1, 5), labels=torch.tensor(1))

    callback = DomainHealth(SOURCE, Watched(), permutations=3)
    source, target = callback._read(arguments(Path("unused")), seeded(), {})
    assert (target.labels == -100).all() and (source.labels >= 0).all()
    assert "labels" not in Watched.asked
    assert "labels" not in DomainHealth(SOURCE, TARGET).target.column_names


def test_distances_alone_for_a_regression(tmp_path):
    rows = reviews().map(lambda row: {"labels": float(row["labels"])})
    model = seeded(num_labels=1, problem_type="regression")
    callback = DomainHealth(rows, TARGET, permutations=3)
    stock(tmp_path, callback, model, rows, max_steps=2).train()
    assert set(callback.history[0]) == {"proxy_a_distance", "mmd", "mmd_p_value"}


def test_images_under_bf16(tmp_path):
    model = tiny_vit()
    batch = batch_for(model, 16)
    rows = [{"pixel_values": batch["pixel_values"][n], "labels": batch["labels"][n]} for n in range(16)]
    brighter = [{"pixel_values": row["pixel_values"] + 3.0} for row in rows]
    callback = DomainHealth(rows, brighter, permutations=19)
    stock(tmp_path, callback, model, rows, max_steps=2, bf16=True).train()
    assert callback.history[0]["proxy_a_distance"] > 1.0 and callback.history[0]["mmd_p_value"] == 0.05


def test_collapse_to_one_class_and_of_the_entropy_is_told_once(tmp_path):
    """A head that answers one class with certainty where the words are the target's."""
    model = seeded()
    far = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: far.append((kwargs["input_ids"] >= 20).all(1, keepdim=True)), with_kwargs=True
    )
    model.classifier.register_forward_hook(
        lambda module, args, output: torch.where(far[-1], torch.tensor([90.0, 0.0, 0.0]), output)
    )
    with torch.no_grad():  # several classes of the source
        model.classifier.weight.mul_(200)
    callback = health()
    trainer = stock(tmp_path, callback, model, max_steps=4, learning_rate=0.0)
    trainer.train()
    assert callback.history[-1]["target_largest_share"] == 1.0
    assert callback.history[-1]["source_largest_share"] < 0.95
    assert {"one_class", "entropy_collapse"} <= set(callback.warnings) <= {"one_class", "entropy_collapse"}


def test_negative_transfer_is_told(tmp_path):
    model = seeded()
    trainer = stock(tmp_path, health(), model, max_steps=40, eval_steps=20, learning_rate=2e-2)
    callback = trainer.callback_handler.callbacks[-2]
    assert isinstance(callback, DomainHealth)
    trainer.train()
    assert callback.history[0]["source_accuracy"] > 0.8 and "negative_transfer" not in callback.warnings
    with torch.no_grad():
        model.classifier.weight.mul_(-1.0)
    trainer.evaluate()
    assert "negative_transfer" in callback.warnings
    assert "a run on the source alone" in callback.warnings["negative_transfer"]


def test_a_constant_discriminator_is_told(tmp_path):
    """The planted defect of a library: a discriminator that always answers the same."""

    class Constant(DomainAdversarial):
        def build(self, spec):
            super().build(spec)
            self.discriminator.append(nn.LayerNorm(2)).append(nn.Linear(2, 2))
            nn.init.zeros_(self.discriminator[-1].weight)
            self.discriminator[-1].weight.requires_grad_(False)
            return self

        @property
        def name(self):
            return "constant"

    callback = health()
    adapting(tmp_path, callback, Constant(hidden_size=4)).train()
    assert "constant_at_chance" in callback.warnings
    assert "Raise `objective_lr`" in callback.warnings["constant_at_chance"]


@pytest.mark.parametrize(
    ("accuracy", "told"), [(1.0, {"planted_always_right"}), (0.8, set()), (0.5, {"planted_at_chance"})]
)
def test_the_accuracy_that_a_discriminator_logs_is_judged(accuracy, told, tmp_path):
    class Planted(DomainAdversarial):
        def forward(self, batch):
            term = super().forward(batch)
            self.diagnostics = {"accuracy": torch.tensor(accuracy)}
            return term

    callback = health()
    adapting(tmp_path, callback, Planted(hidden_size=4), max_steps=8, eval_steps=4).train()
    assert {kind for kind in callback.warnings if kind.startswith("planted")} == told


def test_numbers_that_are_not_finite_are_told(tmp_path):
    model = seeded()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[25] = float("nan")  # a word of the target only
    callback = health()
    trainer = stock(tmp_path, callback, model, max_steps=2)
    trainer.train()
    assert set(callback.warnings) == {"not_finite"} and "`target features`" in callback.warnings["not_finite"]
    assert callback.history == []
    fresh = health()
    fresh.on_log(trainer.args, trainer.state, trainer.control, logs={"grad_norm": float("inf")}, model=model)
    assert "`grad_norm`" in fresh.warnings["not_finite"]


def test_a_resumed_run_compares_with_what_came_before(tmp_path):
    """The first evaluation is that of the run, not of the process."""
    callback = health()
    trainer = stock(tmp_path, callback, max_steps=2)
    before = {f"{PREFIX}source_accuracy": 1.0, f"{PREFIX}proxy_a_distance": 0.5, "step": 1}
    before.update({f"{PREFIX}{name}": 0.5 for name in ("target_entropy", "source_entropy", "source_largest_share")})
    trainer.state = TrainerState(log_history=[before], global_step=2, max_steps=4)
    trainer.evaluate()
    assert "negative_transfer" in callback.warnings


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'every="step" is unknown.*"epoch"'):
        health(every="step")
    with pytest.raises(ValueError, match=r"rows=4, .*at least 8 rows"):
        health(rows=4)
    with pytest.raises(ValueError, match=r"The target has 7 rows.*Give more rows"):
        DomainHealth(SOURCE, SOURCE.select(range(7)))
    with pytest.raises(ValueError, match=r"The source is a IterableDataset.*Dataset.from_list"):
        DomainHealth(SOURCE.to_iterable_dataset(), TARGET)
    with pytest.raises(ValueError, match="head"):
        stock(tmp_path, health(head="nothing"))
    with pytest.raises(ValueError, match="DomainHealth under DeepSpeed"):
        args = arguments(tmp_path)
        args.deepspeed = "config.json"
        health().on_init_end(args, TrainerState(), None, model=tiny_bert())
    assert repr(health()) == "DomainHealth(every='eval', rows=32)"


def test_an_attached_model_is_read_as_it_is(tmp_path):
    model = seeded()
    bare = health()._read(arguments(tmp_path), model, {})
    with attach(model, [DomainAdversarial(hidden_size=4)]):
        attached = health()._read(arguments(tmp_path), model, {})
    for one, two in zip(bare, attached, strict=True):
        np.testing.assert_array_equal(one.logits, two.logits)
        np.testing.assert_array_equal(one.features, two.features)


def ranks_main(out: str) -> None:
    """A run under DDP where there are several ranks; each writes what it measured and the weights it ended with."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    options = {"ddp_backend": "gloo"} if world > 1 else {}
    callback = health()
    trainer = adapting(
        Path(out),
        callback,
        DomainAdversarial(hidden_size=4),
        max_steps=4,
        eval_steps=2,
        per_device_train_batch_size=8 // world,
        **options,
    )
    trainer.train()
    torch.save((callback.history, copy_of(trainer.model)), Path(out) / f"{world}-{rank}.pt")


@pytest.mark.slow
def test_two_ranks_measure_the_same_and_stay_in_step(tmp_path):
    done = launch("tests.callbacks.test_domain_health", tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr
    (first, weights), (second, others) = (torch.load(tmp_path / f"2-{rank}.pt") for rank in (0, 1))
    assert len(first) == 2 and first == second
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=0)


if __name__ == "__main__":
    ranks_main(sys.argv[1])
