"""Divergences of attention maps and of relations against loops over heads and positions, padding and dropout."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn.functional import dropout, pad

from hf_transfer.functional.attention_distillation import attention_divergence, relation_divergence, split_heads


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def maps(*shape, seed=0, mask=None):
    scores = 2 * draw(*shape, seed=seed)
    return scores.softmax(-1) if mask is None else scores.masked_fill(mask[:, None, None] == 0, -math.inf).softmax(-1)


MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mean_over_examples(found):
    """`found`: per example a list of divergences, one for each head and position."""
    return sum(sum(values) / len(values) if values else 0.0 for values in found) / len(found)


def naive_attention(ours, theirs, mask):
    found = []
    for b in range(len(ours)):
        kept = [p for p in range(ours.shape[2]) if mask[b, p]]
        values = []
        for a in range(ours.shape[1]):
            for p in kept:
                there = [k for k in kept if ours[b, a, p, k] > 0]
                q, r = ([side[b, a, p, k].item() for k in there] for side in (ours, theirs))
                if sum(q) and sum(r):
                    values.append(kl([x / sum(r) for x in r], [x / sum(q) for x in q]))
                else:
                    values.append(0.0)
        found.append(values)
    return mean_over_examples(found)


def naive_relations(ours, theirs, mask):
    found = []
    for b in range(len(ours)):
        kept = [p for p in range(ours.shape[2]) if mask[b, p]]
        values = []
        for a in range(ours.shape[1]):
            for p in kept:
                sides = []
                for side in (theirs, ours):
                    scores = [(side[b, a, p] @ side[b, a, k]).item() / math.sqrt(side.shape[-1]) for k in kept]
                    total = sum(math.exp(score) for score in scores)
                    sides.append([math.exp(score) / total for score in scores])
                values.append(kl(*sides))
        found.append(values)
    return mean_over_examples(found)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_against_loops(padded):
    mask = MASK if padded else torch.ones_like(MASK)
    ours, theirs = maps(3, 2, 4, 4, mask=mask), maps(3, 2, 4, 4, seed=1, mask=mask)
    value = attention_divergence(ours, theirs, mask if padded else None)
    assert value.item() == pytest.approx(naive_attention(ours, theirs, mask), rel=1e-9) and value > 0.05


@pytest.mark.parametrize("padded", [False, True])
def test_attention_after_dropout_against_loops(padded):
    torch.manual_seed(0)
    mask = MASK if padded else torch.ones_like(MASK)
    ours, theirs = maps(3, 2, 4, 4, mask=mask), maps(3, 2, 4, 4, seed=1, mask=mask)
    dropped = dropout(ours, 0.4)
    value = attention_divergence(dropped, theirs, mask if padded else None)
    assert value.item() == pytest.approx(naive_attention(dropped, theirs, mask), rel=1e-9)
    assert attention_divergence(dropped, ours, mask).item() == pytest.approx(0, abs=1e-15), "dropout adds nothing"


def test_causal_maps():
    causal = torch.ones(4, 4).tril().bool()
    ours, theirs = (draw(2, 2, 4, 4, seed=s).masked_fill(~causal, -math.inf).softmax(-1) for s in (0, 1))
    mask = torch.ones(2, 4)
    expected = naive_attention(ours, theirs, mask)
    assert attention_divergence(ours, theirs, mask).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("padded", [False, True])
def test_relations_against_loops_for_other_widths(padded):
    mask = MASK if padded else torch.ones_like(MASK)
    ours, theirs = draw(3, 2, 4, 5), draw(3, 2, 4, 3, seed=1)
    value = relation_divergence(ours, theirs, mask if padded else None)
    assert value.item() == pytest.approx(naive_relations(ours, theirs, mask), rel=1e-9) and value > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_zero_for_equal_sides(dtype):
    both, vectors = maps(3, 2, 4, 4, mask=MASK).to(dtype), draw(3, 2, 4, 5).to(dtype)
    value = attention_divergence(both, both.clone(), MASK)
    assert value.item() == pytest.approx(0, abs=1e-7) and value.dtype == torch.float32
    value = relation_divergence(vectors, vectors.clone(), MASK)
    assert value.item() == 0 and value.dtype == torch.float32


def test_gradients_in_float64_and_only_into_the_student():
    scores, theirs = draw(3, 1, 4, 4).requires_grad_(), maps(3, 1, 4, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_divergence(x.softmax(-1), theirs, MASK), scores)
    vectors, reference = draw(3, 1, 4, 2).requires_grad_(), draw(3, 1, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relation_divergence(x, reference, MASK), vectors)
    (attention_divergence(scores.softmax(-1), theirs) + relation_divergence(vectors, reference)).backward()
    assert theirs.grad is None and reference.grad is None and scores.grad.any() and vectors.grad.any()


def test_gradient_of_the_scores_is_the_difference_of_the_maps():
    scores, theirs = draw(1, 1, 1, 4).requires_grad_(), maps(1, 1, 1, 4, seed=1)
    attention_divergence(scores.softmax(-1), theirs).backward()
    torch.testing.assert_close(scores.grad, scores.softmax(-1).detach() - theirs)


@pytest.mark.parametrize("content", [0.0, 3.0, math.nan, math.inf])
def test_padding_has_no_influence_whatever_it_holds(content):
    ours, theirs = maps(3, 2, 4, 4, mask=MASK), maps(3, 2, 4, 4, seed=1, mask=MASK)
    longer = [pad(pad(side, (0, 2), value=0.0), (0, 0, 0, 2), value=content) for side in (ours, theirs)]
    mask = pad(MASK, (0, 2))
    torch.testing.assert_close(attention_divergence(*longer, mask), attention_divergence(ours, theirs, MASK))
    ours, theirs = draw(3, 2, 4, 5).requires_grad_(), draw(3, 2, 4, 3, seed=1)
    longer = [pad(side, (0, 0, 0, 2), value=content) for side in (ours, theirs)]
    value = relation_divergence(*longer, mask)
    torch.testing.assert_close(value, relation_divergence(ours, theirs, MASK))
    (gradient,) = torch.autograd.grad(value, ours)
    assert gradient.isfinite().all() and not gradient[1, :, 2:].any()


def test_examples_without_positions_and_rows_without_entries_count_as_zero():
    ours = maps(2, 1, 3, 3).requires_grad_()
    value = attention_divergence(0 * ours, maps(2, 1, 3, 3, seed=1))
    value.backward()
    assert value.item() == 0 and not ours.grad.any()
    mask = torch.tensor([[0, 0, 0], [1, 1, 1]])
    assert attention_divergence(ours[1:], maps(2, 1, 3, 3, seed=1)[1:], mask[1:]).item() == pytest.approx(
        2 * attention_divergence(ours, maps(2, 1, 3, 3, seed=1), mask).item()
    )
    vectors = draw(2, 1, 3, 2).requires_grad_()
    value = relation_divergence(vectors, draw(2, 1, 3, 2, seed=1), torch.zeros(2, 3))
    value.backward()
    assert value.item() == 0 and not vectors.grad.any()


def test_one_position_relates_to_itself_alone():
    assert relation_divergence(draw(2, 3, 1, 4), draw(2, 3, 1, 4, seed=1)).item() == 0


def test_maps_next_to_zero_have_finite_gradients_in_every_precision():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        scores = torch.tensor([[[[0.0, -5.0, -12.0, -90.0, -1e4]]]], requires_grad=True)
        value = attention_divergence(scores.softmax(-1).to(dtype), torch.full((1, 1, 1, 5), 0.2))
        value.backward()
        assert value.isfinite() and scores.grad.isfinite().all(), dtype


def test_split_heads():
    vectors = draw(2, 3, 8)
    split = split_heads(vectors, 4)
    assert split.shape == (2, 4, 3, 2) and torch.equal(split[1, 2, 0], vectors[1, 0, 4:6])


def test_a_thousand_degenerate_batches_are_finite():
    choose = random.Random(0)
    torch.manual_seed(0)
    for _ in range(1000):
        rows, heads, length, width = (choose.randint(1, 3) for _ in range(4))
        scale = 10.0 ** choose.choice([-4, 0, 2, 4])
        scores = (scale * torch.randn(rows, heads, length, length)).requires_grad_()
        vectors = (scale * torch.randn(rows, heads, length, width)).requires_grad_()
        reference = (choose.choice([0, 1, 100]) * torch.randn(rows, heads, length, length)).softmax(-1)
        mask = None if choose.random() < 0.3 else (torch.rand(rows, length) < 0.6).long()
        student = dropout(scores.softmax(-1), choose.choice([0.0, 0.5, 0.9]))
        value = attention_divergence(student, reference, mask)
        value = value + relation_divergence(vectors, choose.choice([0.0, 1.0]) * vectors.detach().flip(2), mask)
        gradients = torch.autograd.grad(value, (scores, vectors))
        assert value.isfinite() and value > -1e-5 and all(g.isfinite().all() for g in gradients)
