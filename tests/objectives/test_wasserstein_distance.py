"""WDGRL against the formula written out: the critic finds known distances, the penalty stays with the critic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hf_transfer import ModelSpec, TransferBatch, WassersteinDistance, attach
from tests.models import batch_for, tiny_bert, tiny_token_bert


def built(feature_dim=3, **options) -> WassersteinDistance:
    torch.manual_seed(0)
    options = {"hidden_size": 16, "strength": 1.0, **options}
    return WassersteinDistance(**options).build(ModelSpec(feature_dim=feature_dim, num_labels=3)).double()


def batch(domain=(0, 1, 0, 1, 1), scale=1.0):
    generator = torch.Generator().manual_seed(0)
    features = scale * torch.randn(len(domain), 3, dtype=torch.float64, generator=generator)
    return TransferBatch(features=features.requires_grad_(), domain=torch.tensor(domain))


def slope(objective, point, output) -> float:
    point = point.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.critic(point)[output], point)
    return gradient.norm().item()


@pytest.mark.parametrize("domain", [(0, 1, 0, 1, 1), (0, 1, 2, 1, 2, 0, 1), (0, 2, 2)])
def test_value_against_the_formula(domain):
    objective, data = built(num_domains=3 if 2 in domain else 2, penalty=7.0), batch(domain)
    torch.manual_seed(4)
    value = objective(data)
    torch.manual_seed(4)
    terms = []
    for k in range(1, objective.num_domains):
        share = torch.rand(len(domain), 1, dtype=torch.float64)
        rows = [[f for f, d in zip(data.features, domain, strict=True) if d == side] for side in (0, k)]
        if not rows[1]:
            continue
        scores = [[objective.critic(f)[k - 1].item() for f in side] for side in rows]
        distance = sum(scores[0]) / len(scores[0]) - sum(scores[1]) / len(scores[1])
        points = [*rows[0], *rows[1]]
        for i in range(max(map(len, rows))):
            start, end = rows[0][i % len(rows[0])], rows[1][i % len(rows[1])]
            points.append(start + share[i] * (end - start))
        penalty = sum((slope(objective, point, k - 1) - 1) ** 2 for point in points) / len(points)
        terms.append(7.0 * penalty - distance)
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


@pytest.mark.parametrize("distance", [0.5, 2.0])
def test_the_critic_finds_a_known_distance(distance):
    """
    Two points: the Wasserstein distance is that between them. Held by a penalty, a slope of a gains a * d - g (a -
    1)^2, so the best one is 1 + d / (2 g), by which the critic is above the distance.
    """
    objective = built(feature_dim=1, penalty=10.0)
    features = torch.tensor([[0.0], [0.0], [distance]], dtype=torch.float64)
    data = TransferBatch(features=features, domain=torch.tensor([0, 0, 1]))
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        objective(data).backward()
        optimizer.step()
    best = 1 + distance / 20
    assert objective.diagnostics["distance"].item() == pytest.approx(distance * best, rel=0.02)
    assert objective.diagnostics["slope"].item() == pytest.approx(best, rel=0.02)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_critic_ascends_and_features_descend_the_distance(strength):
    objective, data = built(strength=strength), batch()
    torch.manual_seed(1)
    objective(data).backward()
    features = data.features.detach().clone().requires_grad_()
    scores = objective.critic(features).squeeze(-1)
    distance = scores[data.domain == 0].mean() - scores[data.domain == 1].mean()
    (of_features,) = torch.autograd.grad(distance, features, retain_graph=True)
    # descending the term, the features descend the distance, and feel nothing of the penalty
    torch.testing.assert_close(data.features.grad, strength * of_features)
    # the last bias of a hidden layer moves the distance and no slope: there the gradient is that of the ascent alone
    bias = objective.critic[2].bias
    (of_bias,) = torch.autograd.grad(distance, bias)
    torch.testing.assert_close(bias.grad, -of_bias)
    assert of_bias.any()


def test_penalty_sends_nothing_into_the_features():
    objective, data = built(), batch()
    # no distance, all penalty: the same row in both domains
    same = data.features.detach()[:1].repeat(4, 1).requires_grad_()
    objective(TransferBatch(features=same, domain=torch.tensor([0, 1, 0, 1]))).backward()
    torch.testing.assert_close(same.grad.sum(0), torch.zeros(3, dtype=torch.float64))
    (weight, *_) = objective.parameters()
    assert weight.grad.any()


def test_penalty_is_that_of_a_double_backward():
    objective, data = built(), batch()
    torch.manual_seed(2)
    objective(data).backward()
    ours = [parameter.grad.clone() for parameter in objective.parameters()]
    torch.manual_seed(2)
    share = torch.rand(5, 1, dtype=torch.float64)
    features = data.features.detach()
    source, target = features[data.domain == 0], features[data.domain == 1]
    start = source[torch.tensor([0, 1, 0])]  # each of the three targets once, the two sources in turn
    points = torch.cat([features, start + share[:3] * (target - start)]).requires_grad_()
    (gradient,) = torch.autograd.grad(objective.critic(points).sum(), points, create_graph=True)
    penalty = (gradient.norm(dim=1) - 1).square().mean()
    distance = objective.critic(source).mean() - objective.critic(target).mean()
    objective.zero_grad()
    (10 * penalty - distance).backward()
    for got, parameter in zip(ours, objective.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad)


@pytest.mark.parametrize("domain", [(0, 0, 0), (1, 1), (0,), (1, 2, 2)])
def test_without_source_or_target_an_exact_zero_penalty_included(domain):
    objective, data = built(num_domains=3), batch(domain)
    value = objective(data)
    value.backward()
    assert value.item() == 0 and not data.features.grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_an_absent_target_does_not_dilute_the_others():
    objective, data = built(num_domains=4), batch((0, 1, 0, 1))
    two = built(num_domains=2)
    two.load_state_dict({**objective.state_dict(), "critic.4.weight": objective.critic[4].weight[:1]})
    for o in (objective, two):
        torch.manual_seed(3)
        o(data)
    torch.testing.assert_close(objective.diagnostics["distance"], two.diagnostics["distance"])


def test_far_and_wide_features():
    for scale in (1e4, 1e-8, 0.0):
        objective, data = built().float(), batch(scale=scale)
        data = replace(data, features=data.features.detach().float().requires_grad_())
        value = objective(data)
        value.backward()
        assert value.isfinite() and data.features.grad.isfinite().all()


def test_works_inside_a_model_in_one_backward():
    torch.manual_seed(0)
    model = tiny_bert().train()
    attachment = attach(model, [WassersteinDistance(hidden_size=16)])
    model(**batch_for(model)).loss.backward()
    assert model.bert.pooler.dense.weight.grad.isfinite().all()
    assert attachment.drain()[0][-2:] == ["wasserstein_distance_distance", "wasserstein_distance_slope"]
    tokens = tiny_token_bert().train()
    attach(tokens, [WassersteinDistance(hidden_size=16)])
    tokens(**batch_for(tokens)).loss.backward()


@pytest.mark.parametrize("penalty", [0.0, -1.0])
def test_penalty_must_be_positive(penalty):
    with pytest.raises(ValueError, match=f"`penalty={penalty}`: nothing would keep the slope.*the paper's 10"):
        WassersteinDistance(penalty=penalty)


def test_domain_out_of_range_is_refused_at_the_first_batch():
    with pytest.raises(ValueError, match=r"from 0 to 2.*`WassersteinDistance\(num_domains=3\)`"):
        built()(batch((0, 1, 2)))
