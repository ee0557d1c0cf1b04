"""Masks over the domains of a batch, and the mean over their pairs."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from hf_transfer.functional.domains import domain_masks, mean_over_pairs


def between_means(features):
    def distance(a, b):
        first, second = (mask @ features / mask.sum().clamp(min=1) for mask in (a, b))
        return (first - second).square().sum()

    return distance


def test_masks_name_the_rows_of_each_domain():
    domain = torch.tensor([2, 0, 2])
    assert domain_masks(domain, 4).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert domain_masks(domain, 3, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("num_domains", [2, 3, 5])
def test_mean_over_the_pairs_that_are_there(num_domains):
    features = torch.randn(11, 3, dtype=torch.float64)
    domain = torch.tensor([0, 1, 0, 1, 1, 0, 4, 4, 0, 1, 2]).clamp(max=num_domains - 1)
    present = sorted(set(domain.tolist()))
    expected = [
        (features[domain == a].mean(0) - features[domain == b].mean(0)).square().sum()
        for a, b in combinations(present, 2)
    ]
    mean = mean_over_pairs(between_means(features), domain, num_domains, dtype=torch.float64)
    torch.testing.assert_close(mean, torch.stack(expected).mean())


def test_domains_with_too_few_rows_do_not_count():
    features = torch.randn(5, 3)
    domain = torch.tensor([0, 0, 1, 1, 2])
    distance = between_means(features)
    masks = domain_masks(domain, 3)
    torch.testing.assert_close(mean_over_pairs(distance, domain, 3, least=2), distance(masks[0], masks[1]))


@pytest.mark.parametrize("domain", [[0, 0, 0], [2, 2, 2]])
def test_one_domain_gives_an_exact_zero_with_a_graph(domain):
    features = torch.randn(3, 4, requires_grad=True)
    term = mean_over_pairs(between_means(features), torch.tensor(domain), 3)
    assert term.item() == 0
    term.backward()
    assert features.grad is not None and not features.grad.any()
