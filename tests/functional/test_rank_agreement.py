"""Weighted Kendall tau and the regret against loops over pairs and over all choices."""

from __future__ import annotations

import math
import sys
from itertools import combinations

import numpy as np
import pytest

from hf_transfer.functional.rank_agreement import regret_at, weighted_kendall


def places(first, second):
    """Place of each from 0 for the best by the first, equal ones by the second."""
    order = sorted(range(len(first)), key=lambda i: (-first[i], -second[i]))
    return {number: place for place, number in enumerate(order)}


def tau_by_loops(scores, truth):
    def sign(value):
        return (value > 0) - (value < 0)

    def product(a, b, rank):
        return sum(
            (1 / (rank[i] + 1) + 1 / (rank[j] + 1)) * sign(a[i] - a[j]) * sign(b[i] - b[j])
            for i in range(len(a))
            for j in range(i)
        )

    values = [
        product(scores, truth, rank) / math.sqrt(product(scores, scores, rank) * product(truth, truth, rank))
        for rank in (places(scores, truth), places(truth, scores))
    ]
    return sum(values) / 2


def regret_by_choices(scores, truth, top):
    """Every way to choose `top` models so that no other has a higher score, all as likely."""
    costs = []
    for chosen in combinations(range(len(scores)), top):
        left = [i for i in range(len(scores)) if i not in chosen]
        if all(scores[i] >= scores[j] for i in chosen for j in left):
            costs.append(max(truth) - max(truth[i] for i in chosen))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("values", [1000, 6, 3])
def test_tau_is_that_of_a_loop_with_and_without_ties(values):
    generator = np.random.default_rng(values)
    for _ in range(30):
        scores, truth = generator.integers(values, size=(2, 9)).astype(float)
        if len(set(scores)) > 1 and len(set(truth)) > 1:
            expected = tau_by_loops(scores.tolist(), truth.tolist())
            assert weighted_kendall(scores, truth) == pytest.approx(expected, abs=1e-12)
            assert weighted_kendall(truth, scores) == pytest.approx(expected, abs=1e-12)


def test_equal_and_opposite_orders_are_the_ends():
    values = np.random.default_rng(0).permutation(11) / 7
    assert weighted_kendall(values, np.exp(values)) == 1.0
    assert weighted_kendall(values, -values) == -1.0
    assert weighted_kendall([1, 2], [5, 9]) == 1.0


def test_an_exchange_at_the_top_costs_more_than_at_the_bottom():
    truth = np.arange(8.0)
    top, bottom = truth.copy(), truth.copy()
    top[[6, 7]], bottom[[0, 1]] = top[[7, 6]], bottom[[1, 0]]
    assert weighted_kendall(top, truth) < weighted_kendall(bottom, truth) < 1


def test_ties_in_one_of_them_keep_it_below_one():
    assert 0 < weighted_kendall([1, 1, 2, 3], [1, 2, 3, 4]) < 1


def test_no_order_agrees_with_nothing():
    assert weighted_kendall([2, 2, 2], [1, 2, 3]) == 0.0
    assert weighted_kendall([1, 2, 3], [2, 2, 2]) == 0.0


def test_random_orders_agree_by_about_zero():
    generator = np.random.default_rng(0)
    found = [weighted_kendall(generator.normal(size=8), generator.normal(size=8)) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20


@pytest.mark.parametrize("values", [1000, 4, 2])
def test_regret_is_that_of_all_choices(values):
    generator = np.random.default_rng(values)
    for _ in range(20):
        scores, truth = generator.integers(values, size=7), generator.normal(size=7)
        for top in range(1, 8):
            expected = regret_by_choices(scores.tolist(), truth.tolist(), top)
            assert regret_at(scores, truth, top) == pytest.approx(expected, abs=1e-12)


def test_regret_falls_to_zero_as_more_are_tried():
    scores, truth = [5, 4, 3, 2, 1], [60, 50, 70, 65, 90]
    assert [regret_at(scores, truth, top) for top in (1, 2, 3, 4, 5, 9)] == [30, 30, 20, 20, 0, 0]
    assert regret_at([1.0], [3.0]) == 0.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"`scores` has shape \(1,\).*at least 2 models.*equal length"):
        weighted_kendall([1], [1])
    with pytest.raises(ValueError, match=r"`scores` has shape \(2,\), `truth` \(3,\)"):
        regret_at([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"`scores` holds 1 numbers that are not finite.*Leave out"):
        weighted_kendall([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match=r"`truth` holds 1 numbers"):
        regret_at([1, 2], [1, np.inf])
    with pytest.raises(ValueError, match=r"`top=0`.*nothing would be chosen.*at least 1"):
        regret_at([1, 2], [1, 2], top=0)


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"`weighted_kendall` needs SciPy.*pip install"):
        weighted_kendall([1, 2], [1, 2])
