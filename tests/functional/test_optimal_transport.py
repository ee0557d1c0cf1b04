"""Transport costs against linear programs, known values and brute force; the directions against their distribution."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from scipy.stats import kstest, wasserstein_distance

from hf_transfer.functional.optimal_transport import _hashed, projections, sliced_wasserstein, transport_cost


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(source, target, seed=3):
    """The rows of both in one batch, shuffled, with some of neither, and the two masks."""
    x = torch.cat([source, target, 1e3 * randn(2, source.shape[1], seed=8)])
    domain = torch.tensor([0] * len(source) + [1] * len(target) + [2] * 2)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order], (domain[order] == 0).double(), (domain[order] == 1).double()


def naive_cost(source, target, power):
    """Each point as many times as the other set has points: then the best of all pairings joins equal ranks."""
    first = sorted(value for value in source for _ in target)
    second = sorted(value for value in target for _ in source)
    return sum(abs(a - b) ** power for a, b in zip(first, second, strict=True)) / len(first)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 4), (6, 9), (7, 3), (10, 15)])
def test_cost_against_repeated_points(n, m, power):
    source, target = randn(n, 3), randn(m, 3, seed=1) + 0.5
    x, *masks = mixed(source, target)
    cost = transport_cost(x, *masks, power=power)
    for column in range(3):
        expected = naive_cost(source[:, column].tolist(), target[:, column].tolist(), power)
        assert cost[column].item() == pytest.approx(expected, rel=1e-10)


def test_the_naive_cost_is_the_least_of_all_pairings():
    source, target = randn(5).tolist(), randn(5, seed=1).tolist()
    for power in (1, 2):
        costs = [sum(abs(a - b) ** power for a, b in zip(source, p, strict=True)) / 5 for p in permutations(target)]
        assert naive_cost(source, target, power) == pytest.approx(min(costs), rel=1e-12)


def test_cost_against_scipy():
    source, target = randn(13, 1), randn(29, 1, seed=1)
    x, *masks = mixed(source, target)
    expected = wasserstein_distance(source[:, 0].numpy(), target[:, 0].numpy())
    assert transport_cost(x, *masks, power=1).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_two_sizes_of_a_batch_find_their_steps(dtype):
    """Equal sets, one with each point k times: the cost is zero unless a step is missed by rounding."""
    for n in range(1, 12):
        for k in range(1, 8):
            points = torch.arange(n, dtype=dtype).repeat(k + 1).unsqueeze(1)
            mask = (torch.arange(n * (k + 1)) < n).to(dtype)
            assert transport_cost(points, mask, 1 - mask).item() == pytest.approx(0, abs=1e-6 * n)


def test_shifted_rows_cost_the_shift():
    source, shift = randn(40, 5), torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5], dtype=torch.float64)
    x, *masks = mixed(source, source + shift)
    directions = projections(5, 4000, like=x)
    expected = (shift @ directions).square().mean().item()
    value = sliced_wasserstein(x, *masks, directions).item()
    assert value == pytest.approx(expected, rel=1e-9)
    assert value == pytest.approx(shift.square().sum().item() / 5, rel=0.1)


def test_first_power_and_the_unit():
    x, *masks = mixed(randn(6, 4), randn(9, 4, seed=1) + 1)
    directions = projections(4, 64, like=x)
    for power in (1, 2):
        value = sliced_wasserstein(x, *masks, directions, power=power).item()
        assert sliced_wasserstein(10 * x, *masks, directions, power=power).item() == pytest.approx(10**power * value)
        costs = [transport_cost(x @ directions[:, j : j + 1], *masks, power=power).item() for j in range(64)]
        assert value == pytest.approx(sum(costs) / 64, rel=1e-9)


def test_far_from_the_origin_in_single_precision():
    x, *masks = mixed(randn(6, 16), randn(9, 16, seed=1) + 1)
    directions = projections(16, 32, like=x)
    expected = sliced_wasserstein((x + 1e4).float().double(), *masks, directions).item()
    assert sliced_wasserstein((x + 1e4).float(), *masks, directions).item() == pytest.approx(expected, rel=1e-5)


def test_order_of_the_rows_does_not_matter():
    x, *masks = mixed(randn(6, 4), randn(9, 4, seed=1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    directions = projections(4, 16, like=x)
    torch.testing.assert_close(
        sliced_wasserstein(x, *masks, directions),
        sliced_wasserstein(x[order], masks[0][order], masks[1][order], directions),
    )


@pytest.mark.parametrize("power", [1, 2])
def test_gradient(power):
    x, *masks = mixed(randn(3, 2), randn(4, 2, seed=1))
    directions = projections(2, 5, like=x)
    function = lambda x: sliced_wasserstein(x, *masks, directions, power=power)  # noqa: E731
    torch.autograd.gradcheck(function, x.requires_grad_())
    (gradient,) = torch.autograd.grad(function(x), x)
    assert not gradient[(masks[0] + masks[1]) == 0].any()


def test_descent_moves_one_set_onto_the_other():
    x, *masks = mixed(randn(6, 3), randn(6, 3, seed=1) + 3)
    before = None
    for step in range(150):
        x = x.detach().requires_grad_()
        loss = sliced_wasserstein(x, *masks, projections(3, 32, step / 150, like=x))
        before = before or loss.item()
        (gradient,) = torch.autograd.grad(loss, x)
        x = x - 4 * gradient
    assert loss.item() < 1e-3 * before


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_empty_sets_and_equal_points_are_finite(rows):
    x = torch.full((4, 3), 0.1, requires_grad=True)
    few = (torch.arange(4) < rows).float()
    for masks in ((few, 1 - few), (1 - few, few), (0 * few, 0 * few)):
        loss = sliced_wasserstein(x, *masks, projections(3, 8, like=x))
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.item() == 0 and not gradient.any()


def test_half_precision_is_computed_in_single():
    x, masks = randn(6, 4).bfloat16(), torch.eye(2).repeat_interleave(3, 1)
    value = sliced_wasserstein(x, *masks, projections(4, 8, like=x))
    assert value.dtype == torch.float32


def test_hash_is_splitmix64():
    """With whole numbers of any size; the first is the generator's published first output for a state of zero."""

    def reference(state):
        z = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    assert reference(0) == 0xE220A8397B1DCDAF
    for state in (0, 1, 12345, 2**62 + 7, 2**63 - 1, -1, -(2**63)):
        assert int(_hashed(torch.tensor(state))) % 2**64 == reference(state)


