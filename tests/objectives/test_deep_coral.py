"""Deep CORAL on batches: its scale, several domains, and what it leaves alone."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from hf_transfer import DeepCORAL, TransferBatch, attach
from tests.models import batch_for, tiny_bert, tiny_vit
from tests.objectives.domain_checks import check_degenerate_batches, check_one_graph


def batch(domain, width=4):
    generator = torch.Generator().manual_seed(0)
    domain = torch.tensor(domain)
    features = torch.randn(len(domain), width, generator=generator) * (1 + domain).unsqueeze(1)
    return TransferBatch(features=features.requires_grad_(), domain=domain)


@pytest.mark.parametrize("width", [3, 50])
@pytest.mark.parametrize("domains", [2, 3])
def test_value_against_numpy(width, domains):
    """One over 4 D^2, over n - 1, the mean over the pairs; 4 times less than the mean of the squares."""
    data = batch([k for k in range(domains) for _ in range(3 + k)][::-1], width)
    features, domain = data.features.detach().double().numpy(), data.domain.numpy()
    covariances = [np.cov(features[domain == k], rowvar=False) for k in range(domains)]
    distances = [((a - b) ** 2).sum() / (4 * width**2) for a, b in combinations(covariances, 2)]
    assert DeepCORAL(num_domains=domains)(data).item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)


def test_a_domain_that_is_not_there_leaves_the_pair_of_the_others():
    data = batch((0, 0, 0, 2, 2, 2, 2))
    two = TransferBatch(features=data.features, domain=data.domain // 2)
    assert DeepCORAL(num_domains=3)(data).item() == pytest.approx(DeepCORAL()(two).item(), rel=1e-6)


def test_descent_narrows_the_wider_domain():
    data = batch((0, 0, 0, 0, 1, 1, 1, 1))
    DeepCORAL()(data).backward()
    after = data.features - 0.1 * data.features.grad
    spread = [x[data.domain == 1].var(0).sum().item() for x in (data.features, after)]
    assert spread[1] < spread[0]
    # a shift of one domain changes nothing: the gradient has no part in its direction
    assert data.features.grad[data.domain == 1].sum(0).abs().max() < 1e-4


def test_the_task_loss_still_reaches_the_backbone():
    """A program of the field trains its encoder on this term alone."""
    gradients = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = tiny_vit().train()
        attach(model, [DeepCORAL(weight=weight)])
        model(**batch_for(model, 8)).loss.backward()
        gradients.append(model.vit.embeddings.cls_token.grad)
    assert gradients[0].any() and not torch.equal(*gradients)


def test_taps():
    torch.manual_seed(0)
    model = tiny_bert().train()
    attachment = attach(model, [DeepCORAL(taps=("head", -1), weight=10.0)])
    model(**batch_for(model, 8)).loss.backward()
    assert attachment.terms["deep_coral"] > 0


def test_compiles_in_one_graph():
    check_one_graph(DeepCORAL())


def test_degenerate_batches():
    values = check_degenerate_batches(DeepCORAL(), 250)
    assert min(values) == 0 < max(values)


@pytest.mark.parametrize("domain", [(0, 0, 0), (1, 1, 1), (0, 1, 1), (0,)])
def test_fewer_than_two_rows_of_a_domain_give_an_exact_zero(domain):
    data = batch(domain)
    loss = DeepCORAL()(data)
    loss.backward()
    assert loss.item() == 0 and not data.features.grad.any()


def test_constructor_refuses():
    with pytest.raises(ValueError, match="`num_domains=1`: with one domain there is nothing to compare"):
        DeepCORAL(num_domains=1)
