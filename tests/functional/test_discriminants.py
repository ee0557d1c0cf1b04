"""SFDA and ETran against the definitions, row by row, with generalised eigenvectors as the papers have them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh
from scipy.special import logsumexp, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression

from hf_transfer.functional.discriminants import (
    class_score,
    combined_etran,
    energy,
    etran,
    regression_score,
    sfda,
)
from tests.functional.labelled_features import DEGENERATE, made, rotation, scaled_columns, shuffled


def fisher(features, labels, delta=None):
    """Posterior of the regularised discriminant in the space of all generalised eigenvectors, and delta."""
    rows, width = features.shape
    classes = sorted(set(labels.tolist()))
    means = np.stack([features[labels == c].mean(0) for c in classes])
    within = np.zeros((width, width))
    for row, label in zip(features, labels, strict=True):
        distance = row - means[classes.index(label)]
        within += np.outer(distance, distance) / rows
    if delta is None:
        delta = max(np.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
    within = (1 - delta) * within + delta * np.trace(within) / width * np.eye(width)
    between = np.cov(features.T, bias=True).reshape(width, width) - within
    directions = eigh(between, within)[1]
    rows_there, means_there = features @ directions, means @ directions
    scores = np.zeros((rows, len(classes)))
    for i in range(rows):
        for c in range(len(classes)):
            scores[i, c] = rows_there[i] @ means_there[c] - means_there[c] @ means_there[c] / 2
            scores[i, c] += np.log((labels == classes[c]).mean())
    return softmax(scores, axis=1), delta


def naive_sfda(features, labels):
    classes = sorted(set(labels.tolist()))
    posterior, delta = fisher(features, labels)
    doubt, mixed = softmax(posterior, axis=1), features.copy()
    means = [features[labels == c].mean(0) for c in classes]
    for i, label in enumerate(labels):
        place = classes.index(label)
        others = np.mean([mean for c, mean in enumerate(means) if c != place], axis=0)
        mixed[i] = doubt[i, place] * features[i] + (1 - doubt[i, place]) * others
    final = fisher(mixed, labels, delta)[0]
    return np.mean([final[i, classes.index(label)] for i, label in enumerate(labels)])


@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 5, 3), (200, 8, 7), (31, 4, 2), (40, 1, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_score_is_that_of_the_definition(rows, width, classes, scale):
    features, labels = made(rows=rows, width=width, classes=classes)
    features = scale * features
    assert sfda(features, labels) == pytest.approx(naive_sfda(features, labels), rel=1e-7)
    posterior = fisher(features, labels)[0]
    assert class_score(features, labels) == pytest.approx(posterior[np.arange(rows), labels].mean(), rel=1e-7)


def test_score_is_that_of_the_definition_with_fewer_rows_than_columns():
    # small features: delta is not at its lower bound, where the definition itself has few digits
    features, labels = made(rows=15, width=30)
    features = 0.1 * features
    assert 0.01 < fisher(features, labels)[1] < 1
    assert sfda(features, labels) == pytest.approx(naive_sfda(features, labels), rel=1e-7)


def test_discriminant_without_need_of_shrinkage_is_that_of_scikit_learn():
    features, labels = made(rows=200, width=5, apart=0.5)
    features = 20 * features  # delta = 1e-10
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.0).fit(features, labels).predict_proba(features)
    # scikit-learn divides the covariance within classes by N as well
    assert class_score(features, labels) == pytest.approx(reference[np.arange(200), labels].mean(), rel=1e-6)


@pytest.mark.parametrize("score", [sfda, class_score])
@pytest.mark.parametrize(("rows", "width"), [(60, 5), (12, 30)])
def test_shift_rotation_and_order_of_rows_change_nothing(score, rows, width):
    features, labels = made(rows=rows, width=width)
    features = 0.2 * features
    expected, order = score(features, labels), np.random.default_rng(0).permutation(rows)
    for same in (features + 10, features @ rotation(width)):
        assert score(same, labels) == pytest.approx(expected, rel=1e-7)
    assert score(features[order], labels[order]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("score", [sfda, class_score])
def test_scale_changes_it_until_the_shrinkage_is_at_its_bound(score):
    features, labels = made(apart=0.5)
    assert abs(score(0.1 * features, labels) - score(features, labels)) > 1e-3
    assert abs(score(0.1 * scaled_columns(features), labels) - score(0.1 * features, labels)) > 1e-3
    assert score(20 * features, labels) == pytest.approx(score(2000 * features, labels), rel=1e-6)


@pytest.mark.parametrize("score", [sfda, class_score, etran])
def test_shuffled_labels_score_lower(score):
    features, labels = made(apart=2.0)
    assert score(features, labels) > max(score(features, shuffled(labels, seed=s)) for s in range(20)) + 0.1


@pytest.mark.parametrize("score", [sfda, class_score])
def test_fewer_rows_than_columns_are_told_apart_whatever_their_labels_as_documented(score):
    features, labels = made(rows=20, width=60, apart=0.0)
    assert score(features, labels) == pytest.approx(1.0, abs=1e-6)
    # not if features are small enough for the shrinkage to bind
    small = 0.02 * features
    assert score(small, labels) < 0.95


@pytest.mark.parametrize("score", [sfda, class_score])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_have_probabilities(score, case):
    features, labels = DEGENERATE[case]
    found = score(features, labels)
    assert 0 <= found <= 1
    if len(set(labels.tolist())) == 1:
        assert found == 1.0
    elif case in ("constant features", "features of zeros"):
        assert found == pytest.approx((np.bincount(labels)[np.unique(labels)] ** 2).sum() / len(labels) ** 2)
    elif case in ("one row in each class", "duplicated rows"):
        assert found == pytest.approx(1.0)


@pytest.mark.parametrize("score", [sfda, etran])
def test_input_is_left_alone(score):
    features, labels = made()
    before = features.copy()
    features.flags.writeable = labels.flags.writeable = False
    assert isinstance(score(features, labels), float)
    assert score(features, labels) == score(features.copy(), labels)
    np.testing.assert_array_equal(features, before)


def test_energy_is_the_mean_logarithm_of_the_mean_power():
    logits = 5 * np.random.default_rng(0).standard_normal((20, 7))
    assert energy(logits) == pytest.approx((logsumexp(logits, axis=1) - np.log(7)).mean())
    assert energy(np.full((3, 5), 1e5)) == 1e5
    assert energy(np.full((3, 50), -1e5)) == -1e5
    # the same outputs once more are no evidence for a wider model
    assert energy(np.tile(logits, (1, 4))) == pytest.approx(energy(logits))


def test_regression_score_is_minus_what_least_squares_leaves():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((50, 4)) + 3
    targets = features @ generator.standard_normal((4, 2)) + generator.standard_normal((50, 2))
    expected = [LinearRegression().fit(features, y).score(features, y) - 1 for y in targets.T]
    assert regression_score(features, targets) == pytest.approx(np.mean(expected))
    assert regression_score(features, targets[:, 0]) == pytest.approx(expected[0])
    for same in (features + 7, 100 * features, features @ rotation(4)):
        assert regression_score(same, targets) == pytest.approx(np.mean(expected))
    assert regression_score(features, 1e-3 * targets - 4) == pytest.approx(np.mean(expected))


def test_regression_score_uses_half_as_many_directions_as_there_are_rows():
    generator = np.random.default_rng(0)
    features, target = generator.standard_normal((21, 60)), generator.standard_normal(21)
    left = np.linalg.svd(features - features.mean(0))[0][:, :10]
    rest = target - target.mean()
    expected = np.square(rest - left @ (left.T @ rest)).sum() / np.square(rest).sum()
    assert regression_score(features, target) == pytest.approx(-expected)
    assert expected > 0.2  # all directions would leave nothing


def test_etran_adds_the_energy_to_the_fit():
    features, labels = made()
    targets, logits = features[:, 0] ** 2, np.random.default_rng(0).standard_normal((60, 11))
    assert etran(features, labels) == pytest.approx(energy(features) + class_score(features, labels))
    found = etran(features, labels, source_logits=logits)
    assert found == pytest.approx(energy(logits) + class_score(features, labels))
    found = etran(features, targets, regression=True)
    assert found == pytest.approx(energy(features) + regression_score(features, targets))


def test_etran_of_features_alone_depends_on_their_axes_and_unit():
    features, labels = made()
    assert abs(etran(features @ rotation(5), labels) - etran(features, labels)) > 1e-2
    assert abs(etran(2 * features, labels) - etran(features, labels)) > 1e-2
    logits = np.zeros((60, 3))
    plain = etran(features, labels, source_logits=logits)
    assert etran(features @ rotation(5) + 1, labels, source_logits=logits) == pytest.approx(plain)


@pytest.mark.parametrize("case", DEGENERATE)
def test_etran_of_degenerate_inputs_is_finite(case):
    features, labels = DEGENERATE[case]
    assert np.isfinite(etran(features, labels))
    found = regression_score(features, labels.astype(float))
    assert -1 <= found <= 0
    if case in ("constant features", "features of zeros"):
        assert found == -1
    if case in ("one class", "one row"):
        assert found == 0


def test_parts_of_several_models_are_scaled_before_they_are_weighed():
    energies, fits = np.array([3.0, 1.0, 2.0]), np.array([0.2, 0.6, 0.4])
    expected = [0.15 * 1 + 0.85 * 0, 0.15 * 0 + 0.85 * 1, 0.5]
    np.testing.assert_allclose(combined_etran(energies, fits), expected)
    np.testing.assert_allclose(combined_etran(100 * energies - 7, fits), expected)
    np.testing.assert_allclose(combined_etran(energies, fits, energy_share=1.0), [1, 0, 0.5])
    assert combined_etran([1.0], [1.0]).tolist() == [0.0]


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Source logits of 3 rows were given for 2 rows.*leave them out"):
        etran([[1.0], [2.0]], [0, 1], source_logits=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"Energies of shape \(2,\) and fits of shape \(3,\)"):
        combined_etran([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"`energy_share=2` is outside \[0, 1\]"):
        combined_etran([1.0], [1.0], energy_share=2)
    with pytest.raises(ValueError, match="Targets of shape"):
        regression_score([[1.0], [2.0]], [1.0])
