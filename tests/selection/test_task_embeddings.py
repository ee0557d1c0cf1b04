"""Task embeddings against the gradients of a head, and their distance against the paper's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from hf_transfer.diagnostics.linear_fit import fit_linear
from hf_transfer.selection.task_embeddings import head_fisher, task_distance, task_embedding


def rows(count=240, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width))


def by_feature(table, feature):
    return (table[:, feature] > 0).astype(int)


def by_gradients(features, weight, bias):
    """The definition: for each row and class the squared gradient of its log probability, weighted by that."""
    features, weight, bias = (torch.tensor(array, dtype=torch.float64) for array in (features, weight, bias))
    total = torch.zeros_like(weight)
    for row in features:
        own = weight.clone().requires_grad_()
        logs = torch.log_softmax(own @ row + bias, dim=0)
        for log in logs:
            (gradient,) = torch.autograd.grad(log, own, retain_graph=True)
            total += log.exp().detach() * gradient**2
    return (total / len(features)).mean(0).numpy()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_information_is_that_of_the_gradients(classes):
    generator = np.random.default_rng(classes)
    features, weight, bias = rows(20) + 1, generator.normal(size=(classes, 6)), generator.normal(size=classes)
    found = head_fisher(features, features @ weight.T + bias)
    np.testing.assert_allclose(found, by_gradients(features, weight, bias), rtol=1e-10)


def test_the_information_is_finite_and_shift_free_in_the_logits():
    logits = 1e3 * rows(20)
    np.testing.assert_allclose(head_fisher(rows(20), logits + 1e5), head_fisher(rows(20), logits), rtol=1e-6)
    assert (head_fisher(rows(20), logits) >= 0).all()


def test_the_embedding_is_the_information_of_the_weights_for_the_features_as_they_are():
    table = 5 * rows() + 3
    labels = by_feature(table - 3, 1) + by_feature(table - 3, 4)
    fitted = fit_linear(table, labels)
    # the probe standardises: the same function has these weights on the features themselves
    weight = fitted.weight / fitted.scale
    expected = by_gradients(table, weight, fitted.bias - weight @ fitted.mean)
    np.testing.assert_allclose(task_embedding(table, labels), expected, rtol=1e-8)


def test_names_of_classes_do_not_matter_and_units_of_features_are_those_of_the_embedding():
    table = rows() + 0.5
    labels = by_feature(table, 0) + by_feature(table, 1)
    expected = task_embedding(table, labels)
    np.testing.assert_allclose(task_embedding(table, 7 - 3 * labels), expected, rtol=0.05)  # as sure as the solver
    units = np.array([1, 10, 0.1, 1e3, 1, 1e-3])
    np.testing.assert_allclose(task_embedding(table * units, labels), expected * units**2, rtol=1e-3)


def test_a_feature_of_zeros_has_none():
    table = rows()
    table[:, 3] = 0.0
    assert task_embedding(table, by_feature(table, 0))[3] == 0.0


def test_a_data_set_brings_its_labels_and_tokens_count():
    table = rows(60)
    names = ClassLabel(names=["no", "yes"])
    features = Features({"features": Sequence(Value("float64")), "labels": names})
    data = Dataset.from_dict({"features": table, "labels": by_feature(table, 0)}, features=features)
    np.testing.assert_allclose(task_embedding(data), task_embedding(table, by_feature(table, 0)))
    tokens, labels = table.reshape(12, 5, 6), by_feature(table, 0).reshape(12, 5)
    labels[0, 0] = -100
    assert task_embedding(tokens, labels).shape == (6,)


def test_rows_above_the_limit_are_drawn():
    table = rows()
    labels = by_feature(table, 0)
    few = task_embedding(table, labels, max_rows=50, seed=1)
    chosen = np.sort(np.random.default_rng(1).permutation(240)[:50])
    np.testing.assert_allclose(few, task_embedding(table[chosen], labels[chosen], seed=1))


def test_the_distance_is_that_of_the_paper():
    first, second = np.random.default_rng(0).exponential(size=(2, 9))
    left = [a / (a + b) for a, b in zip(first, second, strict=True)]
    right = [b / (a + b) for a, b in zip(first, second, strict=True)]
    product = sum(a * b for a, b in zip(left, right, strict=True))
    cosine = product / math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))
    assert task_distance(first, second) == pytest.approx(1 - cosine, abs=1e-14)
    assert task_distance(second, first) == pytest.approx(1 - cosine, abs=1e-14)


def test_the_ends_of_the_distance():
    first = np.random.default_rng(0).exponential(size=9)
    assert task_distance(first, 50 * first) == pytest.approx(0.0, abs=1e-12)
    assert task_distance([1, 0, 2], [0, 5, 0]) == 1.0
    # features count alike: the size of one common feature does not outweigh the others
    assert task_distance([1e6, 1, 0], [1e6, 0, 1]) > 0.4
    assert task_distance([1, 2, 0, 0], [2, 1, 0, 0]) == task_distance([1, 2], [2, 1])
    assert task_distance([0, 0], [0, 0]) == 0.0
    assert task_distance([0, 0], [1, 2]) == 1.0


def test_domains_and_classes_both_separate_tasks():
    first, second = rows(400), rows(400, seed=1)
    task = task_embedding(first, by_feature(first, 0))
    same = task_distance(task, task_embedding(second, by_feature(second, 0)))
    other_classes = task_distance(task, task_embedding(second, by_feature(second, 4)))
    shifted = second + [0, 0, 3, 0, 0, 0]
    other_domain = task_distance(task, task_embedding(shifted, by_feature(shifted, 0)))
    assert 2.5 * same < min(other_classes, other_domain)


def test_the_package_has_the_function_after_its_module_was_read():
    # its module was, above: with the name of the function it would take its place
    from hf_transfer import selection

    assert selection.task_embedding is task_embedding


def test_bad_input_is_refused():
    table = rows(30)
    with pytest.raises(ValueError, match=r"All 30 rows are of class 4: .*at least two classes"):
        task_embedding(table, np.full(30, 4))
    with pytest.raises(ValueError, match=r"of the task `regression`.*one class number for each row"):
        task_embedding(table, table[:, 0])
    with pytest.raises(ValueError, match="not finite"):
        task_embedding(table * np.inf, by_feature(table, 0))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\).*features of one model"):
        task_distance([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"negative or not finite.*what `task_embedding` returns"):
        task_distance([1, -2], [1, 2])
    with pytest.raises(ValueError, match="negative or not finite"):
        task_distance([1, np.nan], [1, 2])
