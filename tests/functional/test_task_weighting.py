"""Weights of tasks against the formulas of the papers, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hf_transfer.functional.task_weighting import (
    adam_step,
    dynamic_average_weights,
    famo_gradient,
    famo_weights,
    gradient_norm_step,
    running_mean,
    softmax_weights,
    sum_to_count,
    tchebycheff_weights,
    uncertainty_loss,
    uncertainty_weights,
)


ALL = torch.tensor([True, True, True])
TWO = torch.tensor([True, False, True])


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive_softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


@pytest.mark.parametrize("known", [ALL, TWO, ~ALL])
def test_sum_to_count(known):
    raw = [3.0, 5.0, 1.0]
    there = [number for number in range(3) if known[number]]
    expected = [1.0] * 3
    for number in there:
        expected[number] = len(there) * raw[number] / sum(raw[n] for n in there)
    weights = sum_to_count(tensor(*raw), known)
    assert weights.tolist() == pytest.approx(expected) and weights.sum().item() == pytest.approx(3)


def test_softmax_weights_of_huge_numbers():
    assert softmax_weights(tensor(1e4, -1e4, 0)).tolist() == [3, 0, 0]


def test_running_mean_is_the_plain_mean_and_then_forgets():
    mean, seen = tensor(0, 0), torch.zeros(2, dtype=torch.long)
    values = [4.0, 2.0, 9.0, 1.0, 7.0]
    expected, kept = 0.0, []
    for value in values:
        mean, seen = running_mean(mean, seen, tensor(value, value), torch.tensor([True, value != 9]), 3)
        if len(kept) < 3:
            kept.append(value)
            expected = sum(kept) / len(kept)
        else:
            expected = 2 / 3 * expected + value / 3
        assert mean[0].item() == pytest.approx(expected)
    assert seen.tolist() == [5, 4]
    assert mean[1].item() == pytest.approx(2 / 3 * (4 + 2 + 1) / 3 + 7 / 3)  # without the one not observed


def test_uncertainty_is_the_loss_of_the_paper():
    # 1 / (2 sigma^2) L + log sigma for a regression, 1 / sigma^2 L + log sigma for classes
    losses, sigmas, regression = [2.0, 0.3, 1.1], [0.7, 1.9, 1.0], [True, False, False]
    expected = [
        loss / ((2 if squared else 1) * sigma**2) + math.log(sigma)
        for loss, sigma, squared in zip(losses, sigmas, regression, strict=True)
    ]
    log_variances = tensor(*(2 * math.log(sigma) for sigma in sigmas))
    assert uncertainty_loss(tensor(*losses), log_variances, torch.tensor(regression)).tolist() == pytest.approx(
        expected
    )


def test_uncertainty_is_least_where_the_weight_is_the_inverse_of_twice_the_loss():
    losses, regression = tensor(2.0, 0.3, 1.1), torch.tensor([True, False, False])
    log_variances = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(500):
        (slope,) = torch.autograd.grad(uncertainty_loss(losses, log_variances, regression).sum(), log_variances)
        log_variances = (log_variances - 0.5 * slope).detach().requires_grad_()
    expected = [1 / (2 * loss) for loss in losses.tolist()]
    assert uncertainty_weights(log_variances, regression).tolist() == pytest.approx(expected, rel=1e-6)


def test_uncertainty_weights_are_the_slopes_of_the_loss():
    losses, regression = tensor(2.0, 0.3, 1.1).requires_grad_(), torch.tensor([True, False, True])
    log_variances = tensor(0.4, -1.3, 0.1)
    (slopes,) = torch.autograd.grad(uncertainty_loss(losses, log_variances, regression).sum(), losses)
    torch.testing.assert_close(uncertainty_weights(log_variances, regression), slopes)


def test_a_task_that_is_fitted_takes_nothing_from_the_others():
    log_variances, regression = tensor(0.4, -1e9), torch.tensor([False, False])
    weights = uncertainty_weights(log_variances, regression)
    assert weights.tolist() == pytest.approx([math.exp(-0.4), math.exp(10)])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_dynamic_average(temperature):
    last, before = [1.0, 2.0, 0.9], [2.0, 2.0, 0.6]
    ratios = [a / b / temperature for a, b in zip(last, before, strict=True)]
    expected = [3 * share for share in naive_softmax(ratios)]
    assert dynamic_average_weights(tensor(*last), tensor(*before), ALL, temperature).tolist() == pytest.approx(
        expected
    )
    ratios[1] = 1 / temperature  # of a task not yet known
    found = dynamic_average_weights(tensor(1.0, 9.0, 0.9), tensor(*before), TWO, temperature)
    assert found.tolist() == pytest.approx([3 * share for share in naive_softmax(ratios)])


def test_dynamic_average_of_losses_that_were_zero():
    assert dynamic_average_weights(tensor(0, 1), tensor(0, 0), ALL[:2], 2.0).tolist() == [1, 1]


def naive_gradnorm(weights, norms, progress, alpha, rate):
    """The step of the paper by autograd: the gradient of the L1 distance to a target that is held fixed."""
    logs = tensor(*weights).log().requires_grad_()
    pulls = [logs[k].exp() * norms[k] for k in range(len(norms))]
    mean = sum(pull.item() for pull in pulls) / len(norms)
    inverse_rate = [value / (sum(progress) / len(progress)) for value in progress]
    distance = sum(abs(pulls[k] - mean * inverse_rate[k] ** alpha) for k in range(len(norms)))
    (slope,) = torch.autograd.grad(distance / mean, logs)
    moved = [math.exp(x) for x in (logs - rate * slope).tolist()]
    return [len(norms) * weight / sum(moved) for weight in moved]


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
@pytest.mark.parametrize(
    ("weights", "norms", "progress"),
    [([1.0, 1.0, 1.0], [4.0, 1.0, 0.1], [1.0, 1.0, 1.0]), ([0.5, 2.0, 0.5], [1.0, 2.0, 3.0], [0.2, 0.9, 1.3])],
)
def test_gradient_norm_step(weights, norms, progress, alpha):
    found = gradient_norm_step(
        tensor(*weights).log(), tensor(*norms), tensor(*progress), ALL, alpha=alpha, rate=0.1
    ).exp()
    assert found.tolist() == pytest.approx(naive_gradnorm(weights, norms, progress, alpha, 0.1))
    assert found.sum().item() == pytest.approx(3)


def test_gradient_norms_become_equal_and_laggards_get_more():
    norms, logs = tensor(8.0, 1.0, 0.25), torch.zeros(3, dtype=torch.float64)
    for _ in range(2000):
        logs = gradient_norm_step(logs, norms, tensor(1, 1, 1), ALL, alpha=1.5, rate=0.01)
    pulls = logs.exp() * norms
    assert pulls.tolist() == pytest.approx([pulls.mean().item()] * 3, rel=0.05)
    for _ in range(2000):
        logs = gradient_norm_step(logs, norms, tensor(0.5, 1, 1.5), ALL, alpha=1.0, rate=0.01)
    pulls = logs.exp() * norms
    assert (pulls / pulls.mean()).tolist() == pytest.approx([0.5, 1.0, 1.5], rel=0.05)


def test_a_task_that_is_absent_keeps_its_weight_beside_one_that_stands_still():
    # The two others stand at equal pulls: nothing moves, whatever is said of the absent one.
    logs = tensor(0.5, 2.0, 0.5).log()
    options = {"known": TWO, "alpha": 1.5, "rate": 0.1}
    found = gradient_norm_step(logs, tensor(2.0, 99.0, 2.0), tensor(1.0, 77.0, 1.0), **options)
    torch.testing.assert_close(found, logs)
    nothing = gradient_norm_step(logs, tensor(2, 1, 2), tensor(1, 1, 1), known=~ALL, alpha=1.5, rate=0.1)
    torch.testing.assert_close(nothing, logs)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_tchebycheff_is_the_slope_of_the_smooth_maximum(smoothing):
    losses, reference = tensor(0.5, 3.0, 0.7).requires_grad_(), tensor(1.0, 4.0, 0.8)
    maximum = smoothing * torch.log(sum(torch.exp(losses[k] / reference[k] / smoothing) for k in range(3)))
    (slopes,) = torch.autograd.grad(maximum, losses)
    expected = 3 * slopes / slopes.sum()
    torch.testing.assert_close(tchebycheff_weights(losses.detach(), reference, ALL, smoothing), expected)


def test_tchebycheff_at_its_ends():
    losses, reference = tensor(0.5, 3.0, 0.7), tensor(1.0, 4.0, 0.8)
    worst = tchebycheff_weights(losses, reference, ALL, 1e-4)
    assert worst.tolist() == pytest.approx([0, 0, 3], abs=1e-6)
    inverse = 1 / reference
    torch.testing.assert_close(
        tchebycheff_weights(losses, reference, ALL, 1e9), 3 * inverse / inverse.sum(), rtol=1e-6, atol=0
    )
    # the unit of a loss does not matter but for its own weight
    units = tensor(1.0, 1e6, 1e-6)
    scaled = tchebycheff_weights(losses * units, reference * units, ALL, 0.5) * units
    first = tchebycheff_weights(losses, reference, ALL, 0.5)
    torch.testing.assert_close(scaled / scaled.sum(), first / first.sum())


def test_famo_weights_are_the_slopes_of_the_mean_logarithm():
    logits, losses = tensor(0.3, -0.2, 1.0), tensor(0.5, 3.0, 0.7).requires_grad_()
    shares = naive_softmax(logits.tolist())
    (slopes,) = torch.autograd.grad(sum(shares[k] * losses[k].log() for k in range(3)), losses)
    torch.testing.assert_close(famo_weights(logits, losses.detach(), ALL), 3 * slopes / slopes.sum())
    known = famo_weights(logits, losses.detach(), TWO)
    assert known[1] == 1 and known.sum().item() == pytest.approx(3)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_famo_gradient_is_the_jacobian_of_the_softmax(decay):
    logits, improvement = tensor(0.3, -0.2, 1.0), tensor(0.1, -0.05, 0.02)
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.softmax(x, 0), logits)
    expected = [
        sum(jacobian[k, n].item() * improvement[k].item() for k in range(3)) + decay * logits[n].item()
        for n in range(3)
    ]
    assert famo_gradient(logits, improvement, ALL, decay).tolist() == pytest.approx(expected)


def test_famo_leaves_the_logit_of_an_absent_task():
    gradient = famo_gradient(tensor(0.3, -0.2, 1.0), tensor(0.1, 9.0, 0.02), TWO, 0.0)
    assert gradient[1] == 0 and gradient.sum().item() == pytest.approx(0) and gradient[0] > 0 > gradient[2]


def test_adam_is_adam():
    parameter = torch.nn.Parameter(tensor(0.5, -1.0))
    optimizer = torch.optim.Adam([parameter], lr=0.025)
    ours, moments = parameter.detach().clone(), torch.zeros(2, 2, dtype=torch.float64)
    for step in range(1, 20):
        gradient = tensor(math.sin(step), 1e-3 * step)
        parameter.grad = gradient
        optimizer.step()
        moments, change = adam_step(moments, gradient, torch.tensor(step), rate=0.025)
        ours = ours + change
    torch.testing.assert_close(ours, parameter.detach())


def test_random_degenerate_numbers_stay_finite():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.0, 1e-30, 1e-6, 1.0, 1e4, 1e12])
    for _ in range(1000):

        def draw():
            return sizes[torch.randint(len(sizes), (3,), generator=generator)]  # noqa: B023

        known = torch.rand(3, generator=generator) < 0.6
        logs = torch.randn(3, generator=generator)
        found = [
            dynamic_average_weights(draw(), draw(), known, 2.0),
            gradient_norm_step(logs, draw(), draw(), known, alpha=1.5, rate=0.025).exp(),
            tchebycheff_weights(draw(), draw(), known, 0.2),
            famo_weights(logs, draw(), known),
        ]
        by_noise = uncertainty_weights(1e3 * logs, known)
        assert by_noise.isfinite().all() and (by_noise >= 0).all()
        for weights in found:
            assert weights.isfinite().all() and (weights >= 0).all(), found
            assert weights.sum().item() == pytest.approx(3, rel=1e-4)
