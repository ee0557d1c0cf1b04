from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.weight_average import decay_at, update_average


def test_the_decay_rises_to_its_value_and_stays():
    decays = [decay_at(step, decay=0.99) for step in range(1, 2000)]
    assert decays == sorted(decays) and decays[0] == 2 / 11
    reached = decays.index(0.99) + 1
    assert (1 + reached) / (10 + reached) >= 0.99 > (reached) / (9 + reached)
    assert set(decays[reached - 1 :]) == {0.99}


def test_without_warm_up_it_is_constant_and_zero_stays_zero():
    assert {decay_at(step, decay=0.9, warmup=False) for step in range(1, 9)} == {0.9}
    assert decay_at(1, decay=0.0) == 0.0


def test_the_average_is_the_sum_written_out():
    decays = [0.2, 0.5, 0.9]
    values = torch.randn(4, 3, dtype=torch.float64)
    average = values[0].clone()
    for decay, value in zip(decays, values[1:], strict=True):
        update_average([average], [value], decay=decay)
    for place in range(3):
        expected = 0.0
        for step in range(4):
            share = 1.0 if step == 0 else 1 - decays[step - 1]
            for later in range(step, 3):
                share *= decays[later]
            expected += share * values[step, place].item()
        assert average[place].item() == pytest.approx(expected, rel=1e-12)


def test_extreme_decays_keep_or_replace():
    for decay, expected in ((1.0, 1.0), (0.0, 5.0)):
        average = torch.ones(3)
        update_average([average], [torch.full((3,), 5.0)], decay=decay)
        assert torch.equal(average, torch.full((3,), expected))


def test_an_average_of_equal_values_is_that_value_bit_for_bit():
    value = torch.randn(100)
    average = value.clone()
    for step in range(1, 50):
        update_average([average], [value], decay=decay_at(step, decay=0.999))
    assert torch.equal(average, value)


def test_half_precision_values_move_an_average_in_single_precision():
    """In bfloat16 itself a thousandth of the difference would be lost to rounding."""
    average, value = torch.ones(1), torch.full((1,), 1.25, dtype=torch.bfloat16)
    for _ in range(100):
        update_average([average], [value], decay=0.999)
    assert average.item() == pytest.approx(1.25 - 0.25 * 0.999**100, rel=1e-5)


def test_several_shapes_and_types_in_one_call_and_none_at_all():
    averages = [torch.zeros(2, 2), torch.zeros(3, dtype=torch.float64)]
    update_average(averages, [torch.ones(2, 2), torch.ones(3, dtype=torch.float64)], decay=0.75)
    assert all(torch.equal(average, torch.full_like(average, 0.25)) for average in averages)
    update_average([], [], decay=0.5)


def test_no_gradient_flows_and_none_is_needed():
    average, value = torch.zeros(2), torch.ones(2, requires_grad=True)
    update_average([average], [value], decay=0.5)
    assert not average.requires_grad
