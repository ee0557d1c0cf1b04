"""Uncertainty weighting: weights by the log variances, and the gradient that moves them."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.objectives.multitask.uncertainty_weighting import UncertaintyWeighting
from tests.objectives.task_rows import STARS, TAGS, TOPIC


TASKS = (TOPIC, STARS, TAGS)
ALL = torch.tensor([True, True, True])


def built(**options) -> UncertaintyWeighting:
    return UncertaintyWeighting(**options).build(TASKS).double()


def test_starts_at_the_published_log_variance():
    assert built().log_variances.tolist() == [-0.5] * 3
    assert built().regression.tolist() == [False, True, False]


def test_the_gradient_is_that_of_the_paper():
    """With respect to sigma: L / (2 sigma^2) + log sigma for the regression, L / sigma^2 + log sigma for classes."""
    weighting, losses = built(speed=1.0), torch.tensor([1.2, 3.0, 0.4], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        weighting.log_variance_bias.copy_(torch.tensor([0.3, -0.2, 1.0]))
    sigmas = [math.exp((value - 0.5) / 2) for value in (0.3, -0.2, 1.0)]
    factors = [1.0, 0.5, 1.0]
    weighted = weighting(losses, ALL)
    weights = [factor / sigma**2 for factor, sigma in zip(factors, sigmas, strict=True)]
    assert weighting.weights.tolist() == pytest.approx(weights)
    assert weighted.tolist() == pytest.approx([w * x for w, x in zip(weights, losses.tolist(), strict=True)])
    weighted.sum().backward()
    assert losses.grad.tolist() == pytest.approx(weights)
    for k, (factor, sigma, loss) in enumerate(zip(factors, sigmas, losses.tolist(), strict=True)):
        by_sigma = -2 * factor * loss / sigma**3 + 1 / sigma
        assert weighting.log_variance_bias.grad[k].item() == pytest.approx(by_sigma * sigma / 2)


def test_training_finds_the_noise():
    weighting, losses = built(), torch.tensor([2.0, 0.5, 0.25], dtype=torch.float64)
    optimizer = torch.optim.AdamW(weighting.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(600):
        optimizer.zero_grad()
        weighting(losses, ALL).sum().backward()
        optimizer.step()
    # the least of the term: e^s is the loss of a regression, and twice that of classes
    assert weighting.log_variances.exp().tolist() == pytest.approx([4.0, 0.5, 0.5], rel=0.02)


def test_speed_is_what_an_adaptive_optimizer_moves_further():
    moved = []
    for speed in (1.0, 20.0):
        weighting = built(speed=speed)
        optimizer = torch.optim.AdamW(weighting.parameters(), lr=5e-5, weight_decay=0.0)
        weighting(torch.tensor([2.0, 0.5, 0.25], dtype=torch.float64), ALL).sum().backward()
        optimizer.step()
        moved.append((weighting.log_variances + 0.5).detach())
    torch.testing.assert_close(moved[1], 20 * moved[0], rtol=1e-4, atol=0)
    assert moved[1].abs().tolist() == pytest.approx([1e-3] * 3, rel=1e-3)


@pytest.mark.parametrize("speed", [1.0, 20.0])
def test_plain_descent_moves_as_in_the_paper_and_the_gradient_is_small(speed):
    weighting = built(speed=speed)
    weighting(torch.tensor([4.0, 2.0, 0.25], dtype=torch.float64), ALL).sum().backward()
    torch.optim.SGD(weighting.parameters(), lr=0.1).step()
    slopes = [-factor * math.exp(0.5) * loss + 0.5 for factor, loss in ((1, 4.0), (0.5, 2.0), (1, 0.25))]
    assert weighting.log_variances.tolist() == pytest.approx([-0.5 - 0.1 * slope for slope in slopes])
    gradient = weighting.log_variance_bias.grad
    assert gradient is not None and gradient.tolist() == pytest.approx([slope / speed for slope in slopes])


@pytest.mark.parametrize("wrong", [0.0, math.nan, math.inf])
def test_absent_tasks_and_broken_losses_leave_the_log_variance(wrong):
    weighting = built()
    present = torch.tensor([True, wrong != 0, True])
    losses = torch.tensor([1.0, wrong, 1.0], dtype=torch.float64)
    weighting(losses, present)[0].backward(retain_graph=True)
    assert weighting.log_variance_bias.grad is not None
    weighting.zero_grad()
    weighting(losses, present).sum().backward()
    assert weighting.log_variance_bias.grad[1] == 0 and weighting.log_variance_bias.grad.isfinite().all()
    assert weighting.log_variance_bias.grad[0] != 0
