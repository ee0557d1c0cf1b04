"""The range test: its sweep in closed form, what it must not touch, what it respects, and its errors."""

from __future__ import annotations

import copy
import gc
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from hf_transfer import (
    L2SP,
    DomainAdversarial,
    FreezeBackbone,
    GradualUnfreezing,
    TransferTrainer,
    UnfreezingSchedule,
    attach,
)
from hf_transfer.attach import CHILD
from hf_transfer.lr_find import lr_find
from tests import models
from tests.objectives.cases import CASES
from tests.test_trainer import arguments, labelled, mixed, seeded, weights


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect():
    """Every training and every trial collects garbage, which takes longer than the rest with all libraries loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


# --- a quadratic, where everything is known


class Quadratic(nn.Module):
    """Loss `L / 2 * w^2` for two weights of curvatures 4 and 1, whatever the batch."""

    def __init__(self):
        super().__init__()
        self.steep, self.flat = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x=None, labels=None):
        return {"loss": 2 * self.steep**2 + 0.5 * self.flat**2, "logits": x}


def quadratic(folder, *, rates=(0.1, 0.1), rows=12, **options):
    model = Quadratic()
    made = torch.optim.SGD(
        [{"params": [model.steep], "lr": rates[0]}, {"params": [model.flat], "lr": rates[1]}], lr=0.1
    )
    data = [{"x": [float(i)], "labels": [0.0]} for i in range(rows)]
    args = arguments(folder, of=TrainingArguments, max_grad_norm=0.0, max_steps=3, **options)
    return Trainer(model, args, train_dataset=data, optimizers=(made, None))


def test_the_sweep_is_gradient_descent_at_growing_rates(tmp_path):
    result = lr_find(quadratic(tmp_path), start=1e-3, end=0.4, steps=40, smoothing=0.0)
    assert len(result.rates) == len(result.losses) == 40 and not result.diverged
    assert result.rates[0] == 1e-3 and result.rates[-1] == pytest.approx(0.4)
    steep, flat = 1.0, 0.5
    for step, (rate, loss) in enumerate(zip(result.rates, result.losses, strict=True)):
        assert rate == pytest.approx(1e-3 * 400 ** (step / 39))
        assert loss == pytest.approx(2 * steep**2 + 0.5 * flat**2, rel=1e-4)
        steep, flat = steep * (1 - 4 * rate), flat * (1 - rate)


def test_the_loss_falls_up_to_two_over_the_curvature_and_diverges_beyond(tmp_path):
    trainer = quadratic(tmp_path)
    nn.init.zeros_(trainer.model.flat)  # the steep weight alone: L = 4
    result = lr_find(trainer, start=1e-3, end=10.0, steps=60, smoothing=0.0)
    for rate, now, after in zip(result.rates, result.losses, result.losses[1:], strict=False):
        assert (after > now) is (rate > 2 / 4), rate
    assert result.diverged and 2 / 4 < result.rates[-1] < 1.0 < 10.0
    assert result.suggestion < 2 / 4


def test_groups_keep_their_ratio(tmp_path):
    result = lr_find(quadratic(tmp_path, rates=(0.01, 0.3)), start=1e-2, end=0.3, steps=10, smoothing=0.0)
    steep, flat = 1.0, 0.5
    for rate, loss in zip(result.rates, result.losses, strict=True):
        assert loss == pytest.approx(2 * steep**2 + 0.5 * flat**2, rel=1e-4)
        steep, flat = steep * (1 - 4 * rate / 10), flat * (1 - 3 * rate)  # at 0.1 and 3 times the swept rate
    assert result.base == 0.1


def test_data_of_fewer_batches_than_steps_is_gone_through_again(tmp_path):
    result = lr_find(quadratic(tmp_path, rows=5), start=1e-4, end=1e-2, steps=9)
    assert len(result.losses) == 9


def test_a_stream_without_length_serves(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from ({"x": [float(i)], "labels": [0.0]} for i in range(10))

    trainer = quadratic(tmp_path)
    trainer.train_dataset = Stream()
    assert len(lr_find(trainer, start=1e-4, end=1e-2, steps=6).losses) == 6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep_and_is_not_in_the_curve(tmp_path, bad):
    class Breaks(Quadratic):
        calls = 0

        def forward(self, x=None, labels=None):
            self.calls += 1
            out = super().forward(x, labels)
            return {**out, "loss": out["loss"] * (bad if self.calls > 7 else 1.0)}

    trainer = quadratic(tmp_path)
    model = Breaks()
    trainer = Trainer(model, trainer.args, train_dataset=trainer.train_dataset)
    result = lr_find(trainer, start=1e-4, end=1e-2, steps=20)
    assert result.diverged and len(result.losses) == len(result.rates) == 7
    assert all(map(math.isfinite, result.losses))
    assert model.calls == 0  # only the copy was called


def test_without_a_limit_it_goes_on_to_the_end(tmp_path):
    result = lr_find(quadratic(tmp_path), start=0.1, end=2.0, steps=8, diverge=math.inf)
    assert len(result.losses) == 8 and not result.diverged


# --- it leaves everything as it was


KINDS = {
    "bert": lambda: models.tiny_bert(),
    "resnet": lambda: models.tiny_resnet(),  # statistics of batch normalisation
    "lora": lambda: models.lora(models.tiny_bert(), ["query"], "classifier"),
}


def build(folder, kind, cls=TransferTrainer, *, callbacks=(), **options):
    image = kind == "resnet"
    model = seeded(KINDS[kind])
    common = {"max_steps": 6, "logging_steps": 2, **options}
    if cls is Trainer:
        args = arguments(folder, of=TrainingArguments, **common)
        return Trainer(model, args, train_dataset=labelled(image), callbacks=list(callbacks))
    args = arguments(folder, head_lr=0.1, layer_decay=0.5, **common)
    return TransferTrainer(
        model,
        args,
        train_dataset=mixed(image),
        objectives=[DomainAdversarial(hidden_size=4), L2SP()],
        callbacks=list(callbacks),
    )


def sweep(trainer, **options):
    return lr_find(trainer, **{"start": 1e-5, "end": 1.0, "steps": 11, **options})


def log(trainer):
    timed = ("runtime", "per_second")
    return [
        {key: value for key, value in entry.items() if not any(word in key for word in timed)}
        for entry in trainer.state.log_history
    ]


@pytest.mark.parametrize(
    ("kind", "cls", "freeze"),
    [
        ("bert", Trainer, True),
        ("bert", TransferTrainer, False),
        ("resnet", Trainer, False),
        ("resnet", TransferTrainer, True),
        ("lora", TransferTrainer, True),
    ],
)
def test_a_run_after_it_is_the_run_without_it_bit_for_bit(tmp_path, kind, cls, freeze):
    """Dropout on: the random numbers count too."""
    runs = []
    for swept in (False, True):
        callbacks = [GradualUnfreezing(stages=2)] if freeze else []
        trainer = build(tmp_path, kind, cls, callbacks=callbacks, gradient_accumulation_steps=2)
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        if swept:
            assert sweep(trainer).losses
        trainer.train()
        runs.append((trainer, random.random(), np.random.rand(), torch.rand(1).item()))
    (without, *numbers), (after, *theirs) = runs
    assert numbers == theirs
    ours, mine = without.model.state_dict(), after.model.state_dict()
    assert ours.keys() == mine.keys() and all(torch.equal(value, mine[key]) for key, value in ours.items())
    assert log(without) == log(after)
    state, other = without.optimizer.state_dict(), after.optimizer.state_dict()
    assert state["param_groups"] == other["param_groups"] and same(state["state"], other["state"])


def snapshot(trainer):
    model = trainer.model
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "trains": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    }


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_trainer_changes(tmp_path, kind):
    trainer = build(tmp_path, kind, callbacks=[FreezeBackbone()])
    next(trainer.model.parameters()).grad = torch.ones_like(next(trainer.model.parameters()))
    before, held, args = snapshot(trainer), dict(vars(trainer)), copy.deepcopy(vars(trainer.args))
    state, control = copy.deepcopy(vars(trainer.state)), copy.deepcopy(vars(trainer.control))
    attachment = trainer.attachment
    sums, progress, terms = attachment._sums, attachment.progress, attachment.terms
    gradient_state = trainer.accelerator.gradient_state
    loaders, syncs = gradient_state.dataloader_references, gradient_state.sync_gradients
    sweep(trainer)
    assert same(before, snapshot(trainer))
    assert vars(trainer).keys() == held.keys() and all(vars(trainer)[key] is held[key] for key in held)
    assert str(vars(trainer.args)) == str(args)
    assert vars(trainer.state).keys() == state.keys() and str(vars(trainer.state)) == str(state)
    assert vars(trainer.control) == control
    assert attachment._sums is sums and attachment.progress == progress and attachment.terms is terms
    assert gradient_state.dataloader_references == loaders and gradient_state.sync_gradients is syncs
    assert trainer.optimizer is None and trainer.lr_scheduler is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_objective_is_copied_with_its_model(tmp_path, name):
    """A hook bound to the original would fill the original's taps, sums and buffers."""
    image = "images" in " ".join(CASES[name].refused.values())  # made for images only
    model = seeded(models.tiny_vit if image else models.tiny_bert)
    objectives, args = [CASES[name].make(model)], arguments(tmp_path, max_steps=2)
    trainer = TransferTrainer(model, args, train_dataset=mixed(image), objectives=objectives)
    before, terms = snapshot(trainer), trainer.attachment.terms
    first = sweep(trainer, steps=4, end=1e-3)
    assert len(first.losses) == 4
    assert same(before, snapshot(trainer))
    assert trainer.attachment.terms is terms and trainer.attachment._sums is None
    assert trainer.attachment.model is trainer.model
    assert sweep(trainer, steps=4, end=1e-3).losses == first.losses  # the same random numbers again


