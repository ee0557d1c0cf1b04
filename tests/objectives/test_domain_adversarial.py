"""DANN against the formula written out, its roles, its constants and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import DomainAdversarial, ModelSpec, TransferBatch, attach
from hf_transfer.schedules import warmup
from tests.models import batch_for, tiny_bert, tiny_token_bert


def built(**options) -> DomainAdversarial:
    torch.manual_seed(0)
    return DomainAdversarial(hidden_size=8, **options).build(ModelSpec(feature_dim=4, num_labels=3)).double()


def batch(domain=(0, 1, 0, 1), progress=1.0):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(domain), 4, dtype=torch.float64, generator=generator, requires_grad=True)
    return TransferBatch(features=features, domain=torch.tensor(domain), progress=progress)


@pytest.mark.parametrize("domains", [2, 3])
def test_value_against_the_formula(domains):
    objective, data = built(num_domains=domains), batch(domain=tuple(i % domains for i in range(6)))
    total = 0.0
    for row, k in zip(data.features, data.domain.tolist(), strict=True):
        x = row
        first, norm, _, second, norm2, _, last = objective.discriminator
        for linear, n in ((first, norm), (second, norm2)):
            x = linear.weight @ x + linear.bias
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
            x = (n.weight * x + n.bias).clamp(min=0)
        logits = (last.weight @ x + last.bias).tolist()
        total -= math.log(math.exp(logits[k]) / sum(map(math.exp, logits)))
    assert objective(data).item() == pytest.approx(total / 6, rel=1e-10)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_strength_scales_the_reversed_gradient_only(progress):
    """The discriminator descends at full strength from the first step; the backbone ascends by lambda(p)."""
    strong, weak = batch(progress=1.0), batch(progress=progress)
    at_full, at_p = built(strength=1.0), built()
    at_full(strong).backward()
    at_p(weak).backward()
    factor = float(warmup(gamma=10.0)(progress))
    torch.testing.assert_close(weak.features.grad, factor * strong.features.grad, rtol=1e-6, atol=1e-12)
    for ours, full in zip(at_p.parameters(), at_full.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, full.grad)


def test_discriminator_descends_what_the_features_ascend():
    objective = built(strength=1.0)
    data = batch()
    objective(data).backward()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    before = objective(data).item()
    optimizer.step()
    assert objective(data).item() < before
    uphill = TransferBatch(features=data.features - 0.1 * data.features.grad, domain=data.domain)
    assert objective(uphill).item() > objective(data).item()


def test_weight_scales_both_players():
    gradients = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        inputs = {**batch_for(model), "labels": torch.full((4,), -100)}
        attachment = attach(model, [DomainAdversarial(hidden_size=8, weight=weight)])
        model(**inputs).loss.backward()
        own = attachment.objectives["domain_adversarial"].discriminator[0].weight.grad
        gradients.append((own, model.bert.pooler.dense.weight.grad))
    for full, quarter in zip(*gradients, strict=True):
        torch.testing.assert_close(quarter, 0.25 * full)


def test_a_perfect_discriminator_shows_in_the_diagnostics():
    objective, data = built(), batch()
    for _ in range(300):
        objective.zero_grad()
        objective(data).backward()
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter -= 0.5 * parameter.grad
    assert objective.diagnostics["accuracy"].item() == 1.0
    assert objective(data).item() < 0.05


def test_token_classifiers_have_one_domain_per_row():
    model = tiny_token_bert().train()
    attachment = attach(model, [DomainAdversarial(hidden_size=8)])
    model(**batch_for(model)).loss.backward()
    assert attachment.terms["domain_adversarial"] > 0


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (
            (0, 1, 2),
            r"values from 0 to 2, but DomainAdversarial compares 2 domains.*`DomainAdversarial\(num_domains=3\)`",
        ),
        ((0, -100), r"values from -100 to 0.*Number the domains from 0"),
    ],
)
def test_domain_out_of_range_is_refused_at_the_first_batch(domain, message):
    with pytest.raises(ValueError, match=message):
        built()(batch(domain=domain))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_domains": 1}, "`num_domains=1`: with one domain there is nothing to compare.*2 or more"),
        ({"hidden_size": 0}, "`hidden_size=0` leaves the adversary of DomainAdversarial without.*positive width"),
        ({"strength": -0.1}, "`strength=-0.1` is negative: the gradient would be reversed twice.*zero or a positive"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DomainAdversarial(**options)
