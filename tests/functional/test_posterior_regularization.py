"""The closed form against optimisers that know nothing of it, its limits, gradients, and degenerate batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hf_transfer.functional.posterior_regularization import (
    expected_violation,
    label_states,
    log_joint,
    log_projection,
    projection_divergence,
    row_mean,
)


def problem(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=size)
    return np.exp(logits) / np.exp(logits).sum(), generator.random(size)


def minimised(objective, size: int, constraints=()) -> np.ndarray:
    """A distribution that minimises `objective`, by sequential quadratic programming from the uniform one."""
    result = minimize(
        objective,
        np.full(size, 1 / size),
        bounds=[(1e-12, 1)] * size,
        constraints=[{"type": "eq", "fun": lambda q: q.sum() - 1}, *constraints],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert result.success
    return result.x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_projection_is_the_minimum_of_the_penalised_divergence(seed, strength):
    p, v = problem(seed, 4)
    expected = minimised(lambda q: (q * np.log(q / p)).sum() + strength * (q * v).sum(), 4)
    q = log_projection(torch.tensor(p).log(), torch.tensor(v), strength).exp()
    np.testing.assert_allclose(q.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_projection_is_the_nearest_distribution_that_breaks_the_rule_no_more_than_it_does(seed):
    """Ganchev's constrained problem: the strength is the multiplier of a bound on the expected violation."""
    p, v = problem(seed, 5)
    q = log_projection(torch.tensor(p).log(), torch.tensor(v), 2.0).exp().numpy()
    bound = (q * v).sum()
    within = {"type": "ineq", "fun": lambda r: bound - (r * v).sum()}
    expected = minimised(lambda r: (r * np.log(r / p)).sum(), 5, [within])
    np.testing.assert_allclose(q, expected, atol=1e-5)


def test_projection_written_out():
    p, v = [0.2, 0.5, 0.3], [0.0, 1.0, 0.25]
    raw = [a * math.exp(-1.5 * b) for a, b in zip(p, v, strict=True)]
    q = log_projection(torch.tensor(p, dtype=torch.float64).log(), torch.tensor(v, dtype=torch.float64), 1.5).exp()
    assert q.tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-12)
    divergence = projection_divergence(
        torch.tensor(p, dtype=torch.float64).log(), torch.tensor(v, dtype=torch.float64), 1.5
    )
    expected = sum(a / sum(raw) * math.log(a / sum(raw) / b) for a, b in zip(raw, p, strict=True))
    assert divergence.item() == pytest.approx(expected, rel=1e-12) and expected > 0.01


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_outcomes_that_break_the_rules_alike_are_left_alone(level):
    logits = torch.randn(7, 5, requires_grad=True)
    log_p = logits.log_softmax(-1)
    violations = torch.full((7, 5), level)
    torch.testing.assert_close(log_projection(log_p, violations, 9.0), log_p)
    divergence = projection_divergence(log_p, violations, 9.0)
    divergence.sum().backward()
    assert (divergence == 0).all() and not logits.grad.any()


def test_no_strength_is_no_rule():
    log_p = torch.randn(3, 4).log_softmax(-1)
    torch.testing.assert_close(log_projection(log_p, torch.rand(3, 4), 0.0), log_p)
    assert projection_divergence(log_p, torch.rand(3, 4), 0.0).abs().max() < 1e-6


def test_at_infinite_strength_no_mass_is_left_on_what_breaks_a_rule():
    p = torch.tensor([0.1, 0.6, 0.3])
    for strength in (1e4, 1e30, math.inf):
        q = log_projection(p.log(), torch.tensor([0.0, 1.0, 0.0]), strength).exp()
        assert q[1] == 0 and q.tolist() == pytest.approx([0.25, 0, 0.75], rel=1e-6)
    # where everything breaks some rule, the least broken stays
    assert log_projection(p.log(), torch.tensor([0.5, 1.0, 2.0]), math.inf).exp().tolist() == [1, 0, 0]
    # the divergence is what the model says against the rule being kept
    divergence = projection_divergence(p.log(), torch.tensor([0.0, 1.0, 0.0]), math.inf)
    assert divergence.item() == pytest.approx(-math.log(0.4), rel=1e-6)


def test_grows_to_the_limit_with_strength():
    log_p, v = torch.tensor([0.1, 0.6, 0.3]).log(), torch.tensor([0.0, 1.0, 0.0])
    values = [projection_divergence(log_p, v, c).item() for c in (0.1, 0.5, 1.0, 2.0, 6.0, 100.0)]
    assert values == sorted(values) and values[0] > 0