def test_the_copied_attachment_serves_the_copy(tmp_path):
    model = seeded(models.tiny_bert)
    attachment = attach(model, [DomainAdversarial(hidden_size=4)])
    twin = copy.deepcopy(model)
    theirs = getattr(twin, CHILD).attachment
    assert theirs is not attachment and theirs.model is twin and theirs.objectives is getattr(twin, CHILD)
    batch = models.batch_for(model)
    twin.train()(**batch)
    assert theirs.terms and not attachment.terms
    theirs.detach()
    assert attachment._tap._input is None and len(model._forward_hooks) == 1


def test_a_stock_trainer_with_attached_objectives_serves(tmp_path):
    model = seeded(models.tiny_bert)
    attachment = attach(model, [L2SP()])
    trainer = Trainer(model, arguments(tmp_path, of=TrainingArguments), train_dataset=labelled())
    assert sweep(trainer).losses and not attachment.terms


@pytest.mark.parametrize("cls", [Trainer, TransferTrainer], ids=["stock", "transfer"])
def test_between_two_runs_the_optimizer_is_copied_too(tmp_path, cls):
    ends = []
    for swept in (False, True):
        trainer = build(tmp_path, "bert", cls, bf16=True)
        trainer.train()
        if swept:
            held, before = trainer.optimizer, copy.deepcopy(trainer.optimizer.state_dict())
            assert sweep(trainer).losses
            assert trainer.optimizer is held and str(held.state_dict()) == str(before)
        trainer.train()
        ends.append(weights(trainer.model))
    assert same(*ends)


