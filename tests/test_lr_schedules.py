"""Curves of the learning rate: closed forms written from the papers, per group, in the trainer, resumed."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from transformers import HfArgumentParser, Trainer, TrainerCallback

from hf_transfer import (
    L2SP,
    DomainAdversarial,
    FreezeBackbone,
    GradualUnfreezing,
    TransferArguments,
    TransferTrainer,
    UnfreezingSchedule,
)
from hf_transfer.lr_schedules import LR_SCHEDULES, OneCycle, SlantedTriangular, check_phases, lr_layout, own_rates
from tests import models
from tests.callbacks.harness import Crash
from tests.test_trainer import QUIET, arguments, labelled, mixed, seeded, weights


RATES = [1.0, 0.1, 0.0]
NAMES = sorted(LR_SCHEDULES)


def optimizer(kind=torch.optim.AdamW, rates=RATES, **options) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return kind(groups, lr=0.3, **options)


def run(scheduler, steps: int, key: str = "lr") -> list[list]:
    """What every group has at every step, and after the last."""
    seen = []
    for _ in range(steps):
        seen.append([group[key] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return [*seen, [group[key] for group in scheduler.optimizer.param_groups]]


# --- slanted triangular


def paper_stlr(step: int, steps: int, cut_frac: float, ratio: float) -> float:
    """Equation 3 of Howard and Ruder, with its rounding."""
    cut = math.floor(steps * cut_frac)
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_frac - 1))
    return (1 + p * (ratio - 1)) / ratio


@pytest.mark.parametrize(("steps", "cut_frac", "ratio"), [(20, 0.1, 32.0), (200, 0.1, 32.0), (40, 0.25, 4.0)])
def test_slanted_triangular_is_the_papers_formula_for_every_group(steps, cut_frac, ratio):
    scheduler = SlantedTriangular(cut_frac=cut_frac, ratio=ratio)(optimizer(), steps)
    for step, rates in enumerate(run(scheduler, steps)):
        factor = paper_stlr(step, steps, cut_frac, ratio)
        assert rates == pytest.approx([factor, 0.1 * factor, 0.0], rel=1e-12, abs=1e-15)


def test_its_landmarks():
    layout = SlantedTriangular()
    assert layout.factor(0.0) == layout.factor(1.0) == 1 / 32
    assert layout.factor(0.1) == 1.0
    curve = [layout.factor(step / 1000) for step in range(1001)]
    assert curve[:101] == sorted(curve[:101]) and curve[100:] == sorted(curve[100:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 15, 19, 33])
def test_a_short_run_never_has_a_negative_rate(steps):
    """As it would by the paper's own rounding: see the deviation in the docstring."""
    rates = [rate for rate, *_ in run(SlantedTriangular()(optimizer(), steps), steps)]
    assert min(rates) >= 1 / 32 - 1e-15 and max(rates) <= 1.0
    if steps == 15:
        assert paper_stlr(14, 15, 0.1, 32) == pytest.approx(-0.3993, abs=1e-4)


def test_ratio_one_is_constant():
    assert {rate for rate, *_ in run(SlantedTriangular(ratio=1)(optimizer(), 7), 7)} == {1.0}


# --- one cycle


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize("steps", [10, 50])
def test_one_cycle_rises_and_falls_along_cosines_for_every_group(steps):
    scheduler = OneCycle()(optimizer(), steps)
    peak = 0.3 * steps - 1
    for step, rates in enumerate(run(scheduler, steps)[:-1]):
        if step <= peak:
            factor = cosine(1 / 25, 1.0, step / peak)
        else:
            factor = cosine(1.0, 1 / 25e4, (step - peak) / (steps - 1 - peak))
        assert rates == pytest.approx([factor, 0.1 * factor, 0.0], rel=1e-9, abs=1e-15)


