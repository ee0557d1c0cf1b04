"""Checked inputs, class sums and spectra against loops and full singular value decompositions."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.functional.class_statistics import (
    centred,
    checked_classes,
    checked_features,
    checked_targets,
    class_sums,
    gram_spectrum,
    left_coordinates,
)
from tests.functional.labelled_features import made


def test_any_integers_become_class_numbers_without_gaps():
    for labels in ([7, -100, 7, 3], np.array([7, -100, 7, 3], dtype=np.int8), [7.0, -100.0, 7.0, 3.0]):
        classes, counts = checked_classes(labels, 4)
        assert classes.tolist() == [2, 0, 2, 1] and counts.tolist() == [1, 1, 2]
    assert checked_classes([True, False], 2)[0].tolist() == [1, 0]


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match=r"no integers were given, such as .*0\.5.*regression=True"):
        checked_classes([0.5, 1.0], 2)
    with pytest.raises(ValueError, match="no integers were given"):
        checked_classes([1.0, np.nan], 2)
    with pytest.raises(ValueError, match="no integers were given"):
        checked_classes(["cat", "dog"], 2)
    with pytest.raises(ValueError, match=r"Labels of shape \(3,\) were given for 2 rows"):
        checked_classes([0, 1, 1], 2)


def test_features_that_are_no_finite_matrix_are_refused():
    with pytest.raises(ValueError, match=r"Features of shape \(2, 3, 4\).*pool tokens"):
        checked_features(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"Features of shape \(0, 3\)"):
        checked_features(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"1 of 3 rows.*not finite, row 1 first.*single precision"):
        checked_features([[1.0], [np.inf], [2.0]])


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Targets of shape \(3,\) were given for 2 rows"):
        checked_targets([1.0, 2.0, 3.0], 2)
    with pytest.raises(ValueError, match="1 targets are not finite"):
        checked_targets([1.0, np.nan], 2)
    assert checked_targets(np.ones((2, 3)), 2).shape == (2, 3)


def test_class_sums_are_those_of_a_loop():
    features, labels = made(rows=31, width=4, classes=5)
    classes, counts = checked_classes(labels * 3 - 4, 31)
    expected = np.zeros((5, 4))
    for row, number in zip(features, classes, strict=True):
        expected[number] += row
    np.testing.assert_allclose(class_sums(features, classes, counts), expected, rtol=1e-13)


def test_columns_that_only_rounding_moves_become_exact_zeros():
    features = np.column_stack([np.full(7, 0.1), np.full(7, 1e9 / 3), np.arange(7.0), 1 + 1e-9 * np.arange(7)])
    found = centred(features)
    assert not found[:, :2].any()
    np.testing.assert_allclose(found[:, 2], np.arange(7.0) - 3)
    assert found[:, 3].any()  # little, but more than rounding


@pytest.mark.parametrize(("rows", "width"), [(30, 6), (6, 30), (8, 8)])
def test_spectrum_and_coordinates_are_those_of_the_singular_value_decomposition(rows, width):
    features, labels = made(rows=rows, width=width)
    classes, counts = checked_classes(labels, rows)
    one_hot = np.eye(3)[classes]
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    for s, x in (left_coordinates(features, classes, counts), left_coordinates(features, one_hot)):
        np.testing.assert_allclose(s[::-1], singular**2, rtol=1e-9)
        np.testing.assert_allclose(np.square(x[::-1]), np.square(left.T @ one_hot), rtol=1e-6, atol=1e-10)
    assert gram_spectrum(features)[1].shape == (min(rows, width), min(rows, width))


def test_rank_is_found_where_columns_repeat_or_vanish():
    features, labels = made(rows=20, width=3)
    padded = np.column_stack([features, features @ rotation_to(7), np.zeros(20)])
    classes, counts = checked_classes(labels, 20)
    s, x = left_coordinates(padded, classes, counts)
    assert s.shape == (3,) and x.shape == (3, 3)
    assert gram_spectrum(np.zeros((4, 2)))[0].shape == (0,)
    assert gram_spectrum(np.zeros((2, 4)))[1].shape == (2, 0)


def rotation_to(width):
    return np.random.default_rng(3).standard_normal((3, width))


def test_gram_matrix_is_precise_enough_for_features_of_single_precision():
    generator = np.random.default_rng(0)
    left = np.linalg.qr(generator.standard_normal((200, 20)))[0]
    right = np.linalg.qr(generator.standard_normal((20, 20)))[0]
    singular = np.geomspace(1, 1e-5, 20)  # a condition number that single precision hardly holds
    classes, counts = checked_classes(np.arange(200) % 4, 200)
    s, x = left_coordinates(left * singular @ right, classes, counts)
    np.testing.assert_allclose(s[::-1], singular**2, rtol=1e-4)
    np.testing.assert_allclose(np.square(x[::-1]), np.square(left.T @ np.eye(4)[classes]), rtol=1e-3, atol=1e-5)
