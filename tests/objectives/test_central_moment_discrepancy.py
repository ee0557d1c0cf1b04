"""CMD on batches: how features are bounded, several domains, and moments that are not there."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import CentralMomentDiscrepancy, TransferBatch
from tests.objectives.domain_checks import check_degenerate_batches, check_one_graph


def batch(domain=(0, 1, 1, 0, 1, 0, 1), shift=1.0):
    generator = torch.Generator().manual_seed(0)
    domain = torch.tensor(domain)
    features = torch.randn(len(domain), 4, generator=generator) + shift * domain.unsqueeze(1)
    return TransferBatch(features=features.requires_grad_(), domain=domain)


@pytest.mark.parametrize(("squash", "span"), [("tanh", 2.0), ("sigmoid", 1.0)])
@pytest.mark.parametrize("moments", [1, 3, 5])
def test_value_written_out(squash, span, moments):
    data = batch()
    bounded = {"tanh": math.tanh, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}[squash]
    rows = [[bounded(x) / span for x in row] for row in data.features.tolist()]
    sides = [[row for row, k in zip(rows, data.domain.tolist(), strict=True) if k == d] for d in (0, 1)]
    means = [[sum(column) / len(column) for column in zip(*side, strict=True)] for side in sides]
    expected = math.dist(*means)
    for k in range(2, moments + 1):
        central = [
            [sum((row[c] - mean[c]) ** k for row in side) / len(side) for c in range(4)]
            for side, mean in zip(sides, means, strict=True)
        ]
        expected += math.dist(*central)
    value = CentralMomentDiscrepancy(squash=squash, moments=moments)(data).item()
    assert value == pytest.approx(expected, rel=1e-5)


def test_features_of_any_size_stay_in_the_bounds():
    """At most one for the means, and one for each moment, of each feature: without bounds the fifth would rule."""
    data = batch()
    large = TransferBatch(features=1e4 * data.features, domain=data.domain)
    value = CentralMomentDiscrepancy()(large).item()
    assert 0 < value <= 5 * 4**0.5


def test_descent_brings_the_means_together():
    data = batch()
    CentralMomentDiscrepancy()(data).backward()
    step = -data.features.grad
    assert (step[data.domain == 0].mean(0) > 0).all() and (step[data.domain == 1].mean(0) < 0).all()


def test_three_domains_give_the_mean_over_their_pairs():
    data = batch(domain=(0, 1, 2, 0, 1, 2, 2, 0))
    pairs = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        chosen = (data.domain == a) | (data.domain == b)
        domain = (data.domain[chosen] == b).long()
        pairs.append(CentralMomentDiscrepancy()(TransferBatch(features=data.features[chosen], domain=domain)).item())
    assert CentralMomentDiscrepancy(num_domains=3)(data).item() == pytest.approx(sum(pairs) / 3, rel=1e-5)


def test_compiles_in_one_graph():
    check_one_graph(CentralMomentDiscrepancy())


@pytest.mark.parametrize(("squash", "count"), [("tanh", 250), ("sigmoid", 50)])
def test_degenerate_batches(squash, count):
    values = check_degenerate_batches(CentralMomentDiscrepancy(squash=squash), count)
    assert min(values) == 0 < max(values) <= 5 * 5**0.5


@pytest.mark.parametrize("domain", [(0, 0, 0), (1, 1), (0,)])
def test_one_domain_gives_an_exact_zero_with_a_graph(domain):
    data = batch(domain)
    loss = CentralMomentDiscrepancy()(data)
    loss.backward()
    assert loss.item() == 0 and not data.features.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moments": 0}, "`moments=0`: the first moment is the mean.*nothing would be compared.*the paper's 5"),
        ({"squash": "relu"}, '`squash=\'relu\'` is no way to bound.*cannot be weighed.*"tanh" or "sigmoid"'),
        ({"num_domains": 1}, "`num_domains=1`: with one domain"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        CentralMomentDiscrepancy(**options)