def test_the_momentum_goes_the_other_way():
    scheduler = OneCycle(anneal_strategy="linear")(optimizer(), 11)
    betas = [group[0][0] for group in run(scheduler, 11, "betas")[:-1]]
    assert betas[0] == pytest.approx(0.95) and betas[-1] == pytest.approx(0.95)
    assert min(betas) == pytest.approx(0.85, abs=0.01)
    still = OneCycle(cycle_momentum=False)(optimizer(betas=(0.5, 0.9)), 11)
    assert {group[0] for group in run(still, 11, "betas")} == {(0.5, 0.9)}


def test_three_phases_are_the_papers():
    scheduler = OneCycle(three_phase=True, anneal_strategy="linear", pct_start=0.4)(optimizer(), 20)
    rates = [rate for rate, *_ in run(scheduler, 20)[:-1]]
    assert rates[7] == max(rates) == 1.0
    assert rates[0] == pytest.approx(1 / 25) and rates[14] == pytest.approx(1 / 25) and rates[-1] < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("three_phase", [False, True])
def test_a_run_of_few_steps_works(steps, three_phase):
    rates = run(OneCycle(three_phase=three_phase)(optimizer(), steps), steps)
    assert all(math.isfinite(rate) and 0 <= rate <= 1 for rate, *_ in rates[:-1])


def test_a_rise_of_exactly_one_step_is_refused():
    with pytest.raises(ValueError, match="`pct_start=0.1` of 10 steps is one step: .*Give a larger"):
        OneCycle(pct_start=0.1)(optimizer(), 10)


def test_an_optimizer_without_momentum_is_refused_or_keeps_only_the_rates():
    with pytest.raises(ValueError, match="cycles the momentum, and Adagrad has none: .*cycle_momentum.*adamw_torch"):
        OneCycle()(optimizer(torch.optim.Adagrad), 10)
    scheduler = OneCycle(cycle_momentum=False)(optimizer(torch.optim.Adagrad), 10)
    assert run(scheduler, 10)[2][0] == pytest.approx(1.0)


# --- both


