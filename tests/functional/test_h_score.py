"""H-score against covariances and inverses written out, and canonical correlations."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.cross_decomposition import CCA

from hf_transfer.functional.h_score import h_score
from tests.functional.labelled_features import DEGENERATE, made, rotation, scaled_columns, shuffled


def naive(features, labels, alpha):
    """Two covariances by loops over rows, and an inverse."""
    rows, width = features.shape
    mean = features.mean(0)
    total, between = np.zeros((width, width)), np.zeros((width, width))
    for row, label in zip(features, labels, strict=True):
        total += np.outer(row - mean, row - mean) / rows
        of_class = features[labels == label].mean(0)
        between += np.outer(of_class - mean, of_class - mean) / rows
    shrunk = (1 - alpha) * total + alpha * np.trace(total) / width * np.eye(width)
    return (1 - alpha) * np.trace(np.linalg.pinv(shrunk, rcond=1e-10) @ between)


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (12, 30), (10, 10)])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.9, 1.0])
def test_score_is_the_trace_of_the_definition(rows, width, alpha):
    features, labels = made(rows=rows, width=width)
    assert h_score(features, labels, shrinkage=alpha) == pytest.approx(naive(features, labels, alpha), rel=1e-8)


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (12, 30), (500, 4)])
def test_default_shrinkage_is_that_of_ledoit_and_wolf(rows, width):
    features, labels = made(rows=rows, width=width)
    alpha = LedoitWolf().fit(features).shrinkage_
    assert 0 < alpha < 1
    assert h_score(features, labels) == pytest.approx(naive(features, labels, alpha), rel=1e-8)
    assert h_score(features, labels) == pytest.approx(h_score(features, labels, shrinkage=alpha), rel=1e-10)


def test_without_shrinkage_it_is_the_sum_of_squared_canonical_correlations():
    features, labels = made(rows=200, width=4, classes=3)
    one_hot = (labels[:, None] == np.arange(2)).astype(float)  # the third column follows from these
    x, y = CCA(n_components=2, max_iter=5000, tol=1e-12).fit_transform(features, one_hot)
    expected = sum(np.corrcoef(x[:, i], y[:, i])[0, 1] ** 2 for i in range(2))
    assert h_score(features, labels, shrinkage=None) == pytest.approx(expected, abs=1e-6)
    assert h_score(features, labels, shrinkage=None) == h_score(features, labels, shrinkage=0.0)


def test_perfectly_separated_classes_reach_the_number_of_classes_less_one():
    labels = np.arange(40) % 4
    features = np.eye(4)[labels]
    assert h_score(features, labels, shrinkage=None) == pytest.approx(3.0)
    # N < D: any labels are separated without shrinkage, and few with it
    noise = np.random.default_rng(0).standard_normal((30, 100))
    assert h_score(noise, np.arange(30) % 3, shrinkage=None) == pytest.approx(2.0)
    assert h_score(noise, np.arange(30) % 3) < 0.5


@pytest.mark.parametrize("shrinkage", ["ledoit-wolf", 0.2, None])
@pytest.mark.parametrize(("rows", "width"), [(60, 5), (8, 20)])
def test_shift_scale_rotation_and_order_of_rows_change_nothing(shrinkage, rows, width):
    features, labels = made(rows=rows, width=width)
    expected = h_score(features, labels, shrinkage=shrinkage)
    order = np.random.default_rng(0).permutation(rows)
    for same in (features + 100, 1e-5 * features, 1e80 * features, features @ rotation(width)):
        assert h_score(same, labels, shrinkage=shrinkage) == pytest.approx(expected, rel=1e-6)
    assert h_score(features[order], labels[order], shrinkage=shrinkage) == pytest.approx(expected, rel=1e-9)


def test_any_linear_map_changes_nothing_without_shrinkage_only():
    features, labels = made()
    mapped = features @ np.random.default_rng(5).standard_normal((5, 5))
    assert h_score(mapped, labels, shrinkage=None) == pytest.approx(
        h_score(features, labels, shrinkage=None), rel=1e-8
    )
    for shrinkage in ("ledoit-wolf", 0.2):
        plain = h_score(features, labels, shrinkage=shrinkage)
        assert abs(h_score(scaled_columns(features), labels, shrinkage=shrinkage) - plain) > 1e-2


def test_repeated_rows_change_nothing_but_the_estimated_shrinkage():
    features, labels = made(rows=20, width=10)
    again, twice = np.tile(features, (2, 1)), np.tile(labels, 2)
    assert h_score(again, twice, shrinkage=0.3) == pytest.approx(h_score(features, labels, shrinkage=0.3))
    assert h_score(again, twice) > h_score(features, labels)


@pytest.mark.parametrize("shrinkage", ["ledoit-wolf", 0.2, None])
def test_shuffled_labels_score_lower(shrinkage):
    features, labels = made(apart=2.0)
    expected = h_score(features, labels, shrinkage=shrinkage)
    assert expected > max(h_score(features, shuffled(labels, seed=s), shrinkage=shrinkage) for s in range(20)) + 0.3


@pytest.mark.parametrize("shrinkage", ["ledoit-wolf", 1.0, 0.5, None])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_have_scores_within_the_range(case, shrinkage):
    features, labels = DEGENERATE[case]
    found = h_score(features, labels, shrinkage=shrinkage)
    assert -1e-9 <= found <= len(np.unique(labels)) - 1 + 1e-6
    if case in ("one class", "one row", "constant features", "features of zeros"):
        assert found == 0.0


def test_input_is_left_alone():
    features, labels = made()
    before = features.copy()
    features.flags.writeable = False
    assert isinstance(h_score(features, labels), float)
    np.testing.assert_array_equal(features, before)


def test_unknown_shrinkage_is_refused():
    with pytest.raises(ValueError, match="`shrinkage='oas'` is not known.*ledoit-wolf"):
        h_score([[1.0], [2.0]], [0, 1], shrinkage="oas")
    with pytest.raises(ValueError, match=r"`shrinkage=1.5` is outside \[0, 1\]"):
        h_score([[1.0], [2.0]], [0, 1], shrinkage=1.5)
    with pytest.raises(ValueError, match="outside"):
        h_score([[1.0], [2.0]], [0, 1], shrinkage=float("nan"))


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.covariance", None)
    with pytest.raises(ImportError, match="needs scikit-learn.*or give a number"):
        h_score([[1.0], [2.0]], [0, 1])
    assert h_score([[1.0], [2.0]], [0, 1], shrinkage=None) == pytest.approx(1.0)
