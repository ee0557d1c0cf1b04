"""PARC against the paper's steps in loops, and what must not change it."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from hf_transfer.functional.sample_distances import parc


def pearson(first, second):
    first, second = np.asarray(first) - np.mean(first), np.asarray(second) - np.mean(second)
    lengths = math.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / lengths) if lengths else 0.0


def average_ranks(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def by_loops(places, targets):
    """Spearman of 1 - Pearson of all pairs of rows, from given components."""
    pairs = [(i, j) for i in range(len(places)) for j in range(i)]
    first = [round(1 - pearson(places[i], places[j]), 10) for i, j in pairs]
    second = [round(1 - pearson(targets[i], targets[j]), 10) for i, j in pairs]
    return 100 * pearson(average_ranks(first), average_ranks(second))


def components(features, count):
    """Whitened scores by an SVD, the largest entry of each positive."""
    left = np.linalg.svd(features - features.mean(0), full_matrices=False)[0][:, :count]
    return np.stack([column * np.sign(column[np.abs(column).argmax()]) for column in left.T], axis=1)


def clustered(rows=45, width=10, classes=3, seed=0, distance=2.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=rows)
    return distance * generator.normal(size=(classes, width))[labels] + generator.normal(size=(rows, width)), labels


@pytest.mark.parametrize(("rows", "width", "classes", "count"), [(30, 8, 3, 5), (20, 40, 2, 6), (25, 6, 5, 32)])
def test_it_is_that_of_loops_over_pairs(rows, width, classes, count):
    features, labels = clustered(rows, width, classes)
    expected = by_loops(components(features, count), np.eye(classes)[labels])
    assert parc(features, labels, components=count) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("outputs", [1, 3])
def test_real_labels_have_distances_of_their_own(outputs):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(24, 7))
    values = features[:, :outputs] * [1.0, 50.0, 0.01][:outputs] + 0.1
    scaled = (values - values.mean(0)) / values.std(0)
    pairs = [(i, j) for i in range(24) for j in range(i)]
    places = components(features, 5)
    first = average_ranks([1 - pearson(places[i], places[j]) for i, j in pairs])
    second = average_ranks([float(np.linalg.norm(scaled[i] - scaled[j])) for i, j in pairs])
    found = parc(features, values if outputs > 1 else values[:, 0], components=5)
    assert found == pytest.approx(100 * pearson(first, second), abs=1e-9)
    assert found > abs(parc(features, generator.permutation(values), components=5))


def test_it_rises_with_the_distance_of_the_classes_and_permuted_labels_score_about_zero():
    found = [parc(*clustered(rows=150, distance=distance)) for distance in (0.0, 0.5, 1.0, 3.0)]
    assert found == sorted(found) and abs(found[0]) < 5 and found[-1] > 40
    features, labels = clustered(rows=150, distance=3.0)
    permuted = [parc(features, np.random.default_rng(seed).permutation(labels)) for seed in range(8)]
    assert max(np.abs(permuted)) < 15


def test_names_of_classes_do_not_matter():
    features, labels = clustered()
    assert parc(features, np.array([40, -2, 7])[labels]) == parc(features, labels)


def test_rotation_shift_and_scale_of_the_features_do_not_matter():
    features, labels = clustered()
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(10, 10)))[0]
    expected = parc(features, labels)
    for changed in (features @ rotation, -features, features + 100.0, 1e-7 * features, 1e7 * features):
        assert parc(changed, labels) == pytest.approx(expected, abs=1e-6)


def test_order_of_the_rows_does_not_matter():
    features, labels = clustered()
    order = np.random.default_rng(0).permutation(len(labels))
    assert parc(features[order], labels[order]) == pytest.approx(parc(features, labels), abs=1e-9)


def test_what_does_not_vary_is_correlated_with_nothing():
    features, labels = clustered(rows=12)
    assert parc(features, np.zeros(12, int)) == 0.0
    assert parc(features, np.arange(12)) == 0.0
    assert parc(features, np.full(12, 0.5)) == 0.0
    assert parc(np.full((12, 4), 0.1), labels) == 0.0
    assert parc(features[:, :1], labels) == 0.0
    assert parc(features[:1].repeat(12, 0), labels) == 0.0
    assert parc(features[:2], labels[:2]) == 0.0


def test_duplicates_and_rows_at_the_mean_are_finite():
    features, labels = clustered(rows=20)
    doubled = np.concatenate([features, features])
    assert math.isfinite(parc(doubled, np.tile(labels, 2)))
    symmetric = np.concatenate([features, -features, np.zeros((2, 10))])
    assert math.isfinite(parc(symmetric, np.arange(42) % 2))


def test_rows_above_the_limit_are_drawn():
    features, labels = clustered(rows=90)
    chosen = np.sort(np.random.default_rng(4).permutation(90)[:30])
    assert parc(features, labels, seed=4, max_rows=30) == parc(features[chosen], labels[chosen])
    assert parc(features, labels, max_rows=None) == parc(features, labels)


def test_bad_input_is_refused():
    features, labels = clustered()
    with pytest.raises(ValueError, match=r"swapped.*Call `parc\(features, labels\)`"):
        parc(labels, features)
    with pytest.raises(ValueError, match=r"`components=1`.*no correlation.*at least 2"):
        parc(features, labels, components=1)
    with pytest.raises(ValueError, match=r"Labels of shape \(44,\) were given for 45 rows"):
        parc(features, labels[1:])
    with pytest.raises(ValueError, match="not finite"):
        parc(features * np.inf, labels)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(ImportError, match=r"PARC needs scikit-learn.*pip install"):
        parc(*clustered())
