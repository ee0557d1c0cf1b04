"""Means and paired differences: which rows and seeds are paired, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.compare.judging.differences import class_differences, common_seeds, differences, estimates, mean
from hf_transfer.compare.judging.row_scores import RowScores
from tests.compare.scored_runs import drawn, planned, right, run


A, B, C = ("m", "a"), ("m", "b"), ("m", "c")


def test_mean_is_over_seeds_of_weighted_means():
    runs = {A: {0: run([1, 0], weights=[3, 1]), 5: run([1, 0, 0, 0])}}
    assert mean(runs, A) == (0.75 + 0.25) / 2
    assert mean(runs, A, [5]) == 0.25
    assert estimates(runs)[A].mean == 0.5  # not the 4 of 8 tokens or the 2 of 6 rows by accident: see the next
    runs[A][5] = run([1, 1, 1, 0])
    assert estimates(runs)[A].mean == 0.75


def test_only_common_seeds_and_rows_are_paired():
    runs = {A: {0: run([1, 1, 0, 0]), 1: run([1, 1, 1, 1])}, B: {0: run([0, 1, 1, 1], ids=[1, 2, 3, 9])}}
    assert common_seeds(runs, A, B) == [0] and common_seeds(runs, A, C) == []
    found = differences(runs, [(A, B)])[A, B]
    assert found.mean == pytest.approx(1 / 3 - 2 / 3)  # rows 1, 2, 3 of seed 0


def test_order_of_rows_does_not_matter():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 2, (2, 50))
    order = generator.permutation(50)
    expected = differences({A: {0: run(first)}, B: {0: run(second)}}, [(A, B)])
    assert differences({A: {0: run(first)}, B: {0: run(second[order], ids=order)}}, [(A, B)]) == expected
    assert expected[A, B].mean == pytest.approx((first - second).mean())


def test_pairs_without_common_seed_or_row_are_left_out():
    runs = {A: {0: right(0.5)}, B: {1: right(0.5)}, C: {0: right(0.4)}}
    assert list(differences(runs, [(A, B), (A, C), (B, C)])) == [(A, C)]
    apart = {A: {0: run([1, 0])}, B: {0: run([1, 0], ids=[5, 6])}}
    assert differences(apart, [(A, B)]) == {} and differences(runs, []) == {}


def test_pairing_takes_out_what_rows_have_in_common():
    runs = planned({"a": 0.5, "b": 0.45})
    found = differences(runs, [(A, B)])[A, B]
    assert found.decided and found.low == pytest.approx(0.05 - 0.03, abs=0.01)
    runs = {A: {0: right(0.5)}, B: {0: right(0.45, shift=100)}}  # right on other rows
    assert not differences(runs, [(A, B)])[A, B].decided


def test_families_are_wider_and_deterministic():
    runs = drawn(np.random.default_rng(0), {"a": 0.7, "b": 0.7, "c": 0.7}, seeds=3, rows=80)
    pairs = [(A, B), (A, C), (B, C)]
    together, alone = differences(runs, pairs), differences(runs, pairs, familywise=False)
    for pair in pairs:
        assert together[pair].low < alone[pair].low < alone[pair].mean == together[pair].mean
    two = differences(runs, pairs, family=pairs[:2])
    assert together[A, B].low < two[A, B].low < alone[A, B].low
    assert differences(runs, pairs) == together != differences(runs, pairs, seed=1)


def test_folds_are_paired_within_their_seed():
    parts = np.arange(60).reshape(3, 20)
    first = {s: right(0.8, 20, ids=parts[s]) for s in range(3)}
    second = {s: right(0.5, 20, ids=parts[s]) for s in range(3)}
    found = differences({A: first, B: second}, [(A, B)])[A, B]
    assert found.mean == pytest.approx(0.3) and found.decided
    rows = np.repeat([1, 0, 0], [18, 42, 0])
    # the same differences of one run over all rows have the same error: seeds add nothing of their own here
    whole = differences({A: {0: run(rows)}, B: {0: run(0 * rows)}}, [(A, B)])[A, B]
    assert found.high - found.low == pytest.approx(whole.high - whole.low, rel=0.2)


def test_tokens_count_by_their_number():
    weights = [8, 1, 1, 0]
    runs = {A: {0: run([1, 0, 0, 0], weights=weights)}, B: {0: run([0, 1, 1, 1], weights=weights)}}
    assert differences(runs, [(A, B)])[A, B].mean == pytest.approx(0.8 - 0.2)


def test_regressions_are_better_with_smaller_errors():
    errors = np.linspace(1, 2, 50)
    runs = {A: {0: run(-errors)}, B: {0: run(-errors - 0.5 - 0.1 * np.sin(np.arange(50)))}}
    found = differences(runs, [(A, B)])[A, B]
    assert found.decided and found.mean == pytest.approx(0.5, abs=0.02)


def test_one_row_has_no_interval():
    runs = {A: {0: run([1])}, B: {0: run([0])}}
    found = differences(runs, [(A, B)])[A, B]
    assert (found.mean, found.low, found.high, found.decided) == (1, None, None, False)
    assert estimates(runs)[A].low is None


def test_runs_without_rows_are_left_out_of_estimates():
    assert list(estimates({A: {0: run([], ids=[])}, B: {0: run([1, 0], weights=[0, 0]), 1: right(0.5)}, C: {}})) == [B]
    assert estimates({}) == {}


def test_rows_with_one_number_are_refused():
    runs = {A: {0: run([1, 0], ids=[3, 3])}}
    with pytest.raises(ValueError, match="Two rows of the run of .* with seed 0 have the same number"):
        estimates(runs)


def test_recall_by_class():
    labels = np.repeat([0, 1, 2], [40, 40, 20])
    first, second = np.zeros(100), np.zeros(100)
    first[:40], second[:20] = 1, 1  # class 0: 1 against 1/2
    first[40:60], second[40:60] = 1, 1  # class 1: both 1/2
    second[80:] = 1  # class 2: 0 against 1
    runs = {A: {0: run(first, labels=labels)}, B: {0: run(second, labels=labels)}}
    found = class_differences(runs, A, B, [0, 1, 2, 7])
    assert {number: pair.mean for number, pair in found.items()} == {0: 0.5, 1: 0, 2: -1}
    assert [pair.decided for pair in found.values()] == [True, False, True]
    alone = class_differences(runs, A, B, [0])[0]
    assert found[0].low <= alone.low  # corrected for the other classes
    assert class_differences({A: {0: run(first)}, B: {0: run(second)}}, A, B, [0]) == {}


def test_an_accuracy_has_an_interval_of_accuracies_and_an_error_of_errors():
    ids = np.arange(8)
    few = RowScores(ids, (ids > 0).astype(float), np.ones(8))
    (found,) = estimates({"few": {0: few}}).values()
    assert found.high == 1.0 and 0 <= found.low < 0.875
    (error,) = estimates({"error": {0: RowScores(ids, -few.scores, np.ones(8))}}).values()
    assert error.low < -1
    none = RowScores(ids, np.zeros(8), np.ones(8))
    (pair,) = differences({"few": {0: few}, "none": {0: none}}, [("few", "none")]).values()
    assert pair.high == 1.0 and pair.low > 0
