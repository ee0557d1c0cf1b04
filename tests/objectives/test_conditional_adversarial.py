"""CDAN against the formula written out, its maps, its buffers, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hf_transfer import ConditionalAdversarial, ModelSpec, TransferBatch, attach
from hf_transfer.functional.multilinear import random_maps
from tests.models import batch_for, tiny_bert, tiny_token_bert


def built(feature_dim=4, num_labels=3, **options) -> ConditionalAdversarial:
    torch.manual_seed(0)
    options = {"hidden_size": 8, "strength": 1.0, **options}
    return ConditionalAdversarial(**options).build(ModelSpec(feature_dim=feature_dim, num_labels=num_labels)).double()


def batch(domain=(0, 1, 0, 1, 0), progress=1.0):
    generator = torch.Generator().manual_seed(0)
    n = len(domain)
    return TransferBatch(
        features=torch.randn(n, 4, dtype=torch.float64, generator=generator, requires_grad=True),
        logits=2 * torch.randn(n, 3, dtype=torch.float64, generator=generator),
        labels=torch.tensor([0 if k == 0 else -100 for k in domain]),
        domain=torch.tensor(domain),
        progress=progress,
    )


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("domains", [2, 3])
def test_value_against_the_formula(domains, conditioned):
    objective = built(num_domains=domains, entropy_conditioning=conditioned)
    data = batch(domain=tuple(i % domains for i in range(7)))
    losses, weights = [], []
    for f, z, k in zip(data.features.tolist(), data.logits.tolist(), data.domain.tolist(), strict=True):
        g = softmax(z)
        joint = torch.tensor([p * x for p in g for x in f], dtype=torch.float64)
        losses.append(-math.log(softmax(objective.discriminator(joint).tolist())[k]))
        weights.append(1 + math.exp(sum(p * math.log(p) for p in g)) if conditioned else 1.0)
    total = 0.0
    for i, k in enumerate(data.domain.tolist()):
        same = [weights[j] for j in range(7) if data.domain[j] == k]
        total += losses[i] * weights[i] / (sum(same) / len(same))
    assert objective(data).item() == pytest.approx(total / 7, rel=1e-10)


def test_randomised_map_in_its_place():
    objective, data = built(randomized=True, random_size=6), batch()
    assert objective.discriminator[0].in_features == 6
    maps = [m.double() for m in random_maps(4, 3, 6)]
    total = 0.0
    for f, z, k in zip(data.features.detach(), data.logits, data.domain.tolist(), strict=True):
        joint = (f @ maps[0]) * (z.softmax(-1) @ maps[1]) / math.sqrt(6)
        total -= math.log(softmax(objective.discriminator(joint).tolist())[k])
    assert objective(data).item() == pytest.approx(total / 5, rel=1e-6)


@pytest.mark.parametrize(
    ("feature_dim", "num_labels", "randomized", "width"),
    [
        (1024, 4, None, 4096),  # still the product
        (1025, 4, None, 1024),
        (1025, 4, False, 4100),
        (4, 3, None, 12),
        (4, 3, True, 1024),
    ],
)
def test_randomised_where_the_product_is_too_wide(feature_dim, num_labels, randomized, width):
    objective = ConditionalAdversarial(hidden_size=2, randomized=randomized)
    objective.build(ModelSpec(feature_dim=feature_dim, num_labels=num_labels))
    assert objective.discriminator[0].in_features == width


def test_random_map_is_state_and_the_same_on_every_rank():
    torch.manual_seed(1)
    first = ConditionalAdversarial(hidden_size=2, randomized=True, random_size=5)
    first.build(ModelSpec(feature_dim=4, num_labels=3))
    torch.manual_seed(2)  # another rank, with another seed
    second = ConditionalAdversarial(hidden_size=2, randomized=True, random_size=5)
    second.build(ModelSpec(feature_dim=4, num_labels=3))
    assert torch.equal(first.feature_map, second.feature_map) and torch.equal(first.class_map, second.class_map)
    assert {"feature_map", "class_map"} <= set(first.state_dict())
    assert not {"feature_map", "class_map"} & {name for name, _ in first.named_parameters()}
    first.feature_map.add_(1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.feature_map, second.feature_map)


def test_the_exported_model_leaves_the_maps_out(tmp_path):
    model = tiny_bert().train()
    attach(model, [ConditionalAdversarial(hidden_size=2, randomized=True, random_size=5)])
    model.save_pretrained(tmp_path)
    fresh, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    assert not any("map" in key for key in fresh.state_dict())


def test_conditions_on_the_predictions():
    """Features alike in both domains: only with the predictions can the domains be told apart."""
    objective = built(hidden_size=16)
    domain = torch.tensor([0, 1] * 8)
    features = torch.randn(8, 4, dtype=torch.float64).repeat_interleave(2, dim=0)
    logits = 5 * torch.nn.functional.one_hot(domain, 3).double()
    data = TransferBatch(features=features, logits=logits, labels=domain, domain=domain)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        objective(data).backward()
        optimizer.step()
    assert objective.diagnostics["accuracy"] == 1.0
    objective(replace(data, logits=torch.zeros_like(logits)))
    assert objective.diagnostics["accuracy"] == 0.5


def test_no_gradient_into_the_head_of_the_model():
    model = tiny_bert().train()
    inputs = {**batch_for(model), "labels": torch.full((4,), -100)}
    attach(model, [ConditionalAdversarial(hidden_size=8)])
    model(**inputs).loss.backward()
    assert not model.classifier.weight.grad.any()
    assert model.bert.pooler.dense.weight.grad.any()


def test_tokens_are_rows_and_padding_is_none():
    torch.manual_seed(0)
    model = tiny_token_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [ConditionalAdversarial(hidden_size=8, entropy_conditioning=True)])
    batch = batch_for(model)
    seen = []
    attachment.objectives["conditional_adversarial"].discriminator.register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    model(**batch)
    assert seen[0].shape == (24, 2)  # 4 rows of 6 tokens
    term = attachment.terms["conditional_adversarial"]
    padding = batch["attention_mask"] == 0
    assert padding.any()
    batch["input_ids"][padding] = 7
    model(**batch)
    torch.testing.assert_close(attachment.terms["conditional_adversarial"], term)


def test_equal_halves_of_a_batch_add_up_as_the_whole():
    """Gradient accumulation: the mean of equal micro-batches, with a fixed share of each domain, is the whole."""
    objective, data = built(), batch(domain=(0, 1, 0, 1))
    halves = [
        replace(data, **{name: getattr(data, name)[part] for name in ("features", "logits", "labels", "domain")})
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(objective(half) for half in halves) / 2, objective(data))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_size": 0}, "`random_size=0` leaves the randomised map without outputs.*positive width"),
        ({"num_domains": 1}, "`num_domains=1`: with one domain there is nothing to compare.*2 or more"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ConditionalAdversarial(**options)


def test_regressions_are_refused_when_attached():
    with pytest.raises(ValueError, match="ConditionalAdversarial on a regression.*Leave it out"):
        attach(tiny_bert(num_labels=1), [ConditionalAdversarial()])


def test_domain_out_of_range_is_refused_at_the_first_batch():
    with pytest.raises(ValueError, match=r"from 0 to 2.*`ConditionalAdversarial\(num_domains=3\)`"):
        built()(batch(domain=(0, 1, 2)))


def test_discriminator_is_on_logits():
    """No probability layer at its end: cross-entropy takes logits."""
    assert isinstance(built().discriminator[-1], nn.Linear)
