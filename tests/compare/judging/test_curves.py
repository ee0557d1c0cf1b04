"""Learning curves, and what is said of more labels and of other strategies."""

from __future__ import annotations

import pytest

from hf_transfer.compare.judging.curves import curve_points, more_labels, other_strategies
from hf_transfer.compare.judging.recommending import standing
from tests.compare.scored_runs import planned, right


FULL = ("m", "full")


def curve(*points, strategy="full", seeds=2):
    """Points of labelled rows and accuracy."""
    most = max(rows for rows, _ in points)
    return {
        ("m", strategy, rows / most): (rows, {seed: right(share) for seed in range(seeds)}) for rows, share in points
    }


def test_points_in_the_order_of_their_share():
    found = curve_points(curve((100, 0.8), (25, 0.5), (50, 0.7)) | curve((100, 0.6), strategy="lora"))
    assert [(p.strategy, p.share, p.rows, round(p.score.mean, 6)) for p in found] == [
        *(("full", 0.25, 25, 0.5), ("full", 0.5, 50, 0.7), ("full", 1.0, 100, 0.8)),
        ("lora", 1.0, 100, 0.6),
    ]
    assert all(p.score.low < p.score.mean < p.score.high for p in found)
    assert curve_points({("m", "full", 0.5): (10, {})}) == []


def test_gain_of_the_last_doubling_bounds_the_next():
    said = more_labels(curve((25, 0.2), (50, 0.7), (100, 0.8)), FULL)
    assert said.startswith("Twice as many labels would likely bring 0.100 or less: from 50 to 100 labelled rows full ")
    assert "gained 0.100, 0.0" in said and "seed" not in said
    assert "LoRA gained" in more_labels(curve((50, 0.7), (100, 0.8)), FULL, name="LoRA")


def test_part_that_is_more_than_a_doubling_counts_less():
    said = more_labels(curve((25, 0.6), (100, 0.8)), FULL)
    assert said.startswith("Twice as many labels would likely bring 0.100 or less: from 25 to 100")
    # steps below a doubling are too short to speak: the latest that doubles counts
    said = more_labels(curve((25, 0.6), (80, 0.79), (100, 0.8)), FULL)
    assert "from 25 to 100" in said


def test_nothing_is_promised_where_undecided():
    said = more_labels(curve((50, 0.79), (100, 0.8)), FULL)
    assert said.startswith("Undecided: from 50 to 100 labelled rows full gained 0.010, -0.0")
    assert "no gain by more labels is promised" in said and "would likely" not in said


def test_labels_that_hurt():
    assert more_labels(curve((50, 0.9), (100, 0.6)), FULL).startswith("More labels did not help: from 50 to 100")


def test_one_seed_is_told():
    assert "(one seed, which says nothing of others)" in more_labels(curve((50, 0.5), (100, 0.8), seeds=1), FULL)


@pytest.mark.parametrize(
    "points",
    [
        {},
        curve((100, 0.8)),
        curve((50, 0.7), (100, 0.8), strategy="lora"),
        {("m", "full", 0.5): (100, {0: right(0.5)}), ("m", "full", 1.0): (100, {0: right(0.5)})},
        {("m", "full", 0.5): (50, {0: right(0.5)}), ("m", "full", 1.0): (100, {1: right(0.5)})},
        {("m", "full", 0.5): (50, {}), ("m", "full", 1.0): (100, {1: right(0.5)})},
    ],
    ids=["none", "one point", "another strategy", "same rows", "no common seed", "no run"],
)
def test_without_two_points_nothing_is_said(points):
    assert more_labels(points, FULL) == ""


def test_other_strategies():
    table = standing(planned({"scratch": 0.9, "full": 0.8, "lora": 0.79, "probe": 0.5}))
    said = other_strategies(table, None)
    assert said.startswith("The second best, lora, differs from full by -0.010, ")
    assert said.endswith("which cannot be told from nothing.")
    said = other_strategies(table, ("m", "lora"))
    assert said.startswith("full has the best mean; lora differs from it by -0.010, ")
    told = other_strategies(standing(planned({"full": 0.8, "probe": 0.5})), None)
    assert told.startswith("The second best, probe, differs from full by -0.300") and "bring less" in told


def test_other_strategies_where_there_are_none():
    assert other_strategies(standing(planned({"scratch": 0.9, "full": 0.8})), None) == ""
    assert other_strategies(standing({}), None) == ""
    apart = {FULL: {0: right(0.5)}, ("m", "lora"): {1: right(0.5)}}
    assert other_strategies(standing(apart), None) == ""
