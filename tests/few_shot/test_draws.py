"""Draws without replacement: exact in distribution, and each the same in whatever company."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from hf_transfer.few_shot.draws import distinct, mixed


def chi_square(counts, kinds, total):
    expected = total / kinds
    return sum((counts.get(kind, 0) - expected) ** 2 / expected for kind in range(kinds))


def test_mixed_is_splitmix64():
    """The first outputs of the published generator from state 0, whose state goes up by the golden number."""
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def by_hand(state):
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    assert by_hand(golden) == 0xE220A8397B1DCDAF  # as in the reference implementation for the seed 0
    assert mixed(0).item() == by_hand(golden)
    assert mixed(0, 7).item() == by_hand(((by_hand(golden) ^ 7) + golden) & mask)


def test_mixed_depends_on_every_part_and_their_order():
    assert len({mixed(*parts).item() for parts in permutations((1, 2, 3))}) == 6
    assert len(set(mixed(5, np.arange(10_000)).tolist())) == 10_000


def test_bits_of_mixed_are_even():
    values = mixed(1, np.arange(20_000))
    shares = [float(((values >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(64)]
    assert max(abs(share - 0.5) for share in shares) < 0.02  # 5 standard deviations are 0.018


def test_numbers_are_different_and_below_their_size():
    sizes = np.arange(6, 206)
    chosen = distinct(mixed(0, np.arange(200)), sizes, 6)
    assert chosen.shape == (200, 6) and chosen.dtype == np.int64
    assert all(len(set(row)) == 6 for row in chosen.tolist())
    assert (chosen >= 0).all() and (chosen < sizes[:, None]).all()


def test_all_of_a_size_are_a_permutation():
    chosen = distinct(mixed(3, np.arange(50)), np.full(50, 8), 8)
    assert (np.sort(chosen, axis=1) == np.arange(8)).all()
    assert len({tuple(row) for row in chosen}) > 45


def test_all_ordered_choices_are_equally_likely():
    """60 ordered choices of 3 out of 5, 30,000 draws: chi-square with 59 degrees of freedom, 99.99% below 107."""
    kinds = {choice: number for number, choice in enumerate(permutations(range(5), 3))}
    chosen = distinct(mixed(11, np.arange(30_000)), np.full(30_000, 5), 3)
    counts = Counter(kinds[tuple(row)] for row in chosen.tolist())
    assert chi_square(counts, 60, 30_000) < 107


@pytest.mark.parametrize("place", [0, 9])
def test_every_place_is_uniform_over_a_large_size(place):
    """100 numbers, 10 drawn: the first and the last place alike; 99.99% of chi-square with 99 is below 160."""
    chosen = distinct(mixed(2, np.arange(20_000)), np.full(20_000, 100), 10)
    assert chi_square(Counter(chosen[:, place].tolist()), 100, 20_000) < 160


def test_a_draw_does_not_depend_on_its_company():
    keys, sizes = mixed(4, np.arange(30)), np.arange(10, 40)
    together = distinct(keys, sizes, 5)
    for at in (0, 7, 29):
        assert (distinct(keys[at : at + 1], sizes[at : at + 1], 5) == together[at]).all()
