from __future__ import annotations

import math
import random

import pytest
import yaml

from hf_transfer.callbacks.phases import Phase, Plateau, check_order, parse_phases


def naive_plateau(values: list[float], patience: int, min_delta: float) -> int | None:
    """Index at which the last `patience` values all fail to beat the best one seen before each, for a loss."""
    for end in range(len(values)):
        window = range(end - patience + 1, end + 1)
        if window[0] < 1:
            continue
        best, misses = values[0], []
        for index in range(1, end + 1):
            better = values[index] < best - min_delta
            misses.append(not better)
            if better:
                best = values[index]
        if all(misses[-patience:]):
            return end
    return None


@pytest.mark.parametrize("seed", range(40))
def test_plateau_agrees_with_the_naive_definition(seed):
    draw = random.Random(seed)
    values = [round(draw.random(), 1) for _ in range(8)]
    patience, min_delta = draw.choice([1, 2, 3]), draw.choice([0.0, 0.25])
    plateau = Plateau(metric="loss", patience=patience, min_delta=min_delta)
    found = plateau.reached({10 * (i + 1): value for i, value in enumerate(values)}, after=0)
    naive = naive_plateau(values, patience, min_delta)
    assert found == (None if naive is None else 10 * (naive + 1))
    # The same in the other direction.
    mirrored = Plateau(metric="accuracy", patience=patience, min_delta=min_delta)
    assert mirrored.reached({10 * (i + 1): -value for i, value in enumerate(values)}, after=0) == found


def test_plateau_direction_and_prefix_are_read_off_the_name():
    assert Plateau(metric="loss") == Plateau(metric="eval_loss", greater_is_better=False)
    assert Plateau(metric="target_accuracy").greater_is_better is True
    assert Plateau(metric="eval_mae", greater_is_better=False).greater_is_better is False


def test_plateau_ignores_evaluations_of_the_phase_before():
    evaluations = {10: 0.1, 20: 0.9, 30: 0.8, 40: 0.85}
    assert Plateau(metric="loss").reached(evaluations, after=0) == 20
    assert Plateau(metric="loss").reached(evaluations, after=10) == 40


def test_nan_is_no_improvement():
    assert Plateau(metric="loss", patience=2).reached({1: math.nan, 2: math.nan}, after=0) == 2


@pytest.mark.parametrize("options", [{"patience": 0}, {"min_delta": -1.0}])
def test_plateau_refuses_what_cannot_be_waited_for(options):
    with pytest.raises(ValueError, match=r"`when` got .* use patience >= 1 and min_delta >= 0"):
        Plateau(metric="loss", **options)


def test_the_three_ways_to_write_phases_agree():
    first, second = {"train": ["head"]}, {"fraction": 0.5, "train": ["head", "block.-1"]}
    listed = parse_phases([first, second])
    assert parse_phases({"phases": [first, second]}) == listed
    assert parse_phases([Phase(train="head"), Phase(train=("head", "block.-1"), fraction=0.5)]) == listed
    named = parse_phases({"warm": first, "top": second})
    assert [phase.name for phase in named] == ["warm", "top"]
    assert parse_phases({"phases": {"warm": first, "top": second}}) == named
    assert [phase.train for phase in named] == [phase.train for phase in listed]


def test_phases_survive_the_way_through_yaml():
    phases = parse_phases(
        [
            {"name": "warm", "train": "head", "freeze": "*.bias"},
            {"step": 3, "train": ["head"], "lr": 1e-5},
            {"epoch": 1.5, "train": ["head"], "lr_scale": 0.5},
            {"when": {"metric": "accuracy", "patience": 3, "min_delta": 0.01}, "train": "all"},
            {"when": "loss", "train": "all"},
        ]
    )
    text = yaml.safe_dump([phase.to_dict() for phase in phases])
    assert parse_phases(yaml.safe_load(text)) == phases