def test_with_model_init_the_rates_are_those_of_the_arguments(tmp_path):
    args = arguments(tmp_path, max_steps=2)
    trainer = TransferTrainer(model_init=lambda: models.tiny_bert(), args=args, train_dataset=labelled())
    held = trainer.model
    assert sweep(trainer).base == 0.01
    assert trainer.model is held and trainer.model_init is not None


def test_a_hook_that_closes_over_the_model_is_refused(tmp_path):
    model = seeded(models.tiny_bert)
    seen = []
    handle = model.classifier.register_forward_hook(lambda module, args, output: seen.append(model.classifier.weight))
    trainer = Trainer(model, arguments(tmp_path, of=TrainingArguments), train_dataset=labelled())
    with pytest.raises(ValueError, match="on module `classifier` refers to the model itself: .*put it back after"):
        sweep(trainer)
    handle.remove()
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(1))
    assert sweep(trainer, steps=2).losses and len(seen) == 2


# --- what it respects


def moved(trainer, monkeypatch, **options) -> set[str]:
    """Names of the parameters that the copy moved."""
    kept = {}
    inner = type(trainer).training_step

    def step(self, model, *args, **kwargs):
        names = dict(self.model.named_parameters())
        kept.setdefault("before", {name: value.detach().clone() for name, value in names.items()})
        loss = inner(self, model, *args, **kwargs)
        kept["after"] = {name: value.detach().clone() for name, value in names.items()}
        return loss

    monkeypatch.setattr(type(trainer), "training_step", step)
    sweep(trainer, **options)
    return {name for name, value in kept["before"].items() if not torch.equal(value, kept["after"][name])}


@pytest.mark.parametrize(
    "schedule",
    [
        FreezeBackbone(),
        GradualUnfreezing(stages=4),
        UnfreezingSchedule([{"train": "head", "lr": 1e-3}, {"step": 2, "train": "all"}]),
        UnfreezingSchedule([{"train": "head"}, {"step": 500, "train": "all"}, {"fraction": 0.9, "train": "head"}]),
    ],
    ids=["backbone", "gradual", "early", "late"],
)
def test_what_trains_at_the_first_step_trains_in_the_sweep(tmp_path, monkeypatch, schedule):
    model = seeded(models.tiny_bert)
    trainer = Trainer(model, arguments(tmp_path, of=TrainingArguments), train_dataset=labelled(), callbacks=[schedule])
    names = moved(trainer, monkeypatch)
    assert {"classifier.weight", "classifier.bias"} <= names
    assert all("classifier" in name or "pooler" in name for name in names)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_rate_of_zero_stays_zero(tmp_path, monkeypatch):
    args = arguments(tmp_path, learning_rates={"embeddings": 0.0, "block.0": 0.0})
    trainer = TransferTrainer(seeded(models.tiny_bert), args, train_dataset=labelled())
    names = moved(trainer, monkeypatch)
    assert names and not any("embeddings" in name or "layer.0." in name for name in names)


