"""BSP: each domain by itself, several of them, its constants, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer import BatchSpectralPenalization, DomainAdversarial, TransferBatch, attach
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


def batch(domain=(0, 1, 1, 0, 0, 1, 0)) -> TransferBatch:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(len(domain), 4, dtype=torch.float64, generator=generator, requires_grad=True)
    return TransferBatch(features=features, domain=torch.tensor(domain))


def by_domain(data, k) -> float:
    """From the eigenvalues of the covariance of each domain's rows, chosen one by one."""
    features, total = data.features.detach().numpy(), 0.0
    for domain in set(data.domain.tolist()):
        rows = np.stack([row for row, own in zip(features, data.domain.tolist(), strict=True) if own == domain])
        total += np.sort(np.linalg.eigvalsh(rows.T @ rows))[::-1][:k].sum()
    return total


def test_the_constants_of_the_paper():
    assert BatchSpectralPenalization().config() == {"k": 1, "num_domains": 2, "weight": 1e-4}


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("domains", [2, 3])
def test_value_is_the_sum_over_the_domains(k, domains):
    data = batch(tuple(row % domains for row in range(9)))
    value = BatchSpectralPenalization(k=k, num_domains=domains)(data)
    assert value.item() == pytest.approx(by_domain(data, k), rel=1e-9)


def test_domains_of_unequal_size_and_one_that_is_absent():
    data = batch((0, 0, 0, 0, 2))
    assert BatchSpectralPenalization(num_domains=4)(data).item() == pytest.approx(by_domain(data, 1), rel=1e-9)


def test_domains_are_not_thrown_together():
    data = batch()
    together = torch.linalg.svdvals(data.features.detach())[0] ** 2
    assert BatchSpectralPenalization()(data).item() > together * 1.05


def test_a_domain_with_fewer_rows_than_k_gives_all_it_has():
    data = batch((0, 0, 0, 1))
    features = data.features.detach()
    expected = (torch.linalg.svdvals(features[:3])[:2] ** 2).sum() + features[3].square().sum()
    assert BatchSpectralPenalization(k=2)(data).item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_step_shrinks_the_strongest_direction_of_each_domain_and_no_other():
    data = batch()
    BatchSpectralPenalization()(data).backward()
    for domain in (0, 1):
        rows, gradient = (x[data.domain == domain] for x in (data.features.detach(), data.features.grad))
        before, after = (torch.linalg.svdvals(x).sort().values for x in (rows, rows - 0.01 * gradient))
        torch.testing.assert_close(after[:-1], before[:-1])
        torch.testing.assert_close(after[-1], 0.98 * before[-1])


@pytest.mark.parametrize("domain", [0, 1])
def test_one_domain_is_an_exact_zero_with_a_graph(domain):
    data = batch((domain,) * 4)
    value = BatchSpectralPenalization()(data)
    assert value.item() == 0
    value.backward()
    assert torch.equal(data.features.grad, torch.zeros(4, 4))


@pytest.mark.parametrize("features", [torch.zeros(4, 6), torch.ones(4, 6), 1e4 * torch.eye(4, 6)])
def test_degenerate_features_have_finite_gradients(features):
    features = features.clone().requires_grad_()
    data = TransferBatch(features=features, domain=torch.tensor([0, 1, 0, 1]))
    value = BatchSpectralPenalization(k=2)(data)
    value.backward()
    assert value.isfinite() and features.grad.isfinite().all()


def test_thousand_batches_are_finite():
    generator = torch.Generator().manual_seed(0)
    objective = BatchSpectralPenalization(k=2, num_domains=3)
    for trial in range(1000):
        rows, width = (int(torch.randint(1, 8, (1,), generator=generator)) for _ in range(2))
        features = (0.0, 1e-10, 1.0, 1e4)[trial % 4] * torch.randn(rows, width, generator=generator)
        if trial % 5 == 0:
            features = features[:1].repeat(rows, 1)
        features.requires_grad_()
        domain = torch.randint(0, 1 + trial % 3, (rows,), generator=generator)
        value = objective(TransferBatch(features=features, domain=domain))
        value.backward()
        assert value.isfinite() and value >= 0 and features.grad.isfinite().all(), trial


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet, tiny_token_bert])
def test_in_models_the_gradient_reaches_the_backbone(make):
    model = make().train()
    attachment = attach(model, [BatchSpectralPenalization(weight=1.0)])
    inputs = {**batch_for(model), "labels": torch.full_like(batch_for(model)["labels"], -100)}
    model(**inputs).loss.backward()
    assert attachment.terms["batch_spectral_penalization"] > 0
    assert sum(p.grad.norm() for name, p in model.named_parameters() if p.grad is not None and "layer" in name) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_lora_beside_an_adversary(dtype):
    model = lora(tiny_bert(), ["query"], "classifier").train().to(dtype)
    attachment = attach(model, [BatchSpectralPenalization(), DomainAdversarial(hidden_size=8)])
    attachment.objectives.float()
    model(**batch_for(model)).loss.backward()
    term = attachment.terms["batch_spectral_penalization"]
    assert term.dtype == torch.float32 and term > 0 and len(attachment.terms) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "`k=0` penalises no singular value.*paper's 1"),
        ({"num_domains": 1}, "`num_domains=1`: with one domain there is nothing to compare"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        BatchSpectralPenalization(**options)


def test_more_domains_than_told_are_refused_at_the_first_batch():
    message = r"values from 0 to 2, but BatchSpectralPenalization.*`BatchSpectralPenalization\(num_domains=3\)`"
    with pytest.raises(ValueError, match=message):
        BatchSpectralPenalization()(batch((0, 1, 2)))