@pytest.mark.parametrize("name", NAMES)
def test_groups_keep_their_ratio_at_every_step(name):
    rates = [0.5, 0.5 / 2.6, 0.5 / 2.6**2]
    for seen in run(lr_layout(name)(optimizer(rates=rates), 17), 17):
        assert seen[0] / seen[1] == pytest.approx(2.6) and seen[1] / seen[2] == pytest.approx(2.6)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_with_the_same_optimizer_has_the_same_rates(name):
    """The Trainer keeps its optimizer from one `train()` to the next."""
    held = optimizer()
    first = run(lr_layout(name)(held, 12), 12)
    assert own_rates(held) == RATES
    assert run(lr_layout(name)(held, 12), 12) == first
    for other in NAMES:
        assert run(lr_layout(other)(held, 12), 12) == run(lr_layout(other)(optimizer(), 12), 12)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_held_in_a_tensor_moves_the_same_way(name):
    parameter = torch.nn.Parameter(torch.ones(2))
    held = torch.optim.Adam([parameter], lr=torch.tensor(1.0), foreach=False, capturable=False)
    scheduler = lr_layout(name)(held, 12)
    expected = [rate for rate, *_ in run(lr_layout(name)(optimizer(), 12), 12)]
    seen = []
    for _ in range(12):
        seen.append(float(held.param_groups[0]["lr"]))
        held.step()
        scheduler.step()
    assert seen == pytest.approx(expected[:-1], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slanted_triangular", {"cut_frac": 1.0}, r"`cut_frac=1.0` is outside \(0, 1\): .* such as the paper's 0.1"),
        ("slanted_triangular", {"cut_frac": 0}, "`cut_frac=0.0` is outside"),
        ("slanted_triangular", {"ratio": 0.5}, "`ratio=0.5` is below 1: .* such as the paper's 32"),
        ("slanted_triangular", {"ratio": "many"}, "`ratio='many'` .* is no number: .*such as 32.0"),
        (
            "slanted_triangular",
            {"pct_start": 0.2},
            "has pct_start, which is no option of `slanted_triangular`: .*ratio",
        ),
        ("one_cycle", {"pct_start": 1}, r"`pct_start=1.0` is outside \(0, 1.0\): .*such as 0.3"),
        ("one_cycle", {"pct_start": 0.5, "three_phase": True}, r"`pct_start=0.5` is outside \(0, 0.5\)"),
        ("one_cycle", {"anneal_strategy": "cosine"}, "`anneal_strategy='cosine'` is unknown: .*'cos' or 'linear'"),
        ("one_cycle", {"base_momentum": 0.99}, "`base_momentum=0.99` and `max_momentum=0.95`: .* 0.85 and 0.95"),
        ("one_cycle", {"div_factor": 0.5}, "`div_factor=0.5` .* above its peak .*such as 25"),
        ("one_cycle", {"cut_frac": 0.2, "x": 1}, "has cut_frac, x, which is no option of `one_cycle`: .*pct_start"),
        ("triangle", {}, "`lr_schedule='triangle'` is unknown: .*one_cycle, slanted_triangular; .*lr_scheduler_type"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        lr_layout(name, options)
    with pytest.raises(ValueError, match=message):
        TransferArguments("out", use_cpu=True, lr_schedule=name, lr_schedule_kwargs=options)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    options = yaml.safe_load("{final_div_factor: 1e4, pct_start: 0.25}")
    assert options["final_div_factor"] == "1e4"
    assert lr_layout("one_cycle", options) == OneCycle(pct_start=0.25)


# --- the arguments


def test_the_command_line_takes_json():
    words = ["--output_dir", "out", "--lr_schedule", "slanted_triangular", "--lr_schedule_kwargs", '{"ratio": 8}']
    (args,) = HfArgumentParser(TransferArguments).parse_args_into_dataclasses([*words, "--use_cpu"])
    assert args.lr_schedule_kwargs == {"ratio": 8} and args.lr_layout == SlantedTriangular(ratio=8)
    with pytest.raises(ValueError, match="`--lr_schedule_kwargs ratio=8` is no JSON object .*'{\"ratio\": 32}'"):
        TransferArguments("out", use_cpu=True, lr_schedule="one_cycle", lr_schedule_kwargs="ratio=8")


def test_by_default_the_stock_scheduler_is_used(tmp_path):
    assert TransferArguments("out", use_cpu=True).lr_layout is None
    ours = train(tmp_path, None, max_steps=3)
    theirs = Trainer(seeded(models.tiny_bert), arguments(tmp_path, max_steps=3), train_dataset=labelled())
    theirs.train()
    assert ours.lr_scheduler.state_dict() == theirs.lr_scheduler.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_schedule": None, "lr_schedule_kwargs": {"ratio": 8}}, "without `lr_schedule`: .*Name one of one_cycle"),
        ({"lr_scheduler_type": "cosine"}, "with `lr_scheduler_type=cosine`: .*Leave them out, or leave `lr_schedule`"),
        ({"warmup_steps": 5}, "with `warmup_steps=5`: .*option in `lr_schedule_kwargs`"),
        ({"warmup_steps": 0.1}, "with `warmup_steps=0.1`"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "with `lr_scheduler_kwargs="),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 5}, "`lr_scheduler_type=cosine` and `warmup_steps=5`"),
        ({"lr_schedule": "one_cycle", "adam_beta1": 0.5}, '`adam_beta1=0.5` with .*"cycle_momentum": false'),
    ],
)
def test_two_options_for_the_same_thing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransferArguments("out", use_cpu=True, **{"lr_schedule": "slanted_triangular", **options})


def test_a_beta_that_the_cycle_leaves_alone_is_taken():
    options = {"adam_beta1": 0.5, "lr_schedule": "one_cycle", "lr_schedule_kwargs": {"cycle_momentum": False}}
    assert TransferArguments("out", use_cpu=True, **options).lr_layout == OneCycle(cycle_momentum=False)


# --- in the trainer


class Rates(TrainerCallback):
    """Notes rate and first beta of every group at every optimizer step, by one of its parameters' names."""

    def __init__(self):
        self.seen: list[dict[str, float]] = []
        self.betas: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.seen.append({names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]})
        self.betas.append(optimizer.param_groups[0].get("betas", (0,))[0])