def test_a_tensor_of_strength_is_the_number():
    log_p, v = torch.randn(4).log_softmax(0), torch.rand(4)
    assert torch.equal(log_projection(log_p, v, torch.tensor(2.5)), log_projection(log_p, v, 2.5))


@pytest.mark.parametrize("strength", [0.7, 6.0, math.inf])
def test_gradient_with_respect_to_logits_is_p_minus_q(strength):
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    violations = torch.rand(6, 4, dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1)
    projection_divergence(log_p, violations, strength).sum().backward()
    q = log_projection(log_p.detach(), violations.detach(), strength).exp()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - q)
    assert violations.grad is None  # the rules are not moved towards the model


def test_descending_it_ends_where_the_rule_is_kept():
    logits = torch.tensor([0.0, 4.0, 0.0], requires_grad=True)
    violations = torch.tensor([0.0, 1.0, 1.0])
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        projection_divergence(logits.log_softmax(-1), violations, 6.0).backward()
        optimizer.step()
    assert logits.softmax(-1)[0] > 0.99


def test_expected_violation_and_its_gradient():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    violations = torch.rand(3, 4, dtype=torch.float64)
    value = expected_violation(logits.log_softmax(-1), violations)
    p = logits.detach().softmax(-1)
    for row in range(3):
        assert value[row].item() == pytest.approx(sum((p[row, c] * violations[row, c]).item() for c in range(4)))
    value.sum().backward()
    torch.testing.assert_close(logits.grad, p * (violations - value.detach().unsqueeze(-1)))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_states_are_all_there_is_in_the_order_of_their_bits(count):
    states = label_states(count)
    assert {tuple(row) for row in states.tolist()} == set(itertools.product((0, 1), repeat=count))
    assert [sum(bit << j for j, bit in enumerate(row)) for row in states.tolist()] == list(range(2**count))


def test_joint_probabilities_of_independent_labels():
    logits = torch.randn(4, 3, dtype=torch.float64)
    joint = log_joint(logits).exp()
    p = torch.sigmoid(logits)
    for row, (number, state) in itertools.product(range(4), enumerate(label_states(3).tolist())):
        expected = math.prod(p[row, j].item() if on else 1 - p[row, j].item() for j, on in enumerate(state))
        assert joint[row, number].item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(joint.sum(-1), torch.ones(4, dtype=torch.float64))


def test_gradient_of_the_joint_divergence_is_that_of_the_marginals():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    violations = torch.rand(5, 8, dtype=torch.float64)
    projection_divergence(log_joint(logits), violations, 2.0).sum().backward()
    q = log_projection(log_joint(logits.detach()), violations, 2.0).exp()
    marginals = q @ label_states(3).double()
    torch.testing.assert_close(logits.grad, torch.sigmoid(logits.detach()) - marginals)


def test_mean_over_the_rows_that_count():
    rows = torch.tensor([[1.0, 2.0], [5.0, float("nan")]], requires_grad=True)
    assert row_mean(rows, torch.tensor([[1, 1], [1, 0]])).item() == pytest.approx(8 / 3)
    nothing = row_mean(rows, torch.zeros(2, 2))
    nothing.backward()
    assert nothing.item() == 0 and not rows.grad.any()
    assert row_mean(rows[0]).item() == 1.5


def test_a_thousand_degenerate_batches():
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    for _ in range(1000):
        rows, classes = draw(1, 4), draw(1, 5)
        scale = (0.0, 1.0, 1e4, 1e8)[draw(0, 4)]
        logits = (scale * torch.randn(rows, classes, generator=generator)).requires_grad_()
        violations = torch.rand(rows, classes, generator=generator)
        violations = (violations, violations.round(), 0 * violations, 0 * violations + 1, 50 * violations)[draw(0, 5)]
        strength = (0.0, 1.0, 1e4, 1e38, math.inf)[draw(0, 5)]
        several = draw(0, 2) == 1
        if several:
            violations = violations.repeat(1, 2**classes)[:, : 2**classes]
        log_p = log_joint(logits) if several else logits.log_softmax(-1)
        value = projection_divergence(log_p, violations, strength)
        assert value.isfinite().all() and (value > -1e-5).all()
        row_mean(value, torch.randint(0, 2, (rows,), generator=generator)).backward()
        assert logits.grad.isfinite().all() and logits.grad.abs().max() <= 1 + 1e-5
        q = log_projection(log_p.detach(), violations, strength).exp()
        assert (q.sum(-1) - 1).abs().max() < 1e-4
