"""TransRate against determinants of the definition, and the properties that make it an information."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.functional.coding_rate import coding_rate, transrate
from tests.functional.labelled_features import DEGENERATE, made, rotation, shuffled


def naive_rate(rows, epsilon):
    matrix = np.eye(rows.shape[1])
    for row in rows:
        matrix = matrix + np.outer(row, row) / (len(rows) * epsilon)
    sign, logarithm = np.linalg.slogdet(matrix)
    assert sign == 1
    return logarithm / 2


def naive(features, labels, epsilon):
    features = features - features.mean(0)
    within = 0.0
    for label in set(labels.tolist()):
        members = features[labels == label]
        within += len(members) / len(features) * naive_rate(members, epsilon)
    return naive_rate(features, epsilon) - within


@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 5, 3), (12, 30, 4), (10, 10, 10), (31, 4, 2)])
@pytest.mark.parametrize("epsilon", [1e-4, 1.0])
def test_score_is_the_difference_of_rates(rows, width, classes, epsilon):
    features, labels = made(rows=rows, width=width, classes=classes)
    expected = naive(features, labels, epsilon)
    assert transrate(features, labels, epsilon=epsilon) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert coding_rate(features, epsilon=epsilon) == pytest.approx(naive_rate(features, epsilon), rel=1e-9)


def test_classes_of_one_size_weigh_alike_as_in_the_published_code():
    features, labels = made(rows=60, classes=3)
    rows = features - features.mean(0)
    published = naive_rate(rows, 1e-4) - np.mean([naive_rate(rows[labels == c], 1e-4) for c in range(3)])
    assert transrate(features, labels) == pytest.approx(published)


def test_it_is_not_negative_where_weighing_classes_alike_would_be():
    # one row of a class with a large variance of its own
    features = np.concatenate([np.random.default_rng(0).standard_normal((50, 4)), 100 * np.ones((1, 4))])
    labels = np.repeat([0, 1], [50, 1])
    rows = features - features.mean(0)
    alike = naive_rate(rows, 1e2) - np.mean([naive_rate(rows[labels == c], 1e2) for c in range(2)])
    assert alike < 0 < transrate(features, labels, epsilon=1e2)


def test_classes_of_the_same_second_moment_score_zero():
    features = np.concatenate([np.eye(3), -np.eye(3), np.eye(3), -np.eye(3)])
    assert transrate(features, np.repeat([0, 1], 6)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (8, 20)])
def test_shift_rotation_zeros_order_and_repeated_rows_change_nothing(rows, width):
    features, labels = made(rows=rows, width=width)
    expected, order = transrate(features, labels), np.random.default_rng(0).permutation(rows)
    for same in (features + 10, features @ rotation(width), np.column_stack([features, np.zeros((rows, 40))])):
        assert transrate(same, labels) == pytest.approx(expected, rel=1e-8)
    assert transrate(features[order], labels[order]) == pytest.approx(expected, rel=1e-9)
    assert transrate(np.tile(features, (3, 1)), np.tile(labels, 3)) == pytest.approx(expected, rel=1e-9)


def test_scale_does_change_it_unless_the_error_is_scaled_along():
    features, labels = made()
    assert abs(transrate(0.01 * features, labels) - transrate(features, labels)) > 1e-2
    same = transrate(0.01 * features, labels, epsilon=1e-8)
    assert same == pytest.approx(transrate(features, labels), rel=1e-9)


def test_shuffled_labels_score_lower():
    for rows, width in ((60, 5), (30, 100)):
        features, labels = made(rows=rows, width=width, apart=2.0)
        assert transrate(features, labels) > max(transrate(features, shuffled(labels, seed=s)) for s in range(20))


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_have_finite_scores(case):
    features, labels = DEGENERATE[case]
    found = transrate(features, labels)
    assert np.isfinite(found) and found >= 0
    if case in ("one class", "one row", "constant features", "features of zeros"):
        assert found == 0.0


def test_large_features_of_low_rank_are_not_counted_where_they_only_round():
    generator = np.random.default_rng(0)
    flat = 1e9 * generator.standard_normal((40, 2)) @ generator.standard_normal((2, 10))
    left, singular, _ = np.linalg.svd(flat, full_matrices=False)
    assert coding_rate(flat) == pytest.approx(0.5 * np.log1p(singular[:2] ** 2 / (40 * 1e-4)).sum(), rel=1e-9)


def test_input_is_left_alone():
    features, labels = made()
    before = features.copy()
    features.flags.writeable = False
    assert isinstance(transrate(features, labels), float)
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_error_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match="`epsilon=.*` is not positive.*1e-4"):
        transrate([[1.0], [2.0]], [0, 1], epsilon=epsilon)
    with pytest.raises(ValueError, match="infinitely many bits"):
        coding_rate([[1.0], [2.0]], epsilon=epsilon)
