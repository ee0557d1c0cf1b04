"""Reading the features of two domains, and bringing them to one scale."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer.features.reweighting.feature_pairs import (
    needs_libraries,
    read_matrix,
    read_pair,
    standardised_pair,
)


def test_data_sets_and_arrays_are_read_alike():
    rows = np.array([[1.0, 2.0], [3.0, 4.0]])
    dataset = Dataset.from_dict({"features": rows.tolist(), "block.1": (2 * rows).tolist()})
    np.testing.assert_array_equal(read_matrix(dataset)[0], rows)
    np.testing.assert_array_equal(read_matrix(dataset, column="block.1")[0], 2 * rows)
    source, target, *groups = read_pair(rows, dataset.select([1]))
    assert source.shape == (2, 2) and target.tolist() == [[3.0, 4.0]] and groups == [None, None]


def test_standardised_over_both_by_hand():
    source, target = np.array([[0.0, 5.0], [2.0, 5.0]]), np.array([[4.0, 5.0], [6.0, 5.0]])
    first, second = standardised_pair(source, target)
    deviation = np.sqrt(5)  # of 0, 2, 4, 6
    np.testing.assert_allclose(first[:, 0], [-3 / deviation, -1 / deviation])
    np.testing.assert_allclose(second[:, 0], [1 / deviation, 3 / deviation])
    assert not first[:, 1].any() and not second[:, 1].any()


def test_a_large_constant_is_no_signal():
    rows = np.full((10, 1), 0.1) * 3e9
    assert not np.concatenate(standardised_pair(rows, rows)).any()
    half = standardised_pair(np.array([[1]], np.float16), np.array([[3]], np.float16))
    assert half[0].dtype == np.float64 and half[0][0, 0] == -1


def test_what_is_refused():
    with pytest.raises(ValueError, match="a vector for each token.*belongs to an example.*pooling"):
        read_matrix(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="source has no rows.*nothing to compare.*Check the split"):
        read_matrix(np.zeros((0, 4)))
    with pytest.raises(ValueError, match="target features hold numbers that are not finite.*half precision"):
        read_pair(np.zeros((2, 2)), np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="source features have width 2, the target's 3.*different models.*same `t"):
        read_pair(np.zeros((2, 2)), np.zeros((2, 3)))


def test_without_the_libraries_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"Something needs scikit-learn and scipy.*pip install .hf-transfer"):
        needs_libraries("Something")