def build(folder, schedule, *callbacks, make=models.tiny_bert, data=None, objectives=(), **options):
    args = arguments(folder, lr_schedule=schedule, **{"max_steps": 8, **options})
    model = seeded(make) if make is not models.tiny_bert else seeded(make, **QUIET)
    return TransferTrainer(
        model, args, train_dataset=data or labelled(), callbacks=list(callbacks), objectives=objectives
    )


def train(folder, schedule, *callbacks, **options):
    trainer = build(folder, schedule, *callbacks, **options)
    trainer.train()
    return trainer


def test_the_override_keeps_the_parents_signature():
    ours, theirs = (inspect.signature(of.create_scheduler) for of in (TransferTrainer, Trainer))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    assert "super().create_scheduler(" in inspect.getsource(TransferTrainer.create_scheduler)


@pytest.mark.parametrize("name", NAMES)
def test_discriminative_rates_hold_at_every_step(tmp_path, name):
    """ULMFiT: each layer at the rate of the one above it over 2.6, head and named parts at theirs."""
    rates, steps = Rates(), 10
    options = {"layer_decay": 1 / 2.6, "head_lr": 0.2}
    options["learning_rates"] = {"*layer.1.attention.self.query.*": 0.05, "embeddings": 0.0}
    train(tmp_path, name, rates, max_steps=steps, **options)
    peaks = [rate for rate, *_ in run(lr_layout(name)(optimizer(), steps), steps)]
    for seen, factor in zip(rates.seen, peaks, strict=False):
        expected = {
            "classifier.weight": 0.2,
            "bert.pooler.dense.weight": 0.01,
            "bert.encoder.layer.2.output.dense.weight": 0.01 / 2.6,
            "bert.encoder.layer.1.output.dense.bias": 0.01 / 2.6**2,
            "bert.encoder.layer.1.attention.self.query.weight": 0.05,
            "bert.encoder.layer.0.output.dense.weight": 0.01 / 2.6**3,
            "bert.embeddings.word_embeddings.weight": 0.0,
        }
        for parameter, rate in expected.items():
            assert seen[parameter] == pytest.approx(rate * factor, rel=1e-9), parameter


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch", "rmsprop"])
def test_one_cycle_moves_the_momentum_of_the_trainers_optimizers(tmp_path, optim):
    trainer = train(tmp_path, "one_cycle", optim=optim, max_steps=10)
    assert isinstance(trainer.lr_scheduler, OneCycleLR)
    group = trainer.optimizer.param_groups[0]
    assert (group["betas"][0] if "betas" in group else group["momentum"]) == pytest.approx(0.95, abs=0.01)


def test_an_optimizer_of_the_trainer_without_momentum_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cycles the momentum, and Adafactor has none"):
        train(tmp_path, "one_cycle", optim="adafactor")
    train(tmp_path, "one_cycle", optim="adafactor", lr_schedule_kwargs={"cycle_momentum": False})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {"make": models.tiny_vit, "data": labelled(True)},
        {"make": lambda: models.lora(models.tiny_bert(), ["query"], "classifier")},
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"activation_checkpointing": True},
    ],
    ids=["vit", "lora", "accumulation", "bf16", "checkpointing"],
)
def test_it_works_with_what_a_trainer_does(tmp_path, name, options):
    rates = Rates()
    train(tmp_path, name, rates, head_lr=0.1, **options)
    curve = [rate for rate, *_ in run(lr_layout(name)(optimizer(), 8), 8)][:-1]
    assert [max(seen.values()) for seen in rates.seen] == pytest.approx([0.1 * factor for factor in curve])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("freeze", [None, "gradual", "phases"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, name, freeze):
    scaled = [
        {"train": "head"},
        {"step": 3, "train": ["head", "block.-1"], "lr_scale": 0.3},
        {"step": 6, "train": "all"},
    ]
    plain = [{key: value for key, value in phase.items() if key != "lr_scale"} for phase in scaled]

    def freezing():
        if freeze is None:
            return []
        if freeze == "gradual":
            return [GradualUnfreezing(stages=3)]
        return [UnfreezingSchedule(plain if name == "one_cycle" else scaled)]

    def make(folder, *callbacks):
        return build(
            tmp_path / folder,
            name,
            *freezing(),
            *callbacks,
            data=mixed(),
            objectives=[DomainAdversarial(hidden_size=4), L2SP()],
            layer_decay=1 / 2.6,
            save_strategy="steps",
            save_steps=4,
        )

    straight, before, after = Rates(), Rates(), Rates()
    whole = make("straight", straight)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        make("killed", before, Crash(6)).train()
    resumed = make("killed", after)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    assert before.seen == straight.seen[:6] and after.seen == straight.seen[4:]
    assert after.betas == straight.betas[4:]
    assert all(torch.equal(value, weights(resumed.model)[key]) for key, value in weights(whole.model).items())
    ours, theirs = (trainer.optimizer.state_dict()["state"] for trainer in (resumed, whole))
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in theirs for key in theirs[i])


