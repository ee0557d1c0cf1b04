"""Targets and weights against the papers' formulas."""

from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.task_terms import effective_number_weights, focal_weights, mixed_targets, smoothed


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
def test_smoothed_targets_stay_a_distribution(epsilon):
    targets = torch.rand(3, 5, dtype=torch.float64).softmax(-1)
    result = smoothed(targets, epsilon)
    for row, before in zip(result.tolist(), targets.tolist(), strict=True):
        assert row == pytest.approx([(1 - epsilon) * q + epsilon / 5 for q in before])
        assert sum(row) == pytest.approx(1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_weights_against_the_power(gamma):
    probabilities = torch.tensor([0.01, 0.3, 0.5, 0.99], dtype=torch.float64)
    expected = [(1 - p) ** gamma for p in probabilities.tolist()]
    assert focal_weights(probabilities.log(), gamma).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_row_has_a_finite_gradient(gamma):
    log_probabilities = torch.tensor([0.0, -1e-30, -1e-7, -0.1], requires_grad=True)
    (focal_weights(log_probabilities, gamma) * -log_probabilities).sum().backward()
    assert log_probabilities.grad.isfinite().all()


def test_focal_weights_are_exact_close_to_certainty():
    """1 - exp(log p) would be a multiple of the rounding of 1."""
    assert focal_weights(torch.tensor(-1e-9), 1.0).item() == pytest.approx(1e-9, rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
def test_effective_numbers_against_the_geometric_sum(beta):
    counts = [1, 7, 50, 400]
    effective = [sum(beta**power for power in range(n)) for n in counts]
    mean = sum(1 / e for e in effective) / 4
    expected = [1 / e / mean for e in effective]
    for tensor, tolerance in ((torch.tensor(counts), 1e-5), (torch.tensor(counts, dtype=torch.float64), 1e-9)):
        weights = effective_number_weights(tensor, beta)
        assert weights.tolist() == pytest.approx(expected, rel=tolerance)
        assert weights.mean().item() == pytest.approx(1, rel=1e-5)


def test_the_limits_of_beta_are_equal_weights_and_inverse_frequencies():
    counts = torch.tensor([10, 20, 70], dtype=torch.float64)
    assert effective_number_weights(counts, 0.0).tolist() == pytest.approx([1, 1, 1])
    inverse = (1 / counts) / (1 / counts).mean()
    torch.testing.assert_close(effective_number_weights(counts, 1 - 1e-9), inverse, rtol=1e-6, atol=0)


def test_a_class_without_rows_has_weight_one_and_does_not_move_the_others():
    weights = effective_number_weights(torch.tensor([5, 0, 50]), 0.99)
    others = effective_number_weights(torch.tensor([5, 50]), 0.99)
    assert weights[1] == 1 and torch.equal(weights[[0, 2]], others)
    assert effective_number_weights(torch.zeros(3), 0.99).tolist() == [1, 1, 1]


def test_rows_of_counts_are_each_of_mean_one():
    weights = effective_number_weights(torch.tensor([[90, 10], [50, 50], [0, 8]]), 0.999)
    assert weights.mean(-1).tolist() == pytest.approx([1, 1, 1])
    assert weights[1].tolist() == pytest.approx([1, 1])


def test_large_counts_do_not_overflow():
    weights = effective_number_weights(torch.tensor([1, 10_000_000]), 0.9999)
    assert weights.isfinite().all() and weights[0] > 1.99


def test_mixed_targets_give_the_weighted_sum_of_both_losses():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    mine, theirs = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]], torch.eye(3, dtype=torch.float64)[[1, 1, 0, 2]]
    labelled, partner_labelled = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    share = torch.tensor([0.3, 0.6, 0.9, 0.5], dtype=torch.float64)
    targets, counted = mixed_targets(mine, theirs, labelled, partner_labelled, share)
    log_p = logits.log_softmax(-1)
    losses = (counted.unsqueeze(-1) * targets * log_p).sum(-1)
    for i in range(4):
        expected = share[i] * labelled[i] * (mine[i] * log_p[i]).sum()
        expected += (1 - share[i]) * partner_labelled[i] * (theirs[i] * log_p[i]).sum()
        assert losses[i].item() == pytest.approx(expected.item(), rel=1e-10)
    assert counted.tolist() == pytest.approx([1, 0.6, 0.1, 0])
    assert targets.sum(-1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_all(share):
    one, two, yes = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([True])
    targets, counted = mixed_targets(one, two, yes, yes, torch.tensor([share]))
    assert torch.equal(targets, one if share else two) and counted.item() == 1
