"""`PairSampler`: which pairs, how often, in what order, and how much memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer.few_shot.pairs import PairSampler, permuted


LABELS = [0, 1, 0, 2, -100, 1, 0, 2, 2, 1, 0]
ROWS = [row for row, label in enumerate(LABELS) if label != -100]
SAME = {pair for pair in combinations(ROWS, 2) if LABELS[pair[0]] == LABELS[pair[1]]}
DIFFERENT = set(combinations(ROWS, 2)) - SAME


def pairs_of(sampler, epochs=1) -> list[tuple[int, int]]:
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        found += [(min(pair), max(pair)) for pair in zip(rows[::2], rows[1::2], strict=True)]
    return found


def test_numbers_of_pairs_are_those_of_a_list():
    assert PairSampler(LABELS).num_pairs == (len(SAME), len(DIFFERENT))


def test_every_pair_is_one_of_the_list_and_kinds_alternate():
    sampler = PairSampler(LABELS, pairs_per_row=4)
    pairs = pairs_of(sampler, epochs=3)
    assert len(pairs) == 3 * 4 * len(ROWS) and len(sampler) == 2 * 4 * len(ROWS)
    assert all(pair in SAME for pair in pairs[::2]) and all(pair in DIFFERENT for pair in pairs[1::2])


def test_no_pair_comes_twice_before_all_were_seen_over_epochs():
    sampler = PairSampler(LABELS, pairs_per_row=2)
    pairs = pairs_of(sampler, epochs=8)
    for kind, known in ((pairs[::2], SAME), (pairs[1::2], DIFFERENT)):
        for start in range(0, len(kind) - len(known) + 1, len(known)):
            assert set(kind[start : start + len(known)]) == known
    passes = [pairs[::2][start : start + len(SAME)] for start in (0, len(SAME))]
    assert passes[0] != passes[1]  # in a new order


def test_the_only_pair_of_one_class_comes_each_time():
    pairs = pairs_of(PairSampler([5, 5, 6], pairs_per_row=4))
    assert pairs[::2] == [(0, 1)] * 6 and Counter(pairs[1::2]) == {(0, 2): 3, (1, 2): 3}


def test_order_is_a_function_of_seed_and_epoch():
    first, again, other = (PairSampler(LABELS, seed=seed) for seed in (3, 3, 4))
    assert list(first) == list(again) != list(other)
    first.set_epoch(1)
    assert list(first) != list(again)
    first.set_epoch(0)
    assert list(first) == list(again)


def test_an_odd_number_of_pairs_gets_one_more():
    sampler = PairSampler([0, 0, 1], pairs_per_row=1)
    assert len(sampler) == len(list(sampler)) == 8  # 4 pairs for 3


def test_pairs_are_spread_over_the_rows():
    labels = np.repeat(np.arange(10), 20)
    counts = np.bincount(list(PairSampler(labels, pairs_per_row=50)), minlength=200)
    assert counts.sum() == 20_000 and counts.min() > 50 and counts.max() < 160  # 100 each, give or take


def test_many_rows_take_the_memory_of_an_epoch_only():
    labels = np.repeat(np.arange(50), 2000)
    tracemalloc.start()
    sampler = PairSampler(labels, pairs_per_row=1)
    drawn = sampler._same(sampler._drawn(0, sampler.num_pairs[0]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sampler.num_pairs == (50 * 2000 * 1999 // 2, 50 * 49 // 2 * 2000**2)
    assert len(drawn[0]) == 50_000 and peak < 100e6  # all pairs would be 80 GB
    first, second = (labels[sampler._rows[places]] for places in drawn)
    assert (first == second).all() and (drawn[0] < drawn[1]).all()


def test_last_numbers_decode_to_the_last_pairs():
    sampler = PairSampler(np.repeat([0, 1], [100_000, 3]))
    same, different = sampler.num_pairs
    ends = sampler._same(np.array([0, same - 4, same - 1]))
    assert [(a.item(), b.item()) for a, b in zip(*ends, strict=True)] == [(0, 1), (99_998, 99_999), (100_001, 100_002)]
    last = sampler._other(np.array([0, different - 1]))
    assert [(a.item(), b.item()) for a, b in zip(*last, strict=True)] == [(0, 100_000), (99_999, 100_002)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 1000])
def test_permuted_is_a_permutation_that_key_and_tweak_choose(size):
    key = np.random.default_rng(0).integers(0, 2**63, 6, dtype=np.uint64)
    orders = [permuted(np.arange(size), size, k, np.full(size, t)) for k, t in ((key, 0), (key, 1), (key[::-1], 0))]
    assert all(sorted(order) == list(range(size)) for order in orders)
    if size >= 17:
        assert len({tuple(order) for order in orders}) == 3
        displaced = np.abs(orders[0] - np.arange(size)).mean() / size
        assert 0.15 < displaced < 0.5  # a third for a random one


def test_takes_a_dataset_and_does_not_decode_it():
    data = Dataset.from_dict({"text": ["a"] * 11, "labels": LABELS}).with_transform(lambda rows: 1 / 0)
    assert list(PairSampler(data)) == list(PairSampler(LABELS))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([1, 1, 1, -100], {}, "1 classes among 3 labelled rows: pairs of one class.*Give two classes or more"),
        ([0, 1, 2], {}, "one row of each class among 3 labelled rows.*two rows or more"),
        ([-100, -100], {}, "0 classes among 0 labelled rows"),
        ([0, 0, 1], {"pairs_per_row": 0}, "`pairs_per_row=0`: an epoch would hold no pair.*default 10"),
        ([0, 0, 1], {"seed": -1}, "seed=-1 is negative"),
    ],
)
def test_refuses(labels, options, message):
    with pytest.raises(ValueError, match=message):
        PairSampler(labels, **options)
