"""The global generators of random numbers, put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from hf_transfer.random_state import random_numbers_put_back


def drawn() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.parametrize("seed", [None, 5])
def test_what_is_drawn_within_changes_nothing_after(seed):
    seeded(0)
    expected = drawn()
    seeded(0)
    with random_numbers_put_back(seed):
        drawn()
    assert drawn() == expected


def test_also_after_an_error():
    seeded(0)
    expected = drawn()
    seeded(0)
    with pytest.raises(KeyError), random_numbers_put_back(1):
        drawn()
        raise KeyError
    assert drawn() == expected


def test_a_seed_makes_all_three_repeatable():
    with random_numbers_put_back(3):
        first = drawn()
    with random_numbers_put_back(3):
        assert drawn() == first
    with random_numbers_put_back(4):
        assert all(a != b for a, b in zip(first, drawn(), strict=True))


def test_without_a_seed_the_generators_go_on():
    seeded(0)
    expected = drawn()
    seeded(0)
    with random_numbers_put_back():
        assert drawn() == expected
