"""Scores over seeds, against scipy, a coverage experiment and values from a table of Student's t."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
from scipy import stats

from hf_transfer.repeats import paired_difference, repeats_table, summarise


# Two-sided 95% quantiles of Student's t, from the printed table.
PRINTED = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262, 30: 2.045}


@pytest.mark.parametrize("n", PRINTED)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_it_is_what_scipy_says(n, confidence):
    scores = np.random.default_rng(n).uniform(0.5, 0.9, n)
    summary = summarise(scores, confidence=confidence)
    assert summary.n == n and summary.mean == pytest.approx(scores.mean())
    assert summary.std == pytest.approx(scores.std(ddof=1))
    expected = stats.t.interval(confidence, n - 1, loc=scores.mean(), scale=stats.sem(scores))
    assert summary.interval == pytest.approx(expected)
    assert summary.half_width == pytest.approx((expected[1] - expected[0]) / 2)


@pytest.mark.parametrize("n", PRINTED)
def test_it_is_what_the_printed_table_says(n):
    scores = [0.1 * (i % 2) for i in range(n)]
    mean = sum(scores) / n
    std = math.sqrt(sum((x - mean) ** 2 for x in scores) / (n - 1))
    low, high = summarise(scores).interval
    assert (high - low) / 2 == pytest.approx(PRINTED[n] * std / math.sqrt(n), rel=2e-4)
    assert (high + low) / 2 == pytest.approx(mean)


def test_a_hand_computed_example():
    summary = summarise({0: 1.0, 1: 2.0, 2: 3.0})
    assert (summary.mean, summary.std, summary.n) == (2.0, 1.0, 3)
    assert summary.interval == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)), rel=1e-3)


def test_intervals_of_three_seeds_hold_the_truth_nineteen_times_in_twenty():
    """As those of a normal quantile would not: 1.96 in place of 4.30 covers 81%."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = summarise(generator.normal(0.7, 0.05, 3)).interval
        hits += low <= 0.7 <= high
    assert 0.93 < hits / 2000 < 0.97


def test_one_score_has_no_spread_and_no_nan():
    summary = summarise([0.7])
    assert (summary.mean, summary.std, summary.interval, summary.half_width, summary.n) == (0.7, None, None, None, 1)
    difference = paired_difference({3: 0.7}, {3: 0.5})
    assert difference.mean == pytest.approx(0.2)
    assert difference.std is difference.interval is difference.excludes_zero is None


def test_equal_scores_have_a_spread_of_exactly_zero():
    summary = summarise([0.1] * 3)  # whose floating-point sum is not 0.3
    assert summary.mean == 0.1 and summary.std == 0.0 and summary.interval == (0.1, 0.1)


def test_any_iterable_and_any_confidence():
    assert summarise(x for x in (1.0, 2.0)) == summarise([1, 2])
    narrow, wide = summarise([1, 2, 4], confidence=0.5), summarise([1, 2, 4], confidence=0.99)
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]


# --- pairs


def test_pairs_cancel_what_the_seeds_share():
    luck = [0.0, 0.2, -0.1, 0.3, -0.3]
    one = {seed: 0.5 + x + 0.01 * (seed % 2) for seed, x in enumerate(luck)}
    other = {seed: 0.45 + x for seed, x in enumerate(luck)}
    difference = paired_difference(one, other)
    assert difference.mean == pytest.approx(0.054)
    assert difference.excludes_zero is True
    assert difference.half_width < 0.1 * summarise(one).half_width
    pairs = stats.ttest_rel([one[s] for s in range(5)], [other[s] for s in range(5)])
    assert difference.interval == pytest.approx(tuple(pairs.confidence_interval(0.95)))