def test_phases_read_well():
    phases = parse_phases(
        [
            {"train": "all", "freeze": "embeddings"},
            {"epoch": 2, "train": "head", "lr_scale": 0.5},
            {"when": {"metric": "loss", "patience": 2}, "train": "head", "lr": 1e-5},
        ]
    )
    assert [str(phase) for phase in phases] == [
        "start: all without embeddings",
        "epoch 2: head (learning rate x 0.5)",
        "eval_loss plateau (2): head (learning rate 1e-05)",
    ]


def test_rate_scales_or_replaces_and_keeps_the_ratio_of_groups():
    assert Phase(train="all").rate(3e-4, 1e-4) == 3e-4
    assert Phase(train="all", lr_scale=0.5).rate(3e-4, 1e-4) == 1.5e-4
    assert Phase(train="all", lr=1e-5).rate(1e-4, 1e-4) == pytest.approx(1e-5, rel=1e-12)
    assert Phase(train="all", lr=1e-5).rate(3e-4, 1e-4) == pytest.approx(3e-5, rel=1e-12)


@pytest.mark.parametrize("spec", ["head", 3, [["head"]], {"train": "head"}, None])
def test_other_shapes_are_refused(spec):
    with pytest.raises(TypeError, match="The phases are .* give a list of phases"):
        parse_phases(spec)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"train": "head", "at": 3}, "Phase 1 has the unknown key `at`.*`step`, `epoch`, `fraction`, `when`"),
        ({"fraction": 0}, "Phase 1 has no `train`"),
        ({"train": []}, r"A phase \(start\) has an empty `train`"),
        ({"train": "head", "when": {"patience": 3}}, "`when` has no `metric`"),
        ({"train": "head", "when": {"metric": "loss", "mode": "min"}}, "`when` has the unknown key `mode`"),
        (
            {"train": "head", "lr": 1e-3, "lr_scale": 0.5},
            "the learning rates `lr_scale` and `lr` - they would contradict",
        ),
        ({"train": "head", "step": 0, "fraction": 0.0}, "the entry points `step` and `fraction`"),
        ({"train": "head", "fraction": 1.5}, "fraction=1.5 - it must be a number from 0 to 1"),
        ({"train": "head", "step": -1}, "step=-1 - it must be a number from 0"),
        ({"train": "head", "lr": "1e-4"}, "lr='1e-4' - .* exponents need a decimal point"),
    ],
)
def test_a_phase_that_says_nothing_clear_is_refused(phase, message):
    with pytest.raises(ValueError, match=message):
        parse_phases([phase])


def test_yaml_reads_an_exponent_without_a_point_as_text():
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}, "the hint in the message above may go"


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "The schedule has no phase"),
        ([{"train": "head", "fraction": 0.2}], "The first phase enters at fraction 0.2"),
        ([{"train": "head", "when": "loss"}], "The first phase enters at eval_loss plateau"),
        ([{"train": "head"}, {"train": "all"}], "Phase 2 has no entry point, .* the two would overlap"),
        ([{"train": "head"}, {"train": "all", "step": 0}], "Phase 2 enters at step 0, not after 0"),
        (
            [{"train": "head"}, {"train": "all", "fraction": 0.5}, {"train": "head", "fraction": 0.5}],
            "Phase 3 enters at fraction 0.5, not after 0.5",
        ),
        (
            [
                {"train": "head"},
                {"train": "all", "epoch": 2},
                {"train": "head", "when": "loss"},
                {"train": "all", "epoch": 1},
            ],
            "Phase 4 enters at epoch 1, not after 2",
        ),
    ],
)
def test_phases_that_overlap_or_leave_a_gap_are_refused(phases, message):
    with pytest.raises(ValueError, match=message):
        parse_phases(phases)


def test_order_is_checked_on_phases_as_well():
    with pytest.raises(ValueError, match="overlap"):
        check_order([Phase(train="head"), Phase(train="all")])
