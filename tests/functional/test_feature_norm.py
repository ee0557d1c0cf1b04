"""Feature norms against the formulas written out, row by row."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.feature_norm import hard_feature_norm, mean_feature_norm, stepwise_feature_norm


EVERY = torch.ones(6, dtype=torch.bool)
COUNTED = torch.tensor([True, True, False, True, False, True])


def features_of(count=6, width=4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, width, dtype=torch.float64, generator=generator, requires_grad=True)


def norms_of(features) -> list[float]:
    return [math.sqrt(sum(value**2 for value in row)) for row in features.tolist()]


def test_mean_norm_against_the_loop():
    features = features_of()
    norms = [norm for norm, counts in zip(norms_of(features), COUNTED.tolist(), strict=True) if counts]
    assert mean_feature_norm(features, COUNTED).item() == pytest.approx(sum(norms) / 4, rel=1e-12)


@pytest.mark.parametrize("radius", [0.3, 1.0, 5.0])
def test_stepwise_value_is_the_squared_radius_and_its_gradient_a_unit_vector(radius):
    features = features_of()
    value = stepwise_feature_norm(features, COUNTED, radius=radius)
    assert value.item() == pytest.approx(radius**2, rel=1e-12)
    value.backward()
    for row, norm, counts, gradient in zip(features, norms_of(features), COUNTED.tolist(), features.grad, strict=True):
        expected = -2 * radius * row.detach() / norm / 4 if counts else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(gradient, expected)


def test_a_stepwise_step_makes_every_norm_larger_by_the_same():
    features = features_of()
    stepwise_feature_norm(features, EVERY).backward()
    after = features.detach() - 0.3 * features.grad
    grown = [new - old for new, old in zip(norms_of(after), norms_of(features), strict=True)]
    assert grown == pytest.approx([0.3 * 2 / 6] * 6, rel=1e-9)


def test_with_the_gradient_let_through_the_target_it_would_do_nothing():
    """Why the target has to be detached: else both sides of the difference move together."""
    features = features_of()
    norms = features.norm(dim=-1)
    (norms - norms - 1).square().mean().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("radius", [1.0, 25.0])
def test_hard_value_against_the_loop(radius):
    features, norms = features_of(), norms_of(features_of())
    sides = torch.stack([COUNTED, ~COUNTED])
    first = [norm for norm, counts in zip(norms, COUNTED.tolist(), strict=True) if counts]
    second = [norm for norm, counts in zip(norms, COUNTED.tolist(), strict=True) if not counts]
    expected = sum((sum(side) / len(side) - radius) ** 2 for side in (first, second))
    assert hard_feature_norm(features, sides, radius=radius).item() == pytest.approx(expected, rel=1e-12)
    # of the means: the mean over rows would ask every norm to be the same
    apart = sum(sum((norm - radius) ** 2 for norm in side) / len(side) for side in (first, second))
    assert abs(apart - expected) > 0.01


def test_hard_gradient_against_finite_differences():
    sides = torch.stack([COUNTED, ~COUNTED])
    assert torch.autograd.gradcheck(lambda x: hard_feature_norm(x, sides), features_of())


def test_hard_is_zero_at_the_radius_from_both_sides():
    directions = torch.nn.functional.normalize(features_of().detach(), dim=-1)
    sides = torch.stack([COUNTED, ~COUNTED])
    assert hard_feature_norm(25 * directions, sides).item() == pytest.approx(0, abs=1e-12)
    for scale, sign in ((20, -1), (30, 1)):
        features = (scale * directions).requires_grad_()
        hard_feature_norm(features, sides).backward()
        assert ((features.grad * directions).sum(-1) * sign > 0).all()


def test_a_side_without_a_row_adds_nothing():
    features = features_of()
    alone = hard_feature_norm(features, torch.stack([EVERY, ~EVERY]))
    assert alone.item() == pytest.approx(hard_feature_norm(features, EVERY[None]).item())


def forms(features, counted):
    return [stepwise_feature_norm(features, counted), hard_feature_norm(features, torch.stack([counted, counted]))]


@pytest.mark.parametrize("form", [0, 1])
def test_no_row_is_an_exact_zero_with_a_graph(form):
    features = features_of()
    value = forms(features, ~EVERY)[form]
    assert value.item() == 0
    value.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e30])
def test_rows_that_do_not_count_contribute_nothing_whatever_they_hold(form, junk):
    features = torch.ones(6, 4)
    features[2] = junk
    features.requires_grad_()
    value = forms(features, COUNTED)[form]
    assert value.item() == pytest.approx(forms(torch.ones(6, 4), EVERY)[form].item())
    value.backward()
    assert features.grad.isfinite().all() and not features.grad[~COUNTED].any()


@pytest.mark.parametrize("form", [0, 1])
def test_features_of_zero_have_a_gradient_of_zero(form):
    features = torch.zeros(6, 4, requires_grad=True)
    forms(features, EVERY)[form].backward()
    assert torch.equal(features.grad, torch.zeros(6, 4))


def test_thousand_batches_are_finite():
    generator = torch.Generator().manual_seed(0)
    for trial in range(1000):
        rows, width = (int(torch.randint(1, 9, (1,), generator=generator)) for _ in range(2))
        scale = (0.0, 1e-20, 1.0, 1e4)[trial % 4]
        features = scale * torch.randn(rows, width, generator=generator)
        if trial % 5 == 0:
            features = features[:1].repeat(rows, 1)
        features.requires_grad_()
        values = torch.stack(forms(features, torch.rand(rows, generator=generator) < (0.0, 0.3, 1.0)[trial % 3]))
        values.sum().backward()
        assert values.isfinite().all() and (values >= 0).all() and features.grad.isfinite().all(), trial
