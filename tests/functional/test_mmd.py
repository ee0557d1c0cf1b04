"""Discrepancies against double loops in float64, with different numbers of rows, and closed forms."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from hf_transfer.functional.mmd import (
    class_conditional_discrepancy,
    joint_maximum_mean_discrepancy,
    local_maximum_mean_discrepancy,
    maximum_mean_discrepancy,
    mean_discrepancy,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(p, q):
    return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def bandwidth_of(points):
    pairs = [(p, q) for i, p in enumerate(points) for j, q in enumerate(points) if i != j]
    return sum(distance(p, q) for p, q in pairs) / len(pairs)


def gaussian(p, q, middle, count=5, factor=2.0):
    """Widths around the middle one, smaller and larger by the factor."""
    exponents = [u - count // 2 for u in range(count)]
    return sum(math.exp(-distance(p, q) / (middle * factor**e)) for e in exponents) / count


def naive(source, target, kernel, biased=False):
    n, m = len(source), len(target)
    within = 0.0
    for rows, size in ((source, n), (target, m)):
        pairs = [(i, j) for i in range(size) for j in range(size) if biased or i != j]
        within += sum(kernel(rows[i], rows[j]) for i, j in pairs) / len(pairs)
    return within - 2 * sum(kernel(s, t) for s in source for t in target) / (n * m)


def naive_mmd(source, target, *, bandwidth=None, biased=False, **options):
    source, target = source.tolist(), target.tolist()
    middle = bandwidth_of(source + target) if bandwidth is None else bandwidth
    return naive(source, target, lambda p, q: gaussian(p, q, middle, **options), biased)


def mixed(source, target, seed=3):
    """The rows of both in one batch, shuffled, and their domains."""
    order = torch.randperm(len(source) + len(target), generator=torch.Generator().manual_seed(seed))
    domain = torch.tensor([0] * len(source) + [1] * len(target))
    return torch.cat([source, target])[order], domain[order]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("n", "m"), [(5, 8), (8, 5), (2, 6), (4, 4)])
def test_value_against_the_formula(n, m, biased):
    source, target = randn(n, 3), randn(m, 3, seed=1) + 0.5
    value = maximum_mean_discrepancy(*mixed(source, target), biased=biased)
    assert value.item() == pytest.approx(naive_mmd(source, target, biased=biased), abs=1e-12)


@pytest.mark.parametrize("options", [{"bandwidth": 0.7}, {"num_kernels": 3, "factor": 4.0}, {"num_kernels": 1}])
def test_options_against_the_formula(options):
    source, target = randn(4, 3), randn(7, 3, seed=1) + 0.5
    naming = {"num_kernels": "count"}
    expected = naive_mmd(source, target, **{naming.get(name, name): value for name, value in options.items()})
    assert maximum_mean_discrepancy(*mixed(source, target), **options).item() == pytest.approx(expected, abs=1e-12)


def test_three_domains_give_the_mean_over_their_pairs():
    sets = [randn(3 + k, 2, seed=k) + k for k in range(3)]
    domain = torch.cat([torch.full((3 + k,), k) for k in range(3)])
    expected = sum(naive_mmd(a, b) for a, b in combinations(sets, 2)) / 3
    value = maximum_mean_discrepancy(torch.cat(sets), domain, num_domains=3)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_rows_of_no_domain_do_not_count():
    source, target = randn(4, 3), randn(5, 3, seed=1)
    x, domain = mixed(source, target)
    padded = torch.cat([x, 1e3 * randn(6, 3, seed=2)])
    value = maximum_mean_discrepancy(padded, torch.cat([domain, torch.full((6,), -1)]))
    assert value.item() == pytest.approx(naive_mmd(source, target), abs=1e-9)


@pytest.mark.parametrize("biased", [False, True])
def test_two_points(biased):
    """Two diracs at a distance: 2 - 2 k(x, y), for both statistics and any numbers of rows."""
    x = torch.tensor([[0.0, 0.0]] * 3 + [[3.0, 4.0]] * 5, dtype=torch.float64)
    domain = torch.tensor([0] * 3 + [1] * 5)
    value = maximum_mean_discrepancy(x, domain, num_kernels=1, bandwidth=10.0, biased=biased)
    assert value.item() == pytest.approx(2 - 2 * math.exp(-2.5), rel=1e-12)


def test_the_same_rows_in_both_domains():
    """Zero for the biased statistic; below zero for the unbiased one, whose mean over all samples is zero."""
    x = randn(6, 3)
    x, domain = torch.cat([x, x]), torch.arange(12) // 6
    assert maximum_mean_discrepancy(x, domain, biased=True).item() == pytest.approx(0, abs=1e-12)
    assert maximum_mean_discrepancy(x, domain).item() < -0.01


def test_zero_on_average_for_one_distribution():
    """With different numbers of rows, where programs that assume equal ones go wrong."""
    unbiased, biased = [], []
    domain = (torch.arange(30) >= 10).long()
    for seed in range(300):
        x = randn(30, 4, seed=seed)
        unbiased.append(maximum_mean_discrepancy(x, domain, bandwidth=8.0).item())
        biased.append(maximum_mean_discrepancy(x, domain, bandwidth=8.0, biased=True).item())
    unbiased, biased = torch.tensor(unbiased), torch.tensor(biased)
    assert abs(unbiased.mean()) < 3 * unbiased.std() / math.sqrt(300)
    assert 0.3 < (unbiased < 0).float().mean() < 0.8
    assert biased.min() > 0 and biased.mean() > 5 * biased.std() / math.sqrt(300)


def test_grows_with_the_distance_of_the_distributions():
    noise = randn(40, 4)
    domain = torch.arange(40) % 2
    values = [maximum_mean_discrepancy(noise + shift * domain.unsqueeze(1), domain).item() for shift in (0, 0.5, 1, 3)]
    assert values == sorted(values) and values[-1] > 0.5


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -3e8])
def test_constant_features_give_an_exact_zero_and_no_gradient(value):
    x = torch.full((6, 768), value, requires_grad=True)
    loss = maximum_mean_discrepancy(x, torch.tensor([0, 0, 1, 1, 1, 1]))
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()


@pytest.mark.parametrize(("scale", "shift"), [(1e4, 0.0), (1.0, 1e4), (1e-4, 0.0), (1e8, 1e8)])
def test_single_precision_of_huge_and_shifted_features(scale, shift):
    source, target = randn(5, 16), randn(8, 16, seed=1) + 0.5
    x, domain = mixed(source, target)
    rounded = (scale * x + shift).float()
    value = maximum_mean_discrepancy(rounded, domain).item()
    assert value == pytest.approx(maximum_mean_discrepancy(rounded.double(), domain).item(), abs=2e-6)
    assert value == pytest.approx(naive_mmd(source, target), abs=2e-3)  # neither scale nor shift matter


def test_order_of_the_rows_does_not_matter():
    x, domain = mixed(randn(5, 3), randn(7, 3, seed=1) + 1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(9))
    for biased in (False, True):
        first = maximum_mean_discrepancy(x, domain, biased=biased)
        torch.testing.assert_close(first, maximum_mean_discrepancy(x[order], domain[order], biased=biased))


def test_gradient_with_a_fixed_bandwidth():
    x, domain = mixed(randn(3, 2), randn(4, 2, seed=1))
    x.requires_grad_()
    torch.autograd.gradcheck(lambda x: maximum_mean_discrepancy(x, domain, bandwidth=1.3), x)


def test_the_mean_bandwidth_is_a_constant_of_the_gradient():
    source, target = randn(3, 2), randn(4, 2, seed=1) + 1
    x, domain = mixed(source, target)
    gradients = []
    for bandwidth in (None, bandwidth_of(x.tolist())):
        x = x.detach().requires_grad_()
        maximum_mean_discrepancy(x, domain, bandwidth=bandwidth).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def test_descent_brings_the_domains_together():
    x, domain = mixed(randn(6, 2), randn(9, 2, seed=1) + 2)
    for _ in range(200):
        x = x.detach().requires_grad_()
        maximum_mean_discrepancy(x, domain).backward()
        x = x - 2 * x.grad
    means = [x[domain == k].mean(0) for k in range(2)]
    assert (means[0] - means[1]).norm() < 0.5


@pytest.mark.parametrize(
    ("domain", "biased"), [((0, 1, 1, 1), False), ((1, 1, 1, 1), False), ((1, 1, 1, 1), True), ((0, 0, 0, 0), True)]
)
def test_too_few_rows_are_an_exact_zero_with_a_graph(domain, biased):
    x = randn(4, 3).requires_grad_()
    loss = maximum_mean_discrepancy(x, torch.tensor(domain), biased=biased)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()


def test_one_row_is_enough_for_the_biased_statistic():
    source, target = randn(1, 3), randn(4, 3, seed=1)
    value = maximum_mean_discrepancy(*mixed(source, target), biased=True)
    assert value.item() == pytest.approx(naive_mmd(source, target, biased=True), abs=1e-12)


def test_joint_discrepancy_against_the_formula():
    """The product of the kernels, not the sum: two variables, each with a bandwidth of its own."""
    sources, targets = [randn(4, 3), randn(4, 2, seed=4)], [randn(6, 3, seed=1) + 0.5, randn(6, 2, seed=5)]
    middle = bandwidth_of(torch.cat([sources[0], targets[0]]).tolist())
    pairs = [list(zip(*(v.tolist() for v in side), strict=True)) for side in (sources, targets)]

    def kernel(p, q):
        return gaussian(p[0], q[0], middle) * gaussian(p[1], q[1], 1.68, count=1)

    domain = torch.tensor([0] * 4 + [1] * 6)
    for biased in (False, True):
        value = joint_maximum_mean_discrepancy(
            [torch.cat(both) for both in zip(sources, targets, strict=True)],
            domain,
            bandwidths=[None, 1.68],
            num_kernels=[5, 1],
            biased=biased,
        )
        assert value.item() == pytest.approx(naive(*pairs, kernel, biased), abs=1e-12)


def naive_lmmd(source, labels, target, probabilities, bandwidth=None):
    """Class by class, from the definition."""
    points = source.tolist(), target.tolist()
    middle = bandwidth_of(points[0] + points[1]) if bandwidth is None else bandwidth
    labels, probabilities = labels.tolist(), probabilities.tolist()
    present = set(labels) & {row.index(max(row)) for row in probabilities}
    total = 0.0
    for c in present:
        count, mass = labels.count(c), sum(row[c] for row in probabilities)
        weights = [[(label == c) / count for label in labels], [row[c] / mass for row in probabilities]]
        for a, b, sign in ((0, 0, 1), (1, 1, 1), (0, 1, -2)):
            for w, p in zip(weights[a], points[a], strict=True):
                for v, q in zip(weights[b], points[b], strict=True):
                    total += sign * w * v * gaussian(p, q, middle)
    return total / len(present)


def classes(n=6, m=9, absent=None):
    labels = torch.arange(n) % 3
    if absent == "source":
        labels[labels == 2] = 1
    logits = 2 * randn(m, 3, seed=7)
    logits += 4 * torch.nn.functional.one_hot(torch.arange(m) % (2 if absent == "target" else 3), 3)
    return labels, torch.softmax(logits, -1)


def local(source, labels, target, probabilities, **options):
    n, m = len(source), len(target)
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    order = torch.randperm(n + m, generator=torch.Generator().manual_seed(3))
    x = torch.cat([source, target])[order]
    first = torch.cat([one_hot, torch.zeros(m, 3)])[order]
    second = torch.cat([torch.zeros(n, 3), probabilities])[order]
    return local_maximum_mean_discrepancy(x, first, second, **options)


@pytest.mark.parametrize("absent", [None, "source", "target"])
@pytest.mark.parametrize("bandwidth", [None, 2.0])
def test_local_discrepancy_against_the_formula(absent, bandwidth):
    source, target = randn(6, 4), randn(9, 4, seed=1) + 0.5
    labels, probabilities = classes(absent=absent)
    expected = naive_lmmd(source, labels, target, probabilities, bandwidth)
    value = local(source, labels, target, probabilities, bandwidth=bandwidth)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_local_discrepancy_of_crossed_classes():
    """The domains match as a whole, with the classes crossed: only the local discrepancy sees it."""
    points = torch.tensor([[0.0], [0.0], [9.0], [9.0]], dtype=torch.float64)
    labels, other = torch.tensor([0, 0, 1, 1]), torch.eye(3, dtype=torch.float64)[torch.tensor([1, 1, 0, 0])]
    crossed = local(points, labels, points, other, bandwidth=1.0, num_kernels=1)
    assert crossed.item() == pytest.approx(2, rel=1e-12)
    assert local(points, labels, points, other.flip(0), bandwidth=1.0).item() == pytest.approx(0, abs=1e-12)
    domain = torch.tensor([0] * 4 + [1] * 4)
    assert maximum_mean_discrepancy(torch.cat([points, points]), domain, biased=True).item() == pytest.approx(
        0, abs=1e-9
    )


def test_local_discrepancy_without_a_common_class():
    x = randn(4, 3).requires_grad_()
    one_hot = torch.eye(3, dtype=torch.float64)
    none = torch.zeros(2, 3, dtype=torch.float64)
    source, target = torch.cat([one_hot[[0, 1]], none]), torch.cat([none, one_hot[[2, 2]]])
    for sides in ((source, target), (source, 0 * target), (0 * source, target), (0 * source, 0 * target)):
        loss = local_maximum_mean_discrepancy(x, *sides)
        (gradient,) = torch.autograd.grad(loss, x)
        assert loss.item() == 0 and not gradient.any()


def test_a_class_with_next_to_no_probability_has_no_weight():
    """Normalised to 1 it would weigh as much as any other."""
    kernel = torch.eye(3, dtype=torch.float64)
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    target = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0 - 1e-6, 1e-6]])
    assert class_conditional_discrepancy(kernel, source, target).item() == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_statistics_of_any_kernel(biased):
    kernel = randn(5, 5)
    kernel = kernel + kernel.T
    source, target = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    expected = naive([0, 2], [1, 3, 4], lambda i, j: kernel[i, j].item(), biased)
    assert mean_discrepancy(kernel, source, target, biased=biased).item() == pytest.approx(expected, abs=1e-12)
