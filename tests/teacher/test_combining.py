"""Several teachers' predictions combined, against loops."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.teacher.combining import best_teacher, mean_logits, pick


def softmax(values, temperature=1.0):
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_the_mean_is_the_geometric_mean_of_the_distributions_at_every_temperature(temperature):
    first, second = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    together = mean_logits([first, second], [0.7, 0.3])
    for row in range(2):
        p, q = softmax(first[row].tolist(), temperature), softmax(second[row].tolist(), temperature)
        product = [a**0.7 * b**0.3 for a, b in zip(p, q, strict=True)]
        expected = [value / sum(product) for value in product]
        assert softmax(together[row].tolist(), temperature) == pytest.approx(expected)


def naive_best(logits, labels, row):
    """Cross-entropy where there is a label, else entropy."""
    scores = []
    for values in logits:
        p = softmax(values[row].tolist())
        label = -100 if labels is None else int(labels[row])
        scores.append(-math.log(p[label]) if label != -100 else -sum(a * math.log(a) for a in p))
    return scores.index(min(scores))


def test_the_best_by_label_and_where_there_is_none_by_certainty():
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(40, 5, generator=generator) for _ in range(3)]
    labels = torch.randint(0, 5, (40,), generator=generator)
    labels[::3] = -100
    for given in (labels, None):
        chosen = best_teacher(logits, given, None)
        assert chosen.tolist() == [naive_best(logits, given, row) for row in range(40)]
        assert len(chosen.unique()) == 3
        picked = pick(logits, chosen, torch.zeros(40, 5))
        assert all(torch.equal(picked[row], logits[chosen[row]][row]) for row in range(40))


def test_the_best_for_each_token():
    logits = [torch.randn(2, 7, 3), torch.randn(2, 7, 3)]
    labels = torch.randint(0, 3, (2, 7))
    labels[:, 4:] = -100
    flat = best_teacher([values.flatten(0, 1) for values in logits], labels.flatten(), None)
    chosen = best_teacher(logits, labels, None)
    assert torch.equal(chosen.flatten(), flat)
    assert pick(logits, chosen, logits[0]).shape == (2, 7, 3)


def test_the_best_of_several_labels_a_row():
    logits = [torch.tensor([[4.0, -4.0], [0.1, 0.0]]), torch.tensor([[-4.0, 4.0], [9.0, -9.0]])]
    labels = torch.tensor([[1.0, 0.0], [-100.0, -100.0]])
    assert best_teacher(logits, labels, "multi_label_classification").tolist() == [0, 1]
    half = torch.tensor([[-100.0, 1.0], [-100.0, 1.0]])
    assert best_teacher(logits, half, "multi_label_classification").tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_the_best_of_regressions_is_the_nearest_and_without_a_label_the_mean(shape):
    logits = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [5.0], [7.0]])]
    labels = torch.tensor([0.2, 2.5, -100.0]).reshape(shape)
    chosen = best_teacher(logits, labels, "regression")
    assert chosen.tolist() == [1, 0, -1]
    assert pick(logits, chosen, mean_logits(logits, [0.5, 0.5])).flatten().tolist() == [0.0, 2.0, 5.0]


def test_huge_logits_stay_finite():
    logits = [torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])]
    for problem in (None, "multi_label_classification"):
        labels = None if problem is None else torch.full((1, 2), -100.0)
        assert best_teacher(logits, labels, problem).tolist() == [0]
