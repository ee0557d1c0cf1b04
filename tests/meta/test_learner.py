"""Adaptation to episodes against loops with `backward` and an optimizer, on real models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from hf_transfer.meta.head import give_episode_head
from hf_transfer.meta.learner import EpisodeShape, Learner
from hf_transfer.meta.rates import usual_rate
from hf_transfer.meta.selection import select
from tests.meta.rows import batch_of, model_of, rows, state_of


SHAPE = EpisodeShape(n_way=3, k_shot=1, queries=2)
ORDER = [[0, 6, 12, 1, 2, 7, 8, 13, 14], [30, 24, 18, 31, 32, 25, 26, 19, 20]]


def prepared(kind: str = "vit", dtype=torch.float32):
    model = give_episode_head(model_of(kind), 3).eval().to(dtype)
    inputs = batch_of(rows(kind), [row for episode in ORDER for row in episode])
    return model, {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}


def adapted_by_hand(model, inputs, names, steps, rate):
    """A copy of the model trained on each episode's support by SGD, and its logits of the queries."""
    logits = []
    for start in range(0, 18, 9):
        mine = copy.deepcopy(model)
        for name, parameter in mine.named_parameters():
            parameter.requires_grad_(name in names)
        optimizer = torch.optim.SGD([p for p in mine.parameters() if p.requires_grad], lr=rate)
        for _ in range(steps):
            support = {key: value[start : start + 3] for key, value in inputs.items()}
            optimizer.zero_grad()
            F.cross_entropy(mine(**support).logits, torch.arange(3)).backward()
            optimizer.step()
        with torch.no_grad():
            logits.append(mine(**{key: value[start + 3 : start + 9] for key, value in inputs.items()}).logits)
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("kind", "parameters", "vectorize"),
    [
        ("vit", "all", True),
        ("vit", "all", False),
        ("vit", "head", True),
        ("bert", "all", False),
        ("bert", ["block.-1"], False),
        ("bert", "head", True),
        ("resnet", "all", True),
        ("resnet", "head", True),
        ("gpt2", "head", True),
    ],
)
def test_the_inner_loop_is_sgd_on_a_copy(kind, parameters, vectorize):
    if kind == "gpt2":
        from tests import models

        model = give_episode_head(models.tiny_gpt2(), 3).eval()
        inputs = batch_of(rows("bert"), [row for episode in ORDER for row in episode])
    else:
        model, inputs = prepared(kind)
    before = state_of(model)
    names = select(model, parameters).trained
    learner = Learner(model, names, SHAPE, steps=3, vectorize=vectorize)
    logits, losses = learner.query_logits(learner.prepare(learner.split(inputs)), 0.2)
    assert learner.on_features is (parameters == "head") and losses.shape == (2, 3)
    torch.testing.assert_close(logits, adapted_by_hand(model, inputs, names, 3, 0.2), rtol=1e-4, atol=1e-5)
    after = state_of(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("kind", "adapted"), [("vit", "all"), ("vit", "head"), ("bert", "all")])
def test_the_second_order_gradient_is_that_of_finite_differences(kind, adapted):
    model, inputs = prepared(kind, dtype=torch.float64)
    learner = Learner(model, select(model, adapted).trained, SHAPE, steps=2, vectorize=kind == "vit")
    learner.on_features = False  # features are float32
    _, asked = SHAPE.labels(torch.device("cpu"))

    def loss() -> torch.Tensor:
        logits, _ = learner.query_logits(learner.split(inputs), 0.3)
        return F.cross_entropy(logits.flatten(0, 1), asked.repeat(2))

    values = list(model.parameters())
    gradients = torch.autograd.grad(loss(), values)
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in values]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    width, ends = 1e-5, []
    for shift in (width, -2 * width):
        with torch.no_grad():
            for value, direction in zip(values, directions, strict=True):
                value += shift * direction
        ends.append(loss().item())
    assert expected == pytest.approx(
        (ends[0] - ends[1]) / (2 * width), rel=1e-5 if kind == "bert" else 2e-4
    )  # ViT's softmax is float32