def test_other_callbacks_take_no_part(tmp_path):
    from transformers import EarlyStoppingCallback, TrainerCallback

    class Fails(TrainerCallback):
        def __getattribute__(self, name):
            if name.startswith("on_") and name != "on_init_end":
                pytest.fail(f"{name} was called")
            return super().__getattribute__(name)

    # without an evaluation, early stopping fails in `on_train_begin`
    assert sweep(build(tmp_path, "bert", callbacks=[Fails(), EarlyStoppingCallback()])).losses


def test_progress_stays_at_the_start(tmp_path):
    seen = []

    class Probe(L2SP):
        def forward(self, batch):
            seen.append(float(batch.progress))
            return super().forward(batch)

    args = arguments(tmp_path)
    trainer = TransferTrainer(models.tiny_bert(), args, train_dataset=labelled(), objectives=[Probe()])
    sweep(trainer)
    assert seen and set(seen) == {0.0}


def test_the_accumulated_loss_is_that_of_the_whole_batch(tmp_path):
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    curves = []
    for rows, parts in ((16, 1), (4, 4)):
        args = arguments(tmp_path, per_device_train_batch_size=rows, gradient_accumulation_steps=parts)
        trainer = TransferTrainer(seeded(models.tiny_bert, **quiet), args, train_dataset=labelled())
        curves.append(sweep(trainer, end=1e-3).losses)
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


# --- a real curve


def test_on_a_task_that_can_be_learned_the_loss_falls_and_then_breaks(tmp_path):
    """Classes told apart by one token: flat, down, up."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (64,))
    rows = [{"input_ids": [int(y) + 1] * 4, "labels": int(y)} for y in labels]
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1}
    model = seeded(models.tiny_bert, **quiet)
    args = arguments(tmp_path, per_device_train_batch_size=16, max_grad_norm=1e9)
    trainer = TransferTrainer(model, args, train_dataset=rows)
    result = lr_find(trainer, start=1e-6, end=10.0, steps=80)
    curve = result.smoothed
    assert curve[0] == pytest.approx(curve[10], rel=0.05) and min(curve) < 0.5 * curve[0]
    assert result.diverged or curve[-1] > 2 * min(curve)
    assert 1e-4 < result.suggestion < result.rates[int(np.argmin(curve))]
    # the suggested rate does train, a hundredth of it does not
    ends = []
    for rate in (result.suggestion, result.suggestion / 100):
        args = arguments(tmp_path, per_device_train_batch_size=16, max_steps=30, learning_rate=rate, logging_steps=30)
        trainer = TransferTrainer(seeded(models.tiny_bert, **quiet), args, train_dataset=rows)
        ends.append(trainer.train().training_loss)
    assert ends[0] < 0.7 * ends[1]


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.0}, "`start=0.0` and `end=1.0` are no range .*such as 1e-7 and 1.0"),
        ({"start": 1.0, "end": 0.1}, "are no range of rates"),
        ({"end": math.inf}, "are no range of rates"),
        ({"steps": 1}, "`steps=1` makes no curve: .*100"),
        ({"smoothing": 1.0}, r"`smoothing=1.0` is outside \[0, 1\): .*such as 0.05"),
        ({"diverge": 1.0}, "`diverge=1.0` is not above 1: .*such as 4.0"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        lr_find(quadratic(tmp_path), **options)


def test_without_data_or_rate_it_is_refused(tmp_path):
    trainer = Trainer(models.tiny_bert(), arguments(tmp_path, of=TrainingArguments))
    with pytest.raises(ValueError, match="no training data: .*Pass `train_dataset`"):
        sweep(trainer)
    trainer = build(tmp_path, "bert", learning_rate=0.0)
    with pytest.raises(ValueError, match="`learning_rate=0.0`: .*Set any positive rate"):
        sweep(trainer)


@pytest.mark.parametrize(("flag", "name"), [("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "DeepSpeed")])
def test_sharded_models_are_refused(tmp_path, flag, name):
    trainer = quadratic(tmp_path)
    setattr(trainer, flag, True)
    with pytest.raises(ValueError, match=f"runs under {name}: its model cannot be copied .*one device or under DDP"):
        sweep(trainer)


def test_an_error_in_the_sweep_leaves_the_random_numbers_as_they_were(tmp_path):
    class Fails(Quadratic):
        def forward(self, x=None, labels=None):
            torch.rand(1), random.random(), np.random.rand()
            raise RuntimeError("broken")

    trainer = Trainer(Fails(), quadratic(tmp_path).args, train_dataset=[{"x": [0.0]}] * 4)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(RuntimeError, match="broken"):
        sweep(trainer)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
