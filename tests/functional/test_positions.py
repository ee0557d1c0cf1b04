"""Two models' hidden states over each other: against loops, the pooling of torch, and whatever stands at padding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hf_transfer.functional.positions import on_same_positions, row_mean, summary


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])


def test_equally_many_tokens_are_taken_one_by_one():
    states, reference = normal(3, 4, 5), normal(3, 4, 7, seed=1)
    laid = on_same_positions(states, reference, mask=MASK, text=True)
    assert torch.equal(laid.counted, MASK.bool())
    for row in range(3):
        for place in range(4):
            counts = float(MASK[row, place])
            assert torch.equal(laid.states[row, place], states[row, place] * counts)
            assert torch.equal(laid.reference[row, place], reference[row, place] * counts)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_padding_may_hold_anything_and_takes_no_gradient(poison):
    states, reference = normal(3, 4, 5).requires_grad_(), normal(3, 4, 5, seed=1)
    held = torch.where(MASK.bool().unsqueeze(-1), states, poison)
    laid = on_same_positions(held, torch.where(MASK.bool().unsqueeze(-1), reference, poison), mask=MASK)
    clean = on_same_positions(states, reference, mask=MASK)
    assert torch.equal(laid.states, clean.states) and torch.equal(laid.reference, clean.reference)
    laid.states.sum().backward()
    assert torch.equal(states.grad, MASK.double().unsqueeze(-1).expand(3, 4, 5))


@pytest.mark.parametrize(("size", "other"), [((4, 4), (2, 2)), ((7, 5), (3, 2)), ((2, 6), (5, 3)), ((3, 3), (3, 3))])
def test_maps_are_averaged_to_the_smaller_size(size, other):
    states, reference = normal(2, 3, *size), normal(2, 4, *other, seed=1)
    laid = on_same_positions(states, reference)
    shape = (min(size[0], other[0]), min(size[1], other[1]))
    for found, given in ((laid.states, states), (laid.reference, reference)):
        expected = F.adaptive_avg_pool2d(given, shape).flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, expected)
    assert laid.counted is None


@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_patches_of_a_transformer_are_a_map_without_what_stands_before_them(before):
    maps = normal(2, 3, 4, 4)
    tokens = torch.cat([1e3 * normal(2, before, 3), maps.flatten(2).transpose(1, 2)], 1)
    for pair in ((tokens, normal(2, 6, 2, 2)), (tokens, normal(2, 4 + min(before, 2), 6))):
        laid = on_same_positions(*pair)
        torch.testing.assert_close(laid.states, F.adaptive_avg_pool2d(maps, 2).flatten(2).transpose(1, 2))


def test_the_grid_of_images_that_are_not_square():
    maps = normal(2, 3, 2, 8)
    tokens = torch.cat([normal(2, 1, 3), maps.flatten(2).transpose(1, 2)], 1)
    laid = on_same_positions(tokens, normal(2, 6, 2, 4), aspect=2 / 8)
    torch.testing.assert_close(laid.states, F.adaptive_avg_pool2d(maps, (2, 4)).flatten(2).transpose(1, 2))


def test_without_a_grid_both_sides_are_their_mean():
    tokens, maps = normal(2, 12, 3), normal(2, 6, 2, 2)
    laid = on_same_positions(tokens, maps)
    torch.testing.assert_close(laid.states, tokens.mean(1, keepdim=True))
    torch.testing.assert_close(laid.reference.squeeze(1), maps.mean((2, 3)))
    frames = on_same_positions(tokens, normal(2, 7, 3), mask=torch.ones(2, 12).tril(3))
    torch.testing.assert_close(frames.states[0, 0], tokens[0, :4].mean(0))


def test_one_vector_a_row_is_one_position():
    laid = on_same_positions(normal(2, 3), normal(2, 5))
    assert laid.states.shape == (2, 1, 3) and laid.reference.shape == (2, 1, 5)
    assert on_same_positions(normal(2, 3), normal(2, 5, 4, 4)).reference.shape == (2, 1, 5)


def test_texts_of_different_tokens_are_refused():
    with pytest.raises(ValueError, match="4 tokens a row and the teacher 6.*which token.*same tokenizer"):
        on_same_positions(normal(2, 4, 3), normal(2, 6, 3), text=True)


def test_half_precision_becomes_float32():
    laid = on_same_positions(normal(2, 3, 4, 4).bfloat16(), normal(2, 3, 2, 2).half())
    assert laid.states.dtype == laid.reference.dtype == torch.float32


def test_gradient_of_the_pooling():
    reference = normal(1, 2, 2, 2)
    states = normal(1, 2, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: on_same_positions(x, reference).states, states)


def test_mean_of_means_by_row():
    values = normal(3, 4)
    expected = 0.0
    for row in range(3):
        counted = [float(values[row, place]) for place in range(4) if MASK[row, place]]
        expected += (sum(counted) / len(counted) if counted else 0.0) / 3
    assert row_mean(values, MASK.bool()).item() == pytest.approx(expected, rel=1e-12)
    assert row_mean(values).item() == pytest.approx(values.mean().item(), rel=1e-12)


def test_what_stands_for_a_row():
    states = normal(3, 4, 5)
    places = {"first": [0, 1, None], "last": [1, 3, None]}
    for position, chosen in places.items():
        found = summary(states, position, MASK)
        for row, place in enumerate(chosen):
            expected = torch.zeros(5, dtype=torch.float64) if place is None else states[row, place]
            assert torch.equal(found[row], expected)
    assert torch.equal(summary(states, "first"), states[:, 0]) and torch.equal(summary(states, "last"), states[:, -1])
    torch.testing.assert_close(summary(states, "mean", MASK)[1], states[1, 1:].mean(0))
    maps = normal(2, 3, 4, 4)
    for position in ("first", "last", "mean"):
        torch.testing.assert_close(summary(maps, position), maps.mean((2, 3)))
        assert torch.equal(summary(states[:, 0], position), states[:, 0])
    long_mask = torch.ones(3, 400)  # of samples, where the states are of frames
    torch.testing.assert_close(summary(states, "mean", long_mask), states.mean(1))
