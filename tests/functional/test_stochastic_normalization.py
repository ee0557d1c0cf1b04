"""Stochastic normalisation against loops over channels, and its gradient against that of either branch."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.stochastic_normalization import select_by_channel, stochastic_normalization


SHAPES = [(5, 3), (4, 3, 6), (2, 3, 4, 5), (2, 3, 2, 2, 2)]


def naive(values, mean, variance, by_moving, eps):
    result = torch.empty_like(values)
    for channel in range(values.shape[1]):
        entries = values[:, channel].flatten().tolist()
        if by_moving[channel]:
            mu, sigma2 = mean[channel].item(), variance[channel].item()
        else:
            mu = sum(entries) / len(entries)
            sigma2 = sum((entry - mu) ** 2 for entry in entries) / len(entries)
        normalised = [(entry - mu) / math.sqrt(sigma2 + eps) for entry in entries]
        result[:, channel] = torch.tensor(normalised, dtype=values.dtype).view(values[:, channel].shape)
    return result


def statistics(channels=3):
    return torch.randn(channels, dtype=torch.float64), torch.rand(channels, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chosen", [(True, False, True), (False, False, False), (True, True, True)])
def test_each_channel_is_normalised_by_the_statistics_it_drew(shape, chosen):
    values, (mean, variance) = torch.randn(shape, dtype=torch.float64), statistics()
    ours = stochastic_normalization(values, mean, variance, torch.tensor(chosen), eps=1e-3)
    torch.testing.assert_close(ours, naive(values, mean, variance, chosen, 1e-3))


def test_channels_of_the_batch_have_mean_zero_and_variance_one_and_the_others_not():
    values, (mean, variance) = torch.randn(64, 2, dtype=torch.float64) * 3 + 5, statistics(2)
    ours = stochastic_normalization(values, mean, variance, torch.tensor([True, False]), eps=1e-12)
    assert ours[:, 1].mean().item() == pytest.approx(0, abs=1e-12)
    assert ours[:, 1].var(unbiased=False).item() == pytest.approx(1)
    assert abs(ours[:, 0].mean().item()) > 1


def test_gradcheck():
    values = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    mean, variance = statistics()
    chosen = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda x: stochastic_normalization(x, mean, variance, chosen), values)


def test_moving_statistics_are_constants_for_the_gradient():
    values = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    mean, variance = statistics(2)
    stochastic_normalization(values, mean, variance, torch.tensor([True, False])).sum().backward()
    torch.testing.assert_close(values.grad[:, 0], (variance[0] + 1e-5).rsqrt().expand(4))
    # Those of the batch are not: adding a constant to a channel changes nothing.
    torch.testing.assert_close(values.grad[:, 1], torch.zeros(4, dtype=torch.float64))


def test_the_moving_statistics_are_not_written_to():
    values, (mean, variance) = torch.randn(4, 3, dtype=torch.float64), statistics()
    before = mean.clone(), variance.clone()
    stochastic_normalization(values, mean, variance, torch.tensor([True, False, True]))
    assert torch.equal(mean, before[0]) and torch.equal(variance, before[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_channels_are_dimension_one_whatever_follows(shape):
    first, second = torch.zeros(shape), torch.ones(shape)
    chosen = torch.tensor([False, True, False])
    picked = select_by_channel(chosen, first, second)
    assert picked.shape == shape
    for channel in range(3):
        assert (picked[:, channel] == (0 if chosen[channel] else 1)).all()
