"""The critic's dual, its slope against autograd, and the points between domains against a loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from hf_transfer.functional.critic import gradient_penalty, input_gradient, interpolate, wasserstein_dual


def network(widths=(4, 9, 7, 1)):
    torch.manual_seed(0)
    linear = [nn.Linear(a, b, dtype=torch.float64) for a, b in itertools.pairwise(widths)]
    layers = [(layer.weight, layer.bias) for layer in linear]

    def function(x):
        for layer in linear[:-1]:
            x = layer(x).relu()
        return linear[-1](x).squeeze(-1)

    return function, layers, [p for layer in linear for p in (layer.weight, layer.bias)]


@pytest.mark.parametrize("widths", [(4, 1), (4, 9, 1), (4, 9, 7, 1), (3, 5, 5, 5, 1)])
def test_slope_is_that_of_autograd(widths):
    function, layers, _ = network(widths)
    inputs = torch.randn(11, widths[0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(function(inputs).sum(), inputs)
    torch.testing.assert_close(input_gradient(inputs.detach(), layers), expected)


def test_penalty_trains_the_weights_as_a_double_backward_would():
    function, layers, parameters = network()
    inputs = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    counted = torch.arange(11) % 3 > 0
    (slope,) = torch.autograd.grad(function(inputs).sum(), inputs, create_graph=True)
    twice = (slope.norm(dim=-1) - 1).square()[counted].mean()
    # the biases move no slope
    expected = torch.autograd.grad(twice, parameters, allow_unused=True, materialize_grads=True)
    once, mean_slope = gradient_penalty(inputs.detach(), counted, layers)
    got = torch.autograd.grad(once, parameters, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(mean_slope, slope.norm(dim=-1)[counted].mean())
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_penalty_is_two_sided():
    for slope, expected in [(0.0, 1.0), (0.5, 0.25), (1.0, 0.0), (3.0, 4.0)]:
        layers = [(torch.tensor([[slope, 0.0]]), None)]
        assert gradient_penalty(torch.randn(3, 2), torch.ones(3), layers)[0].item() == pytest.approx(expected)


def test_flat_network_has_a_finite_gradient():
    """Every unit off: the slope is zero, where a square root has no derivative."""
    weight = torch.zeros(1, 2, requires_grad=True)
    penalty, slope = gradient_penalty(torch.ones(3, 2), torch.ones(3), [(weight, None)])
    penalty.backward()
    assert penalty.item() == 1 and slope.item() == 0 and weight.grad.tolist() == [[0.0, 0.0]]


def test_no_points_are_an_exact_zero():
    _, layers, parameters = network()
    penalty, slope = gradient_penalty(torch.randn(3, 4, dtype=torch.float64), torch.zeros(3), layers)
    (penalty + slope).backward()
    assert penalty.item() == 0 and slope.item() == 0
    assert not any(p.grad.any() for p in parameters if p.grad is not None)


def test_dual_against_means():
    scores = torch.tensor([1.0, 4.0, -2.0, 7.0, 100.0], dtype=torch.float64)
    source, target = torch.tensor([1.0, 0, 1, 0, 0]), torch.tensor([0.0, 1, 0, 1, 0])
    assert wasserstein_dual(scores, source, target).item() == (1 - 2) / 2 - (4 + 7) / 2
    assert wasserstein_dual(scores, source, torch.zeros(5)).item() == 0
    assert wasserstein_dual(scores, torch.zeros(5), target).item() == 0


@pytest.mark.parametrize("domain", [[0, 1], [0, 1, 1, 1], [1, 0, 0, 1, 0, 0, 0], [2, 0, 1, 2, 1], [0, 0], [1], [2, 2]])
def test_points_between_against_a_loop(domain):
    torch.manual_seed(0)
    domain = torch.tensor(domain)
    features = torch.randn(len(domain), 3, dtype=torch.float64)
    share = torch.rand(len(domain), 1, dtype=torch.float64)
    source, target = (domain == 0).float(), (domain == 1).float()
    points, counted = interpolate(features, source, target, share)
    starts = [row for row, k in zip(features, domain, strict=True) if k == 0]
    ends = [row for row, k in zip(features, domain, strict=True) if k == 1]
    larger = max(len(starts), len(ends)) if starts and ends else 0
    assert counted.tolist() == [i < larger for i in range(len(domain))]
    assert points.isfinite().all()
    for i in range(larger):
        a, b = starts[i % len(starts)], ends[i % len(ends)]
        torch.testing.assert_close(points[i], a + share[i] * (b - a))
