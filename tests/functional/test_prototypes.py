"""Prototypical episodes against loops written from the paper."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.prototypes import episode_loss, prototype_logits, split_episodes, whole_episodes


def drawn(*shape, seed=0, scale=1.0, requires_grad=True):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, dtype=torch.float64, generator=generator)).requires_grad_(requires_grad)


def naive(features, n, k, q, distance, temperature) -> tuple[float, float]:
    """Mean loss and accuracy over all queries of all episodes, row by row."""
    size, losses, right = n * (k + q), [], []
    for start in range(0, len(features) // size * size, size):
        rows = [torch.tensor(row, dtype=torch.float64) for row in features[start : start + size]]
        prototypes = [sum(rows[c * k : (c + 1) * k]) / k for c in range(n)]
        for number, query in enumerate(rows[n * k :]):
            if distance == "cosine":
                scores = [torch.cosine_similarity(query, p, 0).item() / temperature for p in prototypes]
            else:
                scores = [-((query - p) ** 2).sum().item() / temperature for p in prototypes]
            truth = number // q
            losses.append(-scores[truth] + math.log(sum(math.exp(score) for score in scores)))
            right.append(max(range(n), key=scores.__getitem__) == truth)
    return sum(losses) / len(losses), sum(right) / len(right)


def ours(features, n, k, q, distance="squared_euclidean", temperature=1.0, counted=None):
    support, query = split_episodes(features, n_way=n, k_shot=k, queries=q)
    logits = prototype_logits(support.mean(2), query.flatten(1, 2), distance=distance, temperature=temperature)
    return episode_loss(logits, torch.ones(len(logits), dtype=torch.bool) if counted is None else counted)


@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
@pytest.mark.parametrize(("n", "k", "q", "episodes", "temperature"), [(2, 1, 1, 1, 1.0), (3, 2, 4, 3, 0.5)])
def test_value_and_accuracy_against_a_loop(distance, n, k, q, episodes, temperature):
    features = drawn(episodes * n * (k + q) + 1, 5)  # one row too many
    loss, accuracy = ours(features, n, k, q, distance, temperature)
    expected, right = naive(features.tolist(), n, k, q, distance, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9) and accuracy.item() == pytest.approx(right)


@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
def test_gradient_is_that_of_finite_differences(distance):
    assert torch.autograd.gradcheck(lambda x: ours(x, 2, 2, 1, distance, 0.7)[0], drawn(6, 3))


def test_squared_distances_not_plain_ones():
    # at distance 1 and 3: exp(-1) / (exp(-1) + exp(-9)), not exp(-1) / (exp(-1) + exp(-3))
    logits = prototype_logits(torch.tensor([[[0.0], [4.0]]]), torch.tensor([[[1.0]]]))
    assert logits.softmax(-1)[0, 0, 0].item() == pytest.approx(1 / (1 + math.exp(-8)), rel=1e-6)


def test_descent_draws_queries_to_their_prototype_and_support_apart():
    features = drawn(6, 3)
    loss, _ = ours(features, 2, 1, 2)
    (gradient,) = torch.autograd.grad(loss, features)
    stepped = features - 1e-3 * gradient / gradient.norm()
    assert ours(stepped, 2, 1, 2)[0] < loss
    assert (gradient.norm(dim=1) > 0).all()  # support and queries alike


def test_the_place_of_all_features_does_not_matter_even_in_float32():
    features = drawn(8, 4, requires_grad=False).float()
    near, far = ours(features, 2, 2, 2)[0], ours(features + 1000.0, 2, 2, 2)[0]
    assert far.item() == pytest.approx(near.item(), rel=1e-3)


def test_scaling_does_not_change_cosines():
    features = drawn(8, 4, requires_grad=False)
    assert ours(7 * features, 2, 2, 2, "cosine")[0].item() == pytest.approx(
        ours(features, 2, 2, 2, "cosine")[0].item(), rel=1e-9
    )


def test_split_puts_each_row_where_its_episode_says():
    # 2-way 2-shot 1 query, two episodes and one row left over
    support, query = split_episodes(torch.arange(13), n_way=2, k_shot=2, queries=1)
    assert support.tolist() == [[[0, 1], [2, 3]], [[6, 7], [8, 9]]]
    assert query.tolist() == [[[4], [5]], [[10], [11]]]


@pytest.mark.parametrize(
    ("labels", "whole"),
    [
        ([7, 7, 3, 3, 7, 3], True),
        ([7, 7, 3, 3, 3, 7], False),  # the queries in another order
        ([7, 3, 7, 3, 7, 3], False),  # the support not class by class
        ([7, 7, 7, 7, 7, 7], False),  # one class twice
        ([7, 7, 3, 3, 7, -100], False),
        ([-100] * 6, False),
        ([-100, -100, 3, 3, -100, 3], False),
    ],
)
def test_whole_episodes(labels, whole):
    support, query = split_episodes(torch.tensor(labels), n_way=2, k_shot=2, queries=1)
    assert whole_episodes(support, query).tolist() == [whole]


def test_only_counted_episodes_count():
    features = drawn(12, 3)
    loss, accuracy = ours(features, 2, 2, 1, counted=torch.tensor([False, True]))
    alone, right = ours(features[6:], 2, 2, 1)
    assert loss.item() == pytest.approx(alone.item()) and accuracy == right
    (gradient,) = torch.autograd.grad(loss, features)
    assert not gradient[:6].any() and gradient[6:].any()


@pytest.mark.parametrize("rows", [0, 1, 5, 6])
def test_nothing_that_counts_is_an_exact_zero_with_a_graph(rows):
    features = drawn(rows, 3)
    loss, accuracy = ours(features, 2, 2, 1, counted=torch.zeros(rows // 6, dtype=torch.bool))
    assert loss.item() == 0 and accuracy.item() == 0
    (gradient,) = torch.autograd.grad(loss, features)
    assert not gradient.any()


def test_a_thousand_degenerate_batches_stay_finite():
    generator = torch.Generator().manual_seed(3)
    for number in range(1000):
        scale = (0.0, 1e-30, 1.0, 1e4, 1e8)[number % 5]
        rows = int(torch.randint(0, 14, (), generator=generator))
        features = scale * torch.randn(rows, 3, generator=generator)
        if number % 3 == 0:
            features = features[:1].expand(rows, 3)
        features = features.clone().requires_grad_()
        labels = torch.randint(-1, 2, (rows,), generator=generator).sub(1).clamp(min=-100)
        labels = torch.where(labels == -2, -100, labels)
        classes = split_episodes(labels, n_way=2, k_shot=1, queries=1)
        counted = whole_episodes(*classes) | (number % 2 == 0)
        loss, accuracy = ours(features, 2, 1, 1, ("squared_euclidean", "cosine")[number % 2], counted=counted)
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss.isfinite() and gradient.isfinite().all() and 0 <= accuracy <= 1
