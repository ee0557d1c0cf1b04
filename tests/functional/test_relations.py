"""Distances, angles and similarities against loops over single rows, and where they are undefined."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn import functional as F

from hf_transfer.functional import relations
from hf_transfer.functional.relations import (
    angle_differences,
    distance_differences,
    example_rows,
    similarity_differences,
)


ALL = [distance_differences, angle_differences, similarity_differences]


def rows(count, width, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)


def huber(a, b):
    gap = abs(a - b)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def length(a):
    return math.sqrt(dot(a, a))


def naive_distances(s, t):
    count = len(s)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    sides = []
    for side in (s, t):
        found = {(i, j): length(minus(side[i], side[j])) for i, j in pairs}
        positive = [d for d in found.values() if d > 0]
        mean = sum(positive) / len(positive) if positive else 1.0
        sides.append({pair: d / mean for pair, d in found.items()})
    return sum(huber(sides[0][pair], sides[1][pair]) for pair in pairs) / len(pairs)


def cosine_at(side, i, j, k):
    a, b = minus(side[i], side[j]), minus(side[k], side[j])
    return dot(a, b) / (length(a) * length(b)) if length(a) and length(b) else 0.0


def naive_angles(s, t):
    count = range(len(s))
    triples = [(i, j, k) for i in count for j in count for k in count if len({i, j, k}) == 3]
    return sum(huber(cosine_at(s, *triple), cosine_at(t, *triple)) for triple in triples) / len(triples)


def naive_similarities(s, t):
    total, count = 0.0, len(s)
    for i in range(count):
        own, other = ([dot(side[i], side[j]) for j in range(count)] for side in (s, t))
        for a, b in zip(own, other, strict=True):
            total += (a / (length(own) or 1) - b / (length(other) or 1)) ** 2
    return total / count**2


NAIVE = dict(zip(ALL, [naive_distances, naive_angles, naive_similarities], strict=True))


@pytest.mark.parametrize("quantity", ALL)
@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("twins", [False, True])
def test_value_against_loops(quantity, spread, twins):
    s, t = rows(6, 4), rows(6, 7, seed=1).pow(3) * spread
    if twins:  # equal rows in each, not the same ones
        s[1], t[3] = s[0].clone(), t[2].clone()
    expected = NAIVE[quantity](s.tolist(), t.tolist())
    assert quantity(s, t).item() == pytest.approx(expected, rel=1e-9) and expected > 1e-3


def test_both_branches_of_the_smooth_loss_occur():
    # one far row: its relative distance differs by more than 1
    s, t = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[0.0], [1.0], [2.0], [60.0]])
    expected = naive_distances(s.tolist(), t.tolist())
    assert distance_differences(s, t).item() == pytest.approx(expected, rel=1e-6)
    # opposite angles: cosines 1 and -1
    s, t = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [0.0], [2.0]])
    assert angle_differences(s, t).item() == pytest.approx(naive_angles(s.tolist(), t.tolist()), rel=1e-6)


@pytest.mark.parametrize("quantity", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_exactly_zero_for_equal_rows_in_both(quantity, dtype):
    both = rows(5, 3).to(dtype)
    value = quantity(both, both.clone())
    assert value.item() == 0 and value.dtype == torch.float32


@pytest.mark.parametrize("quantity", [distance_differences, angle_differences])
def test_moving_turning_and_scaling_change_nothing(quantity):
    turn, _ = torch.linalg.qr(rows(4, 4, seed=2))
    assert quantity(rows(6, 4), 3 * rows(6, 4) @ turn + 7).item() == pytest.approx(0, abs=1e-20)


def test_similarities_change_with_the_origin_and_not_with_the_scale():
    assert similarity_differences(rows(6, 4), 1e3 * rows(6, 4)).item() == pytest.approx(0, abs=1e-20)
    assert similarity_differences(rows(6, 4), rows(6, 4) + 2) > 1e-2


@pytest.mark.parametrize("quantity", ALL)
def test_gradient_in_float64_and_only_into_the_rows(quantity):
    s, t = rows(4, 3, requires_grad=True), rows(4, 2, seed=1, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: quantity(x, t), s)
    quantity(s, t).backward()
    assert s.grad.abs().sum() > 0 and t.grad is None


@pytest.mark.parametrize("quantity", ALL)
def test_descent_reaches_the_relations_of_the_reference(quantity):
    s, t = rows(5, 3, requires_grad=True), rows(5, 6, seed=1)
    first = quantity(s, t).item()
    optimizer = torch.optim.Adam([s], lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        quantity(s, t).backward()
        optimizer.step()
    assert quantity(s, t).item() < 0.2 * first


def test_a_pair_too_far_apart_is_drawn_together():
    s = torch.tensor([[0.0], [1.0], [9.0]], requires_grad=True)
    distance_differences(s, torch.tensor([[0.0], [1.0], [2.0]])).backward()
    assert s.grad[2] > 0  # descent moves it towards the others


@pytest.mark.parametrize(("quantity", "least"), [(distance_differences, 2), (angle_differences, 3)])
def test_too_few_rows_give_an_exact_zero_with_a_graph(quantity, least):
    for count in range(1, least):
        s = rows(count, 3, requires_grad=True)
        value = quantity(s, rows(count, 4, seed=1))
        value.backward()
        assert value.item() == 0 and s.grad is not None and not s.grad.any()


def test_one_row_is_as_similar_to_itself_as_can_be():
    s = rows(1, 3, requires_grad=True)
    value = similarity_differences(s, rows(1, 4, seed=1))
    value.backward()
    assert value.item() == 0 and not s.grad.any()


@pytest.mark.parametrize("quantity", ALL)
def test_equal_rows_have_a_finite_gradient(quantity):
    s = torch.ones(4, 3, requires_grad=True)
    quantity(s, rows(4, 3).float()).backward()
    assert s.grad.isfinite().all()
    mixed = rows(4, 3).float()
    mixed[1] = mixed[0].clone()
    mixed.requires_grad_()
    quantity(mixed, rows(4, 3, seed=1).float()).backward()
    assert mixed.grad.isfinite().all() and mixed.grad.any()


@pytest.mark.parametrize("limit", [1, 200, 10_000])
def test_angles_a_few_anchors_at_a_time_are_the_same(monkeypatch, limit):
    s, t = rows(7, 3, requires_grad=True), rows(7, 9, seed=1)
    whole = angle_differences(s, t)
    (expected,) = torch.autograd.grad(whole, s)
    monkeypatch.setattr(relations, "ANGLE_ELEMENTS", limit)
    value = angle_differences(s, t)
    (gradient,) = torch.autograd.grad(value, s)
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


def test_angles_in_chunks_keep_no_tensor_of_all_triples(monkeypatch):
    monkeypatch.setattr(relations, "ANGLE_ELEMENTS", 2 * 20 * 20)
    s, t = rows(20, 3, requires_grad=True), rows(20, 3, seed=1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        angle_differences(s, t)
    assert sum(kept) < 20 * 20 * 20


def test_example_rows():
    tokens, mask = rows(2, 6).view(2, 3, 2), torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected = torch.stack([(tokens[0, 0] + tokens[0, 1]) / 2, torch.zeros(2, dtype=torch.float64)])
    torch.testing.assert_close(example_rows(tokens, mask), expected)
    torch.testing.assert_close(example_rows(tokens), tokens.mean(1))
    torch.testing.assert_close(example_rows(tokens, torch.ones(2, 9)), tokens.mean(1))  # of another length
    assert example_rows(torch.ones(2, 3, 4, 5)).shape == (2, 60)
    assert example_rows(torch.ones(2, 3)).shape == (2, 3)
    assert example_rows(torch.ones(2, 3, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_padding_has_no_influence_even_if_it_is_not_finite():
    tokens, mask = rows(2, 6).view(2, 3, 2), torch.tensor([[1, 1, 0], [1, 1, 1]])
    longer = F.pad(tokens, (0, 0, 0, 2), value=math.nan)
    longer[0, 2] = math.inf
    torch.testing.assert_close(example_rows(longer, F.pad(mask, (0, 2))), example_rows(tokens, mask))


def test_a_thousand_degenerate_batches_are_finite():
    draw = random.Random(0)
    torch.manual_seed(0)
    for _ in range(1000):
        count, scale = draw.randint(1, 5), 10.0 ** draw.choice([-8, -4, 0, 2, 4])
        s, t = scale * torch.randn(count, draw.randint(1, 6)), torch.randn(count, draw.randint(1, 6))
        if draw.random() < 0.3:
            s = s[:1].repeat(count, 1)
        if draw.random() < 0.3:
            t = t[:1].repeat(count, 1)
        if draw.random() < 0.2:
            s[draw.randrange(count)] = 0
        if draw.random() < 0.2:
            t = t * 0
        s.requires_grad_()
        for quantity in ALL:
            value = quantity(s, t)
            (gradient,) = torch.autograd.grad(value, s)
            assert value.isfinite() and value >= 0 and gradient.isfinite().all()
