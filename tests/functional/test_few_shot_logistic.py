"""Logistic regressions of many episodes against scikit-learn's, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.functional.few_shot_logistic import fit_logistic_episodes, logistic
from tests.functional.test_few_shot import made


def reference(rows, labels, strength):
    """scikit-learn's weights, biases: one vector a class, also for two classes."""
    from sklearn.linear_model import LogisticRegression

    classes = len(np.unique(labels))
    # with two classes the penalty of one vector is twice that of two opposite ones of half its length
    solver = LogisticRegression(C=strength * (2 if classes == 2 else 1), tol=1e-10, max_iter=10000)
    solver.fit(rows.numpy(), labels.numpy())
    weight, bias = solver.coef_, solver.intercept_
    if classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return torch.tensor(weight), torch.tensor(bias - bias.mean())


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("width", [4, 30])  # fewer and more than the 12 rows of a support
def test_weights_are_those_of_scikit_learn(strength, width):
    support, labels, _, _ = made(4, width=width)
    weight, bias = fit_logistic_episodes(support, labels, 3, strength=strength)
    for episode in range(4):
        expected = reference(support[episode], labels[episode], strength)
        torch.testing.assert_close(weight[episode], expected[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(bias[episode], expected[1], atol=2e-5, rtol=1e-4)


def test_two_classes_are_scikit_learns_with_twice_its_strength():
    support, labels, _, _ = made(3, width=20)
    labels = labels.clamp(max=1)
    weight, bias = fit_logistic_episodes(support, labels, 2)
    for episode in range(3):
        expected = reference(support[episode], labels[episode], 1.0)
        torch.testing.assert_close(weight[episode], expected[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(bias[episode], expected[1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("width", [4, 30])
def test_no_direction_lowers_the_objective(width):
    """The gradient at the result, from the formula and autograd, in the full width."""
    support, labels, _, _ = made(6, width=width)
    weight, bias = (part.requires_grad_() for part in fit_logistic_episodes(support, labels, 3, strength=2.0))
    logits = support @ weight.mT + bias.unsqueeze(1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    total = weight.square().sum() / 2 + 2.0 * losses
    for gradient in torch.autograd.grad(total, (weight, bias)):
        assert gradient.abs().max() < 1e-4


def test_features_are_scaled_unless_told():
    support, labels, query, _ = made()
    lengths = torch.linspace(0.2, 5, support.shape[1], dtype=support.dtype)[None, :, None]
    plain = logistic(support, labels, query, 3)
    torch.testing.assert_close(logistic(lengths * support, labels, 3 * query, 3), plain)
    assert not torch.allclose(logistic(lengths * support, labels, query, 3, normalised=False), plain, atol=1e-2)


def test_logits_are_those_of_the_fit():
    support, labels, query, _ = made()
    weight, bias = fit_logistic_episodes(support, labels, 3, strength=0.5)
    expected = torch.einsum("eqd,end->eqn", query, weight) + bias[:, None]
    torch.testing.assert_close(logistic(support, labels, query, 3, strength=0.5, normalised=False), expected)


def test_a_hard_fit_converges():
    """Separable rows far apart with little regularisation: Newton's full step overshoots from zero on."""
    generator = torch.Generator().manual_seed(0)
    support = 30 * torch.randn(8, 10, 50, generator=generator, dtype=torch.float64)
    labels = torch.arange(5).repeat_interleave(2).repeat(8, 1)
    weight, bias = fit_logistic_episodes(support, labels, 5, strength=100.0)
    soft = (support @ weight.mT + bias[:, None]).softmax(-1)
    targets = torch.nn.functional.one_hot(labels, 5)
    gradient = weight - 100.0 * (targets - soft).mT @ support
    assert gradient.abs().max() < 1e-3 * weight.abs().max()
    assert torch.equal(soft.argmax(-1), labels)


def test_single_precision_in_single_precision_out():
    support, labels, query, _ = made(width=30)
    found = logistic(support.float(), labels, query.float(), 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), logistic(support, labels, query, 3), atol=1e-4, rtol=1e-4)
