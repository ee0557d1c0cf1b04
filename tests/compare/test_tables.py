"""Scores of runs by method and seed: what is left out, what is paired, and how it is written."""

from __future__ import annotations

import json
import math

import pytest

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import (
    difference,
    markdown_table,
    scores_by_name,
    scores_of,
    told,
    told_difference,
)


T = {2: 12.706204736, 3: 4.302652730}  # 97.5% quantiles of Student's t for so many scores


def runs(method, scores, *, name="accuracy", **more):
    return [Cell(method, seed, "", "", {name: score}, **more) for seed, score in scores.items()]


def half_width(scores):
    mean = sum(scores) / len(scores)
    std = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    return T[len(scores)] * std / math.sqrt(len(scores))


def test_scores_of_one_method_by_seed():
    cells = runs("kd", {3: 0.5, 1: None, 2: 0.0}) + runs("dkd", {3: 0.9})
    assert scores_of(cells, "kd", "accuracy") == {3: 0.5, 2: 0.0}  # zero is a score
    assert scores_of(cells, "kd", "loss") == scores_of(cells, "none", "accuracy") == {}


def test_diagnostics_are_scores_that_final_ones_go_before():
    cells = runs("dann", {0: 0.5}, diagnostics={"distance": 1.5, "accuracy": 0.1}, validators={"snd": 2.0})
    assert scores_of(cells, "dann", "distance") == {0: 1.5} and scores_of(cells, "dann", "accuracy") == {0: 0.5}
    assert scores_of(cells, "dann", "snd") == {}


def test_a_difference_pairs_the_seeds_that_both_have():
    cells = runs("kd", {0: 0.8, 1: 0.5, 2: 0.9, 3: 0.1}) + runs("alone", {2: 0.7, 1: 0.4, 0: 0.6, 4: 1.0, 3: None})
    gain = difference(cells, "kd", "accuracy", against="alone")
    assert gain is not None and gain.n == 3 and gain.mean == pytest.approx((0.2 + 0.1 + 0.2) / 3)
    assert gain.half_width == pytest.approx(half_width([0.2, 0.1, 0.2])) and gain.excludes_zero
    other = difference(cells, "alone", "accuracy", against="kd")
    assert other is not None and other.mean == pytest.approx(-gain.mean)


def test_where_there_is_no_difference():
    cells = runs("kd", {0: 0.8, 1: None}) + runs("alone", {1: 0.4})
    assert difference(cells, "kd", "accuracy", against="kd") is None
    assert difference(cells, "kd", "accuracy", against="alone") is None
    assert difference(cells, "kd", "accuracy", against="none") is None


def test_all_scores_by_name():
    cells = runs("kd", {0: 0.5, 1: 0.7, 2: 0.6}) + runs("alone", {0: 0.4}, diagnostics={"distance": 3.0})
    found = scores_by_name(cells)
    low, high = found.pop("kd_accuracy_interval")
    width = half_width([0.5, 0.7, 0.6])
    assert (low, high) == (pytest.approx(0.6 - width), pytest.approx(0.6 + width))
    assert found.pop("kd_accuracy") == pytest.approx(0.6)
    # one run has neither an interval nor a list
    assert found == {"kd_accuracy_by_seed": [0.5, 0.7, 0.6], "alone_accuracy": 0.4, "alone_distance": 3.0}


def test_a_mean_over_runs_that_did_not_all_end_is_none():
    cells = runs("kd", {0: 0.5, 1: None, 2: 0.6}) + runs("alone", {0: None})
    found = json.loads(json.dumps(scores_by_name(cells), allow_nan=False))
    assert found == {
        "kd_accuracy": None,
        "kd_accuracy_interval": None,
        "kd_accuracy_by_seed": [0.5, None, 0.6],
        "alone_accuracy": None,
    }


def test_a_score_that_only_some_runs_have_counts_for_none():
    cells = [Cell("kd", 0, "", "", {"a": 1.0}), Cell("kd", 1, "", "", {"a": 2.0, "b": 3.0})]
    found = scores_by_name(cells)
    assert found["kd_a"] == 1.5 and found["kd_b"] is None and found["kd_b_by_seed"] == [None, 3.0]


def test_how_a_mean_is_written():
    assert told({}) == "" and told({4: 0.12345}) == "0.123"
    width = half_width([0.5, 0.52])
    assert told({0: 0.5, 1: 0.52}) == f"0.510 ({0.51 - width:.3f} to {0.51 + width:.3f})"


@pytest.mark.parametrize(
    ("kd", "text"),
    [
        ([0.7, 0.8, 0.9], "**+0.100** (0.100 to 0.100)"),
        ([0.5, 0.6, 0.7], "**-0.100** (-0.100 to -0.100)"),
        ([0.7, 0.6, 0.8], "+0.000 ("),  # differences 0.1, -0.1 and 0
        ([0.7], "+0.100"),
    ],
)
def test_how_a_difference_is_written(kd, text):
    cells = runs("kd", dict(enumerate(kd))) + runs("alone", {0: 0.6, 1: 0.7, 2: 0.8})
    written = told_difference(difference(cells, "kd", "accuracy", against="alone"))
    assert written.replace("-0.000 (", "+0.000 (").startswith(text) and ("**" in written) == ("**" in text)
    assert ("(" in written) == (len(kd) > 1) and told_difference(None) == ""


def test_a_table_of_markdown():
    lines = markdown_table(["a", "", "c"], [["1", "2", ""], ["x", "", "z"]]).splitlines()
    assert lines == ["| a | | c |", "|---|---|---|", "| 1 | 2 | |", "| x | | z |"]
    assert markdown_table(["a"], []) == "| a |\n|---|"
