"""Similarity of pairs against a loop."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.pairs import pair_similarity


def naive(features, labels) -> float:
    total, number = 0.0, 0
    for first in range(0, len(labels) - 1, 2):
        if -100 in labels[first : first + 2]:
            continue
        a, b = (torch.tensor(features[row], dtype=torch.float64) for row in (first, first + 1))
        cosine = (a @ b / (a.norm() * b.norm())).item()
        total += (cosine - (1.0 if labels[first] == labels[first + 1] else 0.0)) ** 2
        number += 1
    return total / max(number, 1)


def drawn(rows):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("labels", [[0, 0], [0, 1, 2, 2, 1, 1], [0, -100, 1, 1, -100, -100], [3, 3, 4, 5, 6]])
def test_value_against_a_loop(labels):
    features = drawn(len(labels))
    loss, _, _ = pair_similarity(features, torch.tensor(labels))
    assert loss.item() == pytest.approx(naive(features.tolist(), labels), rel=1e-9)


def test_gradient_is_that_of_finite_differences():
    labels = torch.tensor([0, 0, 1, 2, 3, -100])
    assert torch.autograd.gradcheck(lambda x: pair_similarity(x, labels)[0], drawn(6))


def test_means_of_either_kind_of_pair():
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [3.0, 4.0], [1.0, 0.0], [-1.0, 0.0]])
    loss, same, different = pair_similarity(features, torch.tensor([0, 0, 0, 1, 2, 2]))
    assert same.item() == pytest.approx(0.0) and different.item() == pytest.approx(0.6)  # (1 - 1) / 2
    assert loss.item() == pytest.approx((0 + 0.36 + 4) / 3)


def test_descent_makes_one_class_alike_and_two_classes_not():
    features, labels = drawn(4), torch.tensor([0, 0, 0, 1])
    for _ in range(300):
        (gradient,) = torch.autograd.grad(pair_similarity(features, labels)[0], features)
        features = (features - gradient).detach().requires_grad_()
    _, same, different = pair_similarity(features, labels)
    assert same > 0.99 and abs(different) < 1e-3


@pytest.mark.parametrize("labels", [[], [0], [-100, 0], [-100, -100, 0, -100, 1]])
def test_without_a_pair_it_is_an_exact_zero_with_a_graph(labels):
    features = drawn(len(labels))
    loss, same, different = pair_similarity(features, torch.tensor(labels, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == same.item() == different.item() == 0 and not gradient.any()


def test_a_thousand_degenerate_batches_stay_finite():
    generator = torch.Generator().manual_seed(3)
    for number in range(1000):
        rows = int(torch.randint(0, 8, (), generator=generator))
        features = (0.0, 1e-30, 1.0, 1e18)[number % 4] * torch.randn(rows, 3, generator=generator)
        features = (features[:1].expand(rows, 3) if number % 3 == 0 else features).clone().requires_grad_()
        labels = torch.tensor([-100, 0, 1])[torch.randint(0, 3, (rows,), generator=generator)]
        loss, *_ = pair_similarity(features, labels)
        (gradient,) = torch.autograd.grad(loss, features)
        assert 0 <= loss <= 4.001 and gradient.isfinite().all()
