"""The tables and remarks of a few-shot comparison, from made-up accuracies."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from hf_transfer.compare.results import Cell
from hf_transfer.few_shot.report import (
    Outcome,
    as_json,
    episode_difference,
    episode_remarks,
    episode_table,
    few_label_remarks,
    few_label_table,
    judged_by,
)


def outcomes(**shift: float) -> list[Outcome]:
    random = np.random.default_rng(0)
    plain = random.uniform(0.3, 0.7, 200)
    made = [Outcome("nearest_mean", {1: plain[None]}, 1.0)]
    for name, gain in shift.items():
        noise = 0.02 * random.standard_normal((2 if name in ("protonet", "anil") else 1, 200))
        made.append(Outcome(name, {1: plain + gain + noise}, 2.0))
    return made


def test_the_interval_is_student_s_over_episodes_of_the_mean_over_seeds():
    own = Outcome("protonet", {1: np.array([[0.1, 0.3, 0.8], [0.3, 0.5, 0.4]])}, 1.0)
    values = [0.2, 0.4, 0.6]
    half = 4.302653 * statistics.stdev(values) / math.sqrt(3)  # t of 2 degrees of freedom
    assert own.summary(1).mean == pytest.approx(0.4)
    assert own.summary(1).interval == pytest.approx((0.4 - half, 0.4 + half), rel=1e-6)
    assert own.by_seed(1) == pytest.approx([0.4, 0.4]) and own.seeds == 2


def test_differences_are_paired():
    plain, other = outcomes(tim=0.05)
    gain = episode_difference(other, plain, 1)
    assert gain is not None and gain.interval is not None
    assert gain.mean == pytest.approx(float((other.accuracies[1] - plain.accuracies[1]).mean()))
    width = plain.summary(1).half_width
    assert gain.half_width is not None and width is not None and gain.half_width < width / 3
    assert gain.excludes_zero and episode_difference(plain, plain, 1) is None


def test_the_table_says_which_methods_see_all_queries():
    lines = episode_table(outcomes(tim=0.05, protonet=-0.1), 5).splitlines()
    assert lines[0] == "| method | 5-way 1-shot | against nearest_mean | seconds |"
    assert lines[3].startswith("| tim (transductive) |") and "**+0.0" in lines[3]
    assert lines[4].startswith("| protonet |") and "**-0." in lines[4]


def test_training_that_does_not_pay_is_said():
    said = " ".join(episode_remarks(outcomes(tim=0.2, protonet=-0.1, anil=0.1), 5))
    assert "Not better than nearest_mean on features of the pretrained model (5-way 1-shot): protonet." in said
    assert "classifies each query by itself (5-way 1-shot): anil" in said  # tim scores higher, but sees all queries
    assert "tim: all queries of an episode are seen at once" in said and "over 2 trainings" in said
    assert "trained once" in " ".join(episode_remarks([*outcomes(), Outcome("mtl", {1: np.ones((1, 200))}, 1.0)], 5))


def test_the_json_holds_what_the_table_shows():
    found = as_json(outcomes(protonet=0.1))
    assert found["protonet_1_shot_accuracy_difference"] == pytest.approx(
        found["protonet_1_shot_accuracy"] - found["nearest_mean_1_shot_accuracy"]
    )
    assert len(found["protonet_1_shot_accuracy_by_seed"]) == 2 and found["protonet_seconds"] == 2.0
    assert "nearest_mean_1_shot_accuracy_difference" not in found


def cells(**scores: list[float | None]) -> list[Cell]:
    return [
        Cell(method, seed, "", "", {"test_accuracy": score}, {}, {"seconds": 3.0})
        for method, own in scores.items()
        for seed, score in enumerate(own)
    ]


def test_few_labels_are_compared_seed_by_seed():
    runs = cells(nearest_mean=[0.5, 0.6, 0.7], probe=[0.6, 0.71, 0.8], fine_tuning=[0.5, 0.5, 0.5])
    lines = few_label_table(runs).splitlines()
    assert lines[0] == "| method | test accuracy | against nearest_mean | seconds | seeds |"
    assert "**+0.103**" in lines[3] and lines[3].endswith("| 3.0 | 3 |")
    said = few_label_remarks(runs)
    assert any(remark.startswith("fine_tuning loses 0.100 against nearest_mean") for remark in said)
    assert not any("One seed" in remark for remark in said)
    assert any("chosen by the rows that it is scored on" in remark for remark in said)


def test_runs_that_diverged_and_single_seeds_are_said():
    said = few_label_remarks(cells(nearest_mean=[0.5], probe=[None]))
    assert "probe diverged with seed 0: a score is not finite." in said
    assert any(remark.startswith("One seed says nothing") for remark in said)
    assert judged_by([Cell("probe", 0, "", "", {"eval_accuracy": 0.5})]) == "eval_accuracy"
