"""The multilinear maps and the entropy weights of CDAN against loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.multilinear import (
    entropy_weights,
    multilinear_map,
    random_maps,
    randomized_multilinear_map,
)


def rows(n=4, d=5, c=3):
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return features, torch.randn(n, c, dtype=torch.float64, generator=generator).softmax(-1)


def test_every_product_of_a_feature_with_a_probability():
    features, probabilities = rows()
    expected = [
        [p * f for p in probabilities[i].tolist() for f in features[i].tolist()]  # class by class
        for i in range(4)
    ]
    torch.testing.assert_close(multilinear_map(features, probabilities), torch.tensor(expected, dtype=torch.float64))
    assert multilinear_map(features, probabilities).shape == (4, 15)


def test_randomised_map_against_a_loop():
    (features, probabilities), maps = rows(), [m.double() for m in random_maps(5, 3, 7)]
    got = randomized_multilinear_map(features, probabilities, tuple(maps))
    assert got.shape == (4, 7)
    for i in range(4):
        for j in range(7):
            of_features = sum(maps[0][k, j].item() * features[i, k].item() for k in range(5))
            of_classes = sum(maps[1][k, j].item() * probabilities[i, k].item() for k in range(3))
            assert got[i, j].item() == pytest.approx(of_features * of_classes / math.sqrt(7), rel=1e-12)


def test_randomised_map_keeps_inner_products():
    """What it is for: its inner products are those of the product map, in expectation."""
    features, probabilities = rows()
    maps = [m.double() for m in random_maps(5, 3, 200_000)]
    product = multilinear_map(features, probabilities)
    randomised = randomized_multilinear_map(features, probabilities, tuple(maps))
    torch.testing.assert_close(randomised @ randomised.T, product @ product.T, rtol=0.05, atol=0.05)


def test_random_maps_are_the_same_everywhere_and_leave_the_random_numbers_alone():
    torch.manual_seed(1)
    first, expected = random_maps(4, 3, 6), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), expected)
    second = random_maps(4, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], random_maps(4, 3, 6, seed=1)[0])
    wide = random_maps(100, 100, 500)
    for matrix in wide:
        assert abs(matrix.mean()) < 0.02 and abs(matrix.var() - 1) < 0.02
    assert not torch.equal(*wide)


def test_entropy_weights_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(9, 4, dtype=torch.float64, generator=generator)
    domain = torch.tensor([0, 1, 2, 0, 1, 0, 0, 1, 2])
    counted = torch.tensor([1, 1, 1, 1, 0, 1, 0, 1, 1]).bool()
    raw = []
    for row in logits.softmax(-1).tolist():
        raw.append(1 + math.exp(sum(p * math.log(p) for p in row)))
    weights = entropy_weights(logits, domain, counted, 3)
    for i in range(9):
        same = [raw[j] for j in range(9) if counted[j] and domain[j] == domain[i]]
        expected = raw[i] / (sum(same) / len(same)) if counted[i] else 0.0
        assert weights[i].item() == pytest.approx(expected, rel=1e-12)
    for k in range(3):
        assert weights[(domain == k) & counted].mean().item() == pytest.approx(1.0, rel=1e-12)


def test_the_surer_domain_does_not_count_more():
    """With one mean over both domains it would."""
    logits = torch.tensor([[50.0, 0.0], [60.0, 0.0], [0.0, 0.0], [0.1, 0.0]], requires_grad=True)
    weights = entropy_weights(logits, torch.tensor([0, 0, 1, 1]), torch.ones(4).bool(), 2)
    assert not weights.requires_grad
    torch.testing.assert_close(weights[:2].sum(), weights[2:].sum())


def test_entropy_weights_of_huge_logits_and_of_no_rows():
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
    weights = entropy_weights(logits, torch.tensor([0, 0]), torch.ones(2).bool(), 2)
    # entropies 0 and log 3: 2 and 4/3
    torch.testing.assert_close(weights, torch.tensor([1.2, 0.8]))
    assert entropy_weights(logits, torch.tensor([0, 1]), torch.zeros(2).bool(), 2).tolist() == [0.0, 0.0]