def test_directions_are_spread_evenly():
    directions = projections(8, 5000, 0.3, like=torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(5000, dtype=torch.float64), rtol=1e-6, atol=0)
    assert directions.mean(1).abs().max() < 4 / math.sqrt(8 * 5000)
    second = directions @ directions.T / 5000
    assert (second - torch.eye(8) / 8).abs().max() < 0.01
    # the square of an entry of a random direction follows a beta distribution
    assert kstest(directions[0].square().numpy(), "beta", (0.5, 3.5)).pvalue > 0.01
    # neighbours in the matrix are not alike
    lag = (directions[:, 1:] * directions[:, :-1]).sum(0)
    assert abs(lag.mean().item()) < 4 / math.sqrt(8 * 5000)


def test_directions_are_a_function_of_the_progress_alone():
    like = torch.zeros(())
    state = torch.get_rng_state()
    first = projections(6, 10, 0.25, like=like)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert torch.equal(projections(6, 10, torch.tensor(0.25), like=like), first)
    steps = [projections(6, 10, torch.tensor(step / 1_000_000), like=like) for step in range(5)]
    for a in range(5):
        for b in range(a):
            assert abs((steps[a] * steps[b]).sum(0).mean().item()) < 0.6  # 10 cosines in 6 dimensions
            assert not torch.equal(steps[a], steps[b])