@pytest.mark.parametrize("shift", [-0.05, -0.02, 0.0, 0.02, 0.05])
def test_the_flag_is_the_paired_test(shift):
    generator = np.random.default_rng(1)
    one = {seed: float(x) for seed, x in enumerate(generator.normal(shift, 0.02, 5))}
    other = dict.fromkeys(range(5), 0.0)
    rejected = stats.ttest_rel(list(one.values()), list(other.values())).pvalue < 0.05
    assert paired_difference(one, other).excludes_zero is bool(rejected)


def test_pairs_are_matched_by_seed_not_by_order():
    assert paired_difference({0: 1.0, 1: 5.0}, {1: 4.0, 0: 0.0}).std == 0.0


def test_identical_methods_do_not_differ():
    same = paired_difference({0: 0.3, 1: 0.7}, {0: 0.3, 1: 0.7})
    assert (same.mean, same.std, same.excludes_zero) == (0.0, 0.0, False)


def test_other_seeds_are_refused():
    with pytest.raises(ValueError, match="Seeds 2, 5 have a score of one method only: .*Run both .*`summarise`"):
        paired_difference({0: 1.0, 2: 1.0}, {0: 1.0, 5: 1.0})


# --- bad input


@pytest.mark.parametrize("scores", [[], {}, ()])
def test_no_scores_are_refused(scores):
    with pytest.raises(ValueError, match="no scores: .*Give one for each seed"):
        summarise(scores)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite: .*leave its seed out of every method"):
        summarise([0.5, bad])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    with pytest.raises(ValueError, match=r"is outside \(0, 1\): .*such as 0.95"):
        summarise([1.0, 2.0], confidence=confidence)


def test_without_scipy_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert summarise([1.0]).mean == 1.0
    with pytest.raises(ImportError, match="needs SciPy, which is not installed: .*pip install scikit-learn"):
        summarise([1.0, 2.0])


# --- the table


METHODS = {"full": {0: 0.80, 1: 0.70, 2: 0.75}, "l2sp": {0: 0.84, 1: 0.743, 2: 0.785}, "probe": {0: 0.6}}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_says_what_the_functions_say():
    head, rule, *rows = cells(repeats_table(METHODS, baseline="full", digits=4))
    assert head == ["method", "mean", "std", "95% interval", "seeds", "against full"] and set(rule) == {"---"}
    for row, (name, scores) in zip(rows, METHODS.items(), strict=True):
        summary = summarise(scores)
        assert row[:2] == [name, f"{summary.mean:.4f}"] and row[4] == str(summary.n)
        if summary.interval:
            assert row[2] == f"{summary.std:.4f}" and row[3] == " to ".join(f"{x:.4f}" for x in summary.interval)
    difference = paired_difference(METHODS["l2sp"], METHODS["full"])
    low, high = difference.interval
    assert difference.excludes_zero and rows[1][5] == f"**+{difference.mean:.4f}** ({low:.4f} to {high:.4f})"
    assert rows[0][5] == "" and rows[2][2:] == ["", "", "1", "other seeds"]


def test_a_difference_that_may_be_none_is_not_bold():
    table = repeats_table({"a": {0: 0.1, 1: 0.9}, "b": {0: 0.2, 1: 0.8}}, baseline="a")
    assert "**" not in table and "+0.000" in table or "-0.000" in table


def test_single_seeds_are_compared_without_interval():
    rows = cells(repeats_table({"a": {0: 0.1}, "b": {0: 0.2}}, baseline="a"))
    assert rows[-1] == ["b", "0.200", "", "", "1", "+0.100"]


def test_without_a_baseline_there_is_no_such_column():
    head, *_ = cells(repeats_table(METHODS, confidence=0.9))
    assert head == ["method", "mean", "std", "90% interval", "seeds"]


@pytest.mark.parametrize(("methods", "baseline"), [({}, None), (METHODS, "none")])
def test_a_baseline_that_does_not_exist_is_refused(methods, baseline):
    with pytest.raises(ValueError, match="there is nothing to compare. Give the scores"):
        repeats_table(methods, baseline=baseline)
