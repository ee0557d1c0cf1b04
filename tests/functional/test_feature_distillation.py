"""Distances of hidden states against naive loops in float64, their gradients, and 1,000 degenerate batches."""

from __future__ import annotations

import math
import random

import pytest
import torch

from hf_transfer.functional.feature_distillation import (
    attention_transfer,
    direction,
    energy,
    vector_distance,
    vector_distances,
)
from hf_transfer.functional.positions import Positions, on_same_positions


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


COUNTED = torch.tensor([[True, True, False], [True, True, True]])


def naive_distance(v, r, distance, normalize):
    v, r = [float(x) for x in v], [float(x) for x in r]
    if normalize:

        def standard(values):
            mean = sum(values) / len(values)
            variance = sum((x - mean) ** 2 for x in values) / len(values)
            return [(x - mean) / math.sqrt(variance + 1e-5) for x in values]

        v, r = standard(v), standard(r)
    if distance == "mse":
        return sum((a - b) ** 2 for a, b in zip(v, r, strict=True)) / len(v)
    product = sum(a * b for a, b in zip(v, r, strict=True))
    return 1 - product / math.sqrt(sum(a * a for a in v)) / math.sqrt(sum(b * b for b in r))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_vector_distance_against_loops(distance, normalize):
    v, r = normal(2, 3, 5), normal(2, 3, 5, seed=1)
    expected = 0.0
    for row in range(2):
        counted = [place for place in range(3) if COUNTED[row, place]]
        values = [naive_distance(v[row, place], r[row, place], distance, normalize) for place in counted]
        expected += sum(values) / len(values) / 2
    found = vector_distance(v, r, COUNTED, distance=distance, normalize=normalize)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_attention_transfer_against_loops(p):
    v, r = normal(2, 4, 3, 3), normal(2, 6, 3, 3, seed=1)
    expected = 0.0
    for row in range(2):
        maps = []
        for states in (v[row], r[row]):
            flat = [sum(abs(float(x)) ** p for x in states[:, y, z]) / len(states) for y in range(3) for z in range(3)]
            length = math.sqrt(sum(q * q for q in flat))
            maps.append([q / length for q in flat])
        expected += sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / 9 / 2
    found = attention_transfer(on_same_positions(energy(v, p), energy(r, p)))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_attention_transfer_of_tokens_counts_those_of_the_mask():
    v, r = normal(2, 3, 4), normal(2, 3, 6, seed=1)
    mask = COUNTED.long()
    laid = on_same_positions(energy(v, 2, mask), energy(r, 2, mask), mask=mask)
    short = [
        attention_transfer(Positions(energy(v[i : i + 1, :n]), energy(r[i : i + 1, :n]), None)).item()
        for i, n in enumerate((2, 3))
    ]
    assert attention_transfer(laid).item() == pytest.approx(sum(short) / 2, rel=1e-10)


def test_maps_of_different_sizes_are_averages_of_energy():
    v = normal(2, 4, 4, 4)
    q = energy(v).squeeze(1)
    quarters = torch.stack([q[:, y : y + 2, z : z + 2].mean((1, 2)) for y in (0, 2) for z in (0, 2)], 1)
    laid = on_same_positions(energy(v), energy(normal(2, 5, 2, 2, seed=1)))
    torch.testing.assert_close(laid.states.squeeze(-1), quarters)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_exactly_when_equal(distance, dtype):
    v = normal(3, 5, 7).to(dtype)
    assert vector_distance(v, v.clone(), distance=distance).item() == 0
    assert attention_transfer(Positions(energy(v), energy(v.clone()), None)).item() == 0


def test_what_the_distances_do_not_see():
    v, r = normal(3, 5, 7), normal(3, 5, 7, seed=1)
    torch.testing.assert_close(vector_distance(5 * v, r, distance="cosine"), vector_distance(v, r, distance="cosine"))
    shifted = vector_distance(5 * v + 3, r, normalize=True)
    torch.testing.assert_close(shifted, vector_distance(v, r, normalize=True), rtol=1e-4, atol=0)
    maps = [attention_transfer(Positions(energy(scale * v), energy(r), None)) for scale in (1.0, 1e-3, 1e3)]
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(maps[0], maps[2])
    torch.testing.assert_close(vector_distances(v, -v, "cosine"), torch.full((3, 5), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_gradients_of_the_distances(distance):
    r, v = normal(2, 3, 4), normal(2, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vector_distance(x, r, COUNTED, distance=distance), v)
    vector_distance(v, r, distance=distance).backward()
    with torch.no_grad():
        nearer = vector_distance(v - 0.01 * v.grad, r, distance=distance)
        assert nearer < vector_distance(v, r, distance=distance)


def test_gradient_of_attention_transfer():
    r, v = normal(2, 5, 3, 3), normal(2, 4, 3, 3, seed=1).requires_grad_()
    # the number that keeps the maps in range is a constant of their direction, and of its gradient
    assert torch.autograd.gradcheck(lambda x: attention_transfer(on_same_positions(energy(x), energy(r))), v)


def test_no_gradient_reaches_the_reference():
    v, r = normal(2, 3, 4).requires_grad_(), normal(2, 3, 4, seed=1).requires_grad_()
    total = vector_distance(v, r) + vector_distance(v, r, distance="cosine")
    (total + attention_transfer(Positions(energy(v), energy(r), None))).backward()
    assert v.grad.any() and r.grad is None


def test_direction_at_both_ends_of_the_range():
    rows = torch.tensor([[3e30, 4e30], [3e-7, 4e-7], [0.0, 0.0], [1e-9, 0.0]]).requires_grad_()
    found = direction(rows)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    found.sum().backward()
    assert rows.grad.isfinite().all() and not rows.grad[2:].any()


def test_a_thousand_degenerate_batches():
    draw = random.Random(0)
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        B, T, D = draw.choice([1, 2, 3]), draw.choice([1, 2, 5]), draw.choice([1, 2, 4])
        scale = draw.choice([0.0, 1e-12, 1.0, 1e4])
        v = scale * torch.randn(B, T, D, generator=generator)
        r = draw.choice([0.0, 1.0, 1e4]) * torch.randn(B, T, D, generator=generator)
        if draw.random() < 0.3:
            v = v[:1, :1, :1].expand(B, T, D).clone()  # constant
        if draw.random() < 0.2:
            r = v.clone()
        mask = (torch.rand(B, T, generator=generator) < draw.choice([0.0, 0.5, 1.0])).long()
        v.requires_grad_()
        kind = seed % 4
        if kind < 3:
            laid = on_same_positions(v, r, mask=mask)
            options = {"distance": "mse" if kind else "cosine", "normalize": kind == 2}
            term = vector_distance(laid.states, laid.reference, laid.counted, **options)
        else:
            term = attention_transfer(on_same_positions(energy(v, 2, mask), energy(r, 2, mask), mask=mask))
        assert term.isfinite() and term >= 0
        term.backward()
        assert v.grad is not None and v.grad.isfinite().all()
        assert not v.grad[mask == 0].any()
        if not mask.any() or torch.equal(v, r):
            assert term == 0
