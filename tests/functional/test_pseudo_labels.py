"""Pseudo-labels and centroids against loops written from the papers."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.pseudo_labels import (
    centroid_pseudo_labels,
    class_thresholds,
    cosine_to_centroids,
    mean_prediction,
    pseudo_label_cross_entropy,
    pseudo_labels,
    weighted_centroids,
)


def random(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(row):
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("threshold", [0.5, 0.7, torch.tensor([0.4, 0.9, 0.6], dtype=torch.float64)])
def test_labels_and_loss_against_a_loop(threshold):
    logits = random(20, 3).requires_grad_()
    counted = torch.arange(20) % 3 > 0
    labels, kept = pseudo_labels(logits, threshold)
    assert not labels.requires_grad and not kept.requires_grad
    total, number = 0.0, 0
    for i, row in enumerate(logits.tolist()):
        p = softmax(row)
        best = p.index(max(p))
        limit = threshold if isinstance(threshold, float) else threshold[best].item()
        assert labels[i] == best and kept[i].item() == (p[best] >= limit)
        if counted[i]:
            number += 1
            total -= math.log(p[best]) if p[best] >= limit else 0.0
    loss = pseudo_label_cross_entropy(logits, labels, kept, counted)
    assert 0 < kept.sum() < 20
    assert loss.item() == pytest.approx(total / number, rel=1e-12)


def test_gradient_of_the_loss_is_that_of_cross_entropy_of_the_kept():
    logits = random(6, 4).requires_grad_()
    labels, kept = pseudo_labels(logits, 0.6)
    counted = torch.tensor([True] * 5 + [False])
    assert torch.autograd.gradcheck(lambda z: pseudo_label_cross_entropy(z, labels, kept, counted), logits)
    pseudo_label_cross_entropy(logits, labels, kept, counted).backward()
    one_hot = torch.nn.functional.one_hot(labels, 4)
    expected = (logits.detach().softmax(-1) - one_hot) * (kept & counted).unsqueeze(-1) / 5
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("counted", [[True, True], [False, False]])
def test_nothing_kept_is_an_exact_zero_with_a_graph(counted):
    logits = torch.tensor([[0.0, 0.1], [float("inf"), 0.0]], requires_grad=True)
    loss = pseudo_label_cross_entropy(
        logits, torch.tensor([0, 0]), torch.tensor([False, False]), torch.tensor(counted)
    )
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_huge_logits_and_a_thousand_random_batches_stay_finite():
    generator = torch.Generator().manual_seed(1)
    for number in range(1000):
        rows, classes = int(torch.randint(1, 5, (), generator=generator)), 2 + number % 3
        logits = torch.randn(rows, classes, generator=generator) * 10.0 ** (number % 6 - 1)
        logits = logits.requires_grad_()
        counted = torch.rand(rows, generator=generator) < 0.5
        mean, rows_counted = mean_prediction(logits, counted)
        labels, kept = pseudo_labels(logits, class_thresholds(mean / rows_counted.clamp(min=1), 0.9))
        loss = pseudo_label_cross_entropy(logits, labels, kept, counted)
        loss.backward()
        assert loss.isfinite() and loss >= 0 and logits.grad.isfinite().all()
        features = torch.randn(rows, 3, generator=generator) * (number % 2)
        found = centroid_pseudo_labels(features, logits.detach())
        assert ((found >= 0) & (found < classes)).all()


def test_thresholds_of_the_most_frequent_class_and_of_one_never_seen():
    torch.testing.assert_close(class_thresholds(torch.tensor([0.6, 0.3, 0.0]), 0.9), torch.tensor([0.9, 0.45, 0.0]))
    assert class_thresholds(torch.zeros(2), 0.9).tolist() == [0.0, 0.0]


def test_mean_prediction_leaves_out_what_does_not_count():
    logits = random(5, 3)
    counted = torch.tensor([True, False, True, True, False])
    total, rows = mean_prediction(logits, counted)
    torch.testing.assert_close(total / rows, torch.stack([logits[i].softmax(-1) for i in (0, 2, 3)]).mean(0))


def naive_shot(features, logits, rounds):
    """Equations 4 to 6 of the SHOT paper, one number after the other."""
    n, d, c = len(features), len(features[0]), len(logits[0])
    weights = [softmax(row) for row in logits]
    labels = []
    for _ in range(rounds + 1):
        centroids = []
        for k in range(c):
            mass = sum(weights[i][k] for i in range(n))
            centroids.append(
                [sum(weights[i][k] * features[i][j] for i in range(n)) / mass for j in range(d)] if mass else None
            )
        labels = []
        for row in features:
            best, nearest = None, math.inf
            for k, centroid in enumerate(centroids):
                if centroid is None:
                    continue
                dot = sum(a * b for a, b in zip(row, centroid, strict=True))
                lengths = math.dist(row, [0] * d) * math.dist(centroid, [0] * d)
                if 1 - dot / lengths < nearest:
                    best, nearest = k, 1 - dot / lengths
            labels.append(best)
        weights = [[1.0 if label == k else 0.0 for k in range(c)] for label in labels]
    return labels


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_centroid_labels_against_a_loop(rounds, seed):
    features, logits = random(15, 4, seed=seed), random(15, 6, seed=seed + 10)
    expected = naive_shot(features.tolist(), logits.tolist(), rounds)
    assert centroid_pseudo_labels(features, logits, rounds=rounds).tolist() == expected


def test_centroids_against_a_loop():
    features, weights = random(7, 3), random(7, 2, seed=1).abs()
    centroids, present = weighted_centroids(features, weights)
    for k in range(2):
        expected = sum(weights[i, k] * features[i] for i in range(7)) / weights[:, k].sum()
        torch.testing.assert_close(centroids[k], expected)
    assert present.all()


def test_a_class_without_rows_is_never_the_nearest():
    features = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    centroids, present = weighted_centroids(features, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert present.tolist() == [True, False] and centroids[1].tolist() == [0.0, 0.0]
    logits = torch.tensor([[1e4, 0.0], [1e4, 0.0]])  # all of the probability on one class
    assert centroid_pseudo_labels(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), logits).tolist() == [0, 0]


def test_clusters_win_over_a_head_that_is_shifted():
    """What the method is for: two clusters, one of which the head cuts in two."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(200) % 2
    features = torch.where(truth.unsqueeze(1) == 0, torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0]))
    features = features + torch.randn(200, 2, generator=generator)
    logits = torch.stack([features[:, 0] - features[:, 1] + 3.5, torch.zeros(200)], -1)
    before = (logits.argmax(-1) == truth).float().mean()
    after = (centroid_pseudo_labels(features, logits) == truth).float().mean()
    assert before < 0.9 and after > 0.97


def test_cosine_of_a_vector_without_length_is_zero():
    assert cosine_to_centroids(torch.zeros(1, 2), torch.ones(2, 2)).tolist() == [[0.0, 0.0]]
