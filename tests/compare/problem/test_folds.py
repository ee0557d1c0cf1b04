from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hf_transfer.compare.problem.folds import fold_numbers, nested_share


@pytest.mark.parametrize("seed", range(20))
def test_folds_are_even_in_each_class_and_in_all(seed):
    random = np.random.default_rng(seed)
    strata = random.integers(0, 4, random.integers(12, 80))
    folds = int(random.integers(2, 7))
    cut = fold_numbers(strata, folds, seed=seed)
    assert set(cut.tolist()) == set(range(folds)) and cut.shape == strata.shape
    for rows in [strata >= 0, *(strata == number for number in np.unique(strata))]:
        counts = [int((cut[rows] == fold).sum()) for fold in range(folds)]
        assert sum(counts) == rows.sum() and max(counts) - min(counts) <= 1


def test_a_class_with_as_many_rows_as_folds_is_in_every_fold():
    strata = np.array([0] * 23 + [1] * 5)
    cut = fold_numbers(strata, 5, seed=3)
    assert sorted(cut[strata == 1].tolist()) == [0, 1, 2, 3, 4]


def test_the_cut_follows_the_seed():
    strata = np.arange(40) % 2
    cuts = [fold_numbers(strata, 5, seed=seed) for seed in (0, 0, 1)]
    assert (cuts[0] == cuts[1]).all() and (cuts[0] != cuts[2]).any()


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_nested_and_hold_every_class(seed):
    random = np.random.default_rng(seed)
    strata = np.concatenate([np.arange(3), random.choice([0, 0, 0, 1, 2], random.integers(5, 60))])
    shares = [0.01, 0.1, 0.25, 0.5, 0.75, 1.0]
    found = [nested_share(strata, share, seed=seed) for share in shares]
    for smaller, larger in pairwise(found):
        assert set(smaller) <= set(larger)
    for share, rows in zip(shares, found, strict=True):
        assert (np.diff(rows) > 0).all()
        for number, count in enumerate(np.bincount(strata)):
            assert (strata[rows] == number).sum() == max(1, round(share * count))
    assert len(found[-1]) == len(strata) and len(found[0]) == 3


def test_shares_follow_the_seed_and_not_the_order_of_calls():
    strata = np.arange(60) % 3
    first, again, other = (nested_share(strata, 0.5, seed=seed) for seed in (0, 0, 1))
    assert (first == again).all() and set(first) != set(other)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"A share of .* leaves none, or asks for more .* Give a number above 0"):
        nested_share(np.zeros(4, dtype=np.int64), share, seed=0)