@pytest.mark.parametrize("kind", ["vit", "bert", "resnet"])
def test_features_give_the_gradient_that_the_whole_forward_gives(kind):
    model, inputs = prepared(kind)
    gradients = []
    for on_features in (True, False):
        learner = Learner(model, select(model, "head").trained, SHAPE, steps=2, vectorize=False)
        learner.on_features = on_features
        logits, _ = learner.query_logits(learner.prepare(learner.split(inputs)), 0.3)
        gradients.append(torch.autograd.grad(logits.square().mean(), list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_first_order_is_the_gradient_at_the_end_of_the_inner_loop():
    model, inputs = prepared("bert")
    names = select(model, "all").trained
    learner = Learner(model, names, SHAPE, steps=2, first_order=True, vectorize=False)
    one = {key: value[:9] for key, value in inputs.items()}
    logits, _ = learner.query_logits(learner.prepare(learner.split(one)), 0.2)
    _, asked = SHAPE.labels(torch.device("cpu"))
    found = torch.autograd.grad(F.cross_entropy(logits[0], asked), [model.get_parameter(name) for name in names])
    mine = copy.deepcopy(model)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.2)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(mine(**{key: value[:3] for key, value in one.items()}).logits, torch.arange(3)).backward()
        optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(mine(**{key: value[3:] for key, value in one.items()}).logits, asked).backward()
    for name, gradient in zip(names, found, strict=True):
        torch.testing.assert_close(gradient, mine.get_parameter(name).grad, rtol=1e-3, atol=1e-6)


def test_at_once_is_one_by_one_with_second_derivatives():
    model, inputs = prepared(dtype=torch.float64)
    names = select(model, "all").trained
    gradients = []
    for vectorize in (True, False):
        learner = Learner(model, names, SHAPE, steps=2, vectorize=vectorize)
        logits, _ = learner.query_logits(learner.split(inputs), 0.2)
        gradients.append(torch.autograd.grad(logits.square().mean(), [model.get_parameter(name) for name in names]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert model.config._attn_implementation == "sdpa"  # put back


def test_no_query_reaches_the_inner_loop():
    model, inputs = prepared()
    learner = Learner(model, select(model, "all").trained, SHAPE, steps=2)
    split = learner.split(inputs)
    _, losses = learner.query_logits(split, 0.2)
    changed = {name: value.clone() for name, value in split.items()}
    for value in changed.values():
        value[:, 3 + 4 :] += 100  # other queries
    logits, others = learner.query_logits(changed, 0.2)
    assert torch.equal(losses, others)
    untouched, _ = learner.query_logits(split, 0.2)
    torch.testing.assert_close(logits[:, :4], untouched[:, :4])  # nor another query
    assert not torch.allclose(logits[:, 4:], untouched[:, 4:])


def test_reptile_sees_all_rows_in_turn_with_their_classes():
    parts = EpisodeShape(n_way=2, k_shot=1, queries=3).parts(4, torch.device("cpu"))
    assert [part.tolist() for part in parts] == [[0, 1], [2, 5], [3, 6], [4, 7]]
    assert [len(part) for part in EpisodeShape(2, 2, 3).parts(9, torch.device("cpu"))] == [4, 4]
    assert [sorted(part.tolist()) for part in EpisodeShape(2, 1, 1).parts(1, torch.device("cpu"))] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("parameters", ["all", "head"])
def test_the_loop_of_reptile_is_sgd_on_minibatches(parameters):
    model, inputs = prepared()
    names = select(model, parameters).trained
    learner = Learner(model, names, SHAPE, steps=3)
    found, _ = learner.adapted_parameters(learner.prepare(learner.split(inputs)), 0.2)
    classes = torch.cat(SHAPE.labels(torch.device("cpu")))
    assert found.keys() == set(names)
    for episode, start in enumerate((0, 9)):
        mine = copy.deepcopy(model)
        optimizer = torch.optim.SGD([mine.get_parameter(name) for name in names], lr=0.2)
        for part in ([0, 1, 2], [3, 5, 7], [4, 6, 8]):
            optimizer.zero_grad()
            batch = {key: value[start : start + 9][part] for key, value in inputs.items()}
            F.cross_entropy(mine(**batch).logits, classes[part]).backward()
            optimizer.step()
        for name in names:
            torch.testing.assert_close(found[name][episode], mine.get_parameter(name).detach(), rtol=1e-4, atol=1e-5)


def test_a_model_that_goes_on_after_its_head_is_adapted_through_its_forward():
    model, inputs = prepared()
    model.register_forward_hook(lambda module, args, output: output.__setitem__("logits", 2 * output["logits"]))
    learner = Learner(model, select(model, "head").trained, SHAPE, steps=2, vectorize=False)
    logits, _ = learner.query_logits(learner.prepare(learner.split(inputs)), 0.2)
    assert not learner.on_features
    torch.testing.assert_close(logits, adapted_by_hand(model, inputs, learner.adapted, 2, 0.2), rtol=1e-4, atol=1e-5)


def test_batches_that_hold_no_whole_episodes_are_refused():
    model, inputs = prepared()
    learner = Learner(model, select(model, "head").trained, SHAPE, steps=1)
    with pytest.raises(ValueError, match="10 rows does not hold whole episodes of 9 rows: .* Leave the batch size"):
        learner.split({key: value[:10] for key, value in inputs.items()})
    with pytest.raises(
        ValueError, match="`grid` .* does not have one entry for each of the 18 rows .* Choose a model"
    ):
        learner.split({**inputs, "grid": torch.zeros(4, 3)})


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_head_is_adapted_at_the_rate_that_its_features_bear(scale):
    model, inputs = prepared()
    learner = Learner(model, select(model, "head").trained, SHAPE, steps=3)
    features = scale * learner.prepare(learner.split(inputs))["features"]
    logits, losses = learner.query_logits({"features": features})
    assert (losses.diff(dim=1) <= 0).all()
    for number, episode in enumerate(features):
        rate = 4 / (1 + episode[: SHAPE.support].square().sum(-1)).mean().item()
        own, _ = learner.query_logits({"features": episode[None]}, rate)
        torch.testing.assert_close(logits[number], own[0])


def test_other_parameters_have_the_usual_rates():
    model, _ = prepared()
    names = {word: select(model, word).trained for word in ("head", "all")}
    head = Learner(model, names["head"], SHAPE, steps=1).head
    assert usual_rate(names["head"], head=head) == 0.1 and usual_rate(names["all"], head=head) == 0.01
    assert usual_rate([*names["head"], "x.lora_A.default.weight"], head=head) == 0.1
    learner = Learner(model, names["all"], SHAPE, steps=1)
    assert learner.rates_for({}) == 0.01 and learner.rates_for({}, 0.3) == 0.3
