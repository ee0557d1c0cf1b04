"""Counting target rows by their nearest source rows, against a double loop."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.features.reweighting.nearest_neighbour import nearest_neighbour


@pytest.mark.parametrize("k", [1, 3])
def test_against_a_double_loop(k):
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(12, 2)), generator.normal(0.5, 1, size=(30, 2))
    counts = [0] * 12
    for y in target:
        near = sorted(range(12), key=lambda i: ((source[i] - y) ** 2).sum())[:k]
        for i in near:
            counts[i] += 1
    expected = np.array(counts) * 12 / (k * 30)
    found = nearest_neighbour(source, target, k=k)
    np.testing.assert_allclose(found, expected)
    assert found.mean() == pytest.approx(1)


def test_more_neighbours_than_source_rows_make_all_equal():
    assert nearest_neighbour(np.array([[0.0], [9.0]]), np.zeros((5, 1)), k=10).tolist() == [1.0, 1.0]


def test_no_neighbour_is_refused():
    with pytest.raises(ValueError, match="`k=0` neighbours: no source row would get any weight. Give 1 or more"):
        nearest_neighbour(np.zeros((2, 1)), np.zeros((2, 1)), k=0)