def test_phases_scale_the_slanted_triangle(tmp_path):
    phases = [{"train": "all"}, {"step": 4, "train": "all", "lr_scale": 0.5}, {"step": 6, "train": "all", "lr": 0.03}]
    rates = Rates()
    trainer = train(tmp_path, "slanted_triangular", rates, UnfreezingSchedule(phases), head_lr=0.1)
    assert isinstance(trainer.lr_scheduler, LambdaLR)
    for step, seen in enumerate(rates.seen):
        scale = 1.0 if step < 4 else 0.5 if step < 6 else 3.0
        factor = scale * SlantedTriangular().factor(step / 8)
        assert seen["classifier.weight"] == pytest.approx(0.1 * factor)
        assert seen["bert.pooler.dense.weight"] == pytest.approx(0.01 * factor)


@pytest.mark.parametrize(
    "schedule",
    [
        GradualUnfreezing(stages=2, lr_decay=0.5),
        UnfreezingSchedule([{"train": "head"}, {"step": 2, "train": "all", "lr": 1e-4}]),
    ],
)
def test_one_cycle_with_phases_that_set_a_rate_is_refused_before_a_step(tmp_path, schedule):
    before = weights((trainer := build(tmp_path, "one_cycle", schedule)).model)
    with pytest.raises(ValueError, match="'one_cycle'` with a phase of .* that sets its learning rate .*Leave `lr`"):
        trainer.train()
    assert all(torch.equal(value, weights(trainer.model)[key]) for key, value in before.items())
    check_phases(SlantedTriangular(), [schedule])


@pytest.mark.parametrize("schedule", [FreezeBackbone(), GradualUnfreezing(stages=3)])
def test_one_cycle_with_phases_that_set_none_has_its_own_curve(tmp_path, schedule):
    frozen, free = Rates(), Rates()
    train(tmp_path, "one_cycle", frozen, schedule)
    train(tmp_path, "one_cycle", free)
    assert frozen.seen == free.seen and frozen.betas == free.betas


@pytest.mark.parametrize("name", NAMES)
def test_it_serves_a_stock_trainer(tmp_path, name):
    from transformers import TrainingArguments

    model = seeded(models.tiny_bert)
    made = torch.optim.AdamW(
        [{"params": model.bert.parameters()}, {"params": model.classifier.parameters(), "lr": 0.1}], lr=0.01
    )
    rates = Rates()
    args = arguments(tmp_path, of=TrainingArguments, max_steps=8)
    scheduler = lr_layout(name)(made, 8)
    Trainer(model, args, train_dataset=labelled(), optimizers=(made, scheduler), callbacks=[rates]).train()
    curve = [rate for rate, *_ in run(lr_layout(name)(optimizer(), 8), 8)][:-1]
    assert [seen["classifier.weight"] for seen in rates.seen] == pytest.approx([0.1 * factor for factor in curve])
