from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, List, Value

from hf_transfer.features.extraction.shard_columns import ShardColumns


def test_rows_come_out_in_the_order_of_the_data_set():
    columns = ShardColumns(range(10, 14), "float32")
    values = torch.randn(4, 3)
    for positions in ([2, 0], [3], [1]):
        columns.add(np.array(positions), {"features": values[positions], "block.1": 2 * values[positions]})
    arrays = columns.arrays(["block.1", "features"])
    assert list(arrays) == ["block.1", "features", "id"] and arrays["id"].tolist() == [10, 11, 12, 13]
    np.testing.assert_array_equal(arrays["features"], values)
    np.testing.assert_array_equal(arrays["block.1"], 2 * values)
    features = columns.features(arrays)
    assert features["features"] == List(Value("float32"), length=3) and features["id"] == Value("int64")


def test_rows_of_tokens():
    columns = ShardColumns(range(3), "float16")
    rows = [torch.randn(length, 2) for length in (3, 1, 2)]
    columns.add(np.array([1, 2]), {"features": rows[1:]})
    columns.add(np.array([0]), {"features": rows[:1]})
    arrays = {**columns.arrays(["features"]), "labels": [np.zeros(3), np.zeros(1), np.zeros(2)]}
    for one, other in zip(arrays["features"], rows, strict=True):
        assert one.dtype == np.float16 and np.allclose(one, other, atol=1e-2)
    features = columns.features(arrays, List(ClassLabel(names=["a"])))
    assert features["features"] == List(List(Value("float16"), length=2))
    assert features["labels"] == List(ClassLabel(names=["a"]))


def test_views_are_numbered():
    columns = ShardColumns(range(4, 9), "float32", views=3)
    columns.add(np.arange(5), {"features": torch.zeros(5, 1)})
    arrays = columns.arrays(["features"])
    assert arrays["id"].tolist() == [1, 1, 2, 2, 2] and arrays["view"].tolist() == [1, 2, 0, 1, 2]
    assert columns.features(arrays)["view"] == Value("int32")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ragged", [False, True])
def test_what_is_not_finite_is_refused(value, ragged):
    columns = ShardColumns(range(20, 26), "float32", views=2)
    rows = torch.zeros(6, 2)
    rows[3, 1] = value
    with pytest.raises(ValueError, match="Row 11 has values in `features` that are not finite.*Check"):
        columns.add(np.arange(6), {"features": list(rows.unsqueeze(1)) if ragged else rows})
        columns.arrays(["features"])


@pytest.mark.parametrize("ragged", [False, True])
def test_what_half_precision_cannot_hold_is_refused(ragged):
    columns = ShardColumns(range(6), "float16")
    rows = torch.zeros(6, 2)
    rows[4, 0] = -7e4
    with pytest.raises(ValueError, match="Row 4 has values up to 7e.04 in `block.0`.*65504"):
        columns.add(np.arange(6), {"block.0": list(rows.unsqueeze(1)) if ragged else rows})
        columns.arrays(["block.0"])
    largest = ShardColumns(range(1), "float16")
    largest.add(np.arange(1), {"features": torch.tensor([[65504.0]])})
    assert largest.arrays(["features"])["features"].tolist() == [[65504.0]]
