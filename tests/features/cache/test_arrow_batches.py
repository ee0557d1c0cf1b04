from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from hf_transfer.features.cache import arrow_batches
from hf_transfer.features.cache.arrow_batches import record_batches


def table(columns: dict, features: Features) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.Table.from_batches(list(record_batches(columns, features, rows)), schema=features.arrow_schema)


def encoded(columns: dict, features: Features) -> pa.Table:
    """The same by `datasets`, row by row."""
    lists = {
        name: [row.tolist() if isinstance(row, np.ndarray) else row for row in column]
        for name, column in columns.items()
    }
    return Dataset.from_dict(lists, features=features).data.table.combine_chunks()


GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("column", "feature"),
    [
        (GENERATOR.standard_normal((6, 3)).astype("float32"), List(Value("float32"), length=3)),
        (GENERATOR.standard_normal((6, 3)).astype("float16"), List(Value("float16"), length=3)),
        (GENERATOR.standard_normal((6, 3)).astype("float32"), List(Value("float32"))),
        (GENERATOR.standard_normal((6, 2, 3)), List(List(Value("float64"), length=3), length=2)),
        (GENERATOR.standard_normal((6, 2, 3)), List(List(Value("float64")))),
        (np.asfortranarray(GENERATOR.standard_normal((6, 3))), List(Value("float64"), length=3)),
        (np.zeros((0, 3), "float32"), List(Value("float32"), length=3)),
        (np.arange(6), Value("int64")),
        (np.arange(6, dtype="int32"), Value("int64")),
        (np.array([0, -100, 1]), ClassLabel(names=["a", "b"])),
        (np.array([True, False]), Value("bool")),
        ([np.ones((t, 2), "float32") * t for t in (3, 0, 2)], List(List(Value("float32"), length=2))),
        ([np.arange(t) for t in (3, 0, 2)], List(Value("int64"))),
        ([np.arange(2.0)] * 3, List(Value("float64"), length=2)),
        ([np.ones((2, 2))] * 3, List(List(Value("float64"), length=2))),
        ([[1, 2], [], [0]], List(ClassLabel(names=["a", "b", "c"]))),
        (["a", "bc"], Value("string")),
        ([{"a": 1}, {"a": 2}], {"a": Value("int64")}),
        ([[1.0], [2.0, 3.0]], LargeList(Value("float64"))),
        ([], List(Value("float32"))),
        ([1, None], Value("int64")),
    ],
)
def test_the_same_table_as_datasets_encodes(column, feature):
    features = Features({"x": feature})
    built = table({"x": column}, features)
    if isinstance(feature, ClassLabel):  # which refuses -100 in its own encoding
        assert built.column("x").to_pylist() == column.tolist()
    else:
        assert built.equals(encoded({"x": column}, features))
    built.validate(full=True)
    assert Features.from_arrow_schema(built.schema) == features


def test_columns_are_stored_in_the_order_of_the_features():
    features = Features({"b": Value("int64"), "a": Value("int64")})
    assert table({"a": np.array([1]), "b": np.array([2])}, features).column_names == ["b", "a"]


def test_arrays_are_not_copied():
    values = np.ones((4, 3), "float32")
    batch = next(record_batches({"x": values}, Features({"x": List(Value("float32"), length=3)}), 4))
    assert np.shares_memory(batch.column("x").flatten().to_numpy(), values)


def test_ragged_rows_are_cut_into_batches_of_bounded_size(monkeypatch):
    monkeypatch.setattr(arrow_batches, "_BYTES", 100)
    rows = [np.full((t, 2), t, np.float32) for t in (5, 5, 5, 40, 1, 1, 1, 12)]  # 40, 40, 40, 320, 8, 8, 8, 96 bytes
    columns = {"x": rows, "id": np.arange(8)}
    features = Features({"x": List(List(Value("float32"), length=2)), "id": Value("int64")})
    batches = list(record_batches(columns, features, 8))
    assert [batch.num_rows for batch in batches] == [2, 1, 1, 3, 1]
    assert pa.Table.from_batches(batches).combine_chunks().equals(encoded(columns, features))


def test_columns_that_the_features_do_not_name_are_refused():
    with pytest.raises(ValueError, match=r"The columns are x, but the features name y - what is stored .* - give one"):
        table({"x": np.zeros(1)}, Features({"y": Value("float64")}))


def test_another_number_of_rows_is_refused():
    with pytest.raises(
        ValueError, match=r"Column `x` has 2 rows where the shard has 3 - rows would be missing.* - give"
    ):
        list(record_batches({"x": np.zeros(2)}, Features({"x": Value("float64")}), 3))


@pytest.mark.parametrize(
    ("column", "feature", "seen"),
    [
        (np.zeros((2, 4), "float32"), List(Value("float32"), length=3), r"rows of shape \(4,\)"),
        (np.zeros(2, "float32"), List(Value("float32"), length=3), r"rows of shape \(\)"),
        (np.zeros((2, 3, 3), "float32"), List(Value("float32"), length=3), r"rows of shape \(3, 3\)"),
        (np.zeros((2, 3), "float32"), List(Value("int64"), length=3), "float32 values"),
        (np.zeros(2, "int64"), Value("bool"), "int64 values"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], List(List(Value("float64"))), r"rows of shapes \(1, 2\), \(1, 3\)"),
        ([np.zeros(2), np.zeros(3)], List(Value("float64"), length=2), r"rows of shapes \(2,\), \(3,\)"),
        ([np.zeros((1, 2)), np.zeros((2, 2))], List(List(Value("float64"), length=3)), r"rows of shape \(2,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(column, feature, seen):
    with pytest.raises(ValueError, match=rf"Column `x` has {seen}, but its feature is .* - they could not .* - give"):
        table({"x": column}, Features({"x": feature}))


def test_what_float16_cannot_hold_is_refused():
    features = Features({"x": List(Value("float16"), length=2)})
    with pytest.raises(ValueError, match=r"up to 7e\+04, more than float16 can hold - .* infinite - store float32"):
        table({"x": np.array([[1.0, -70000.0]], "float32")}, features)
    # what was infinite before stays so
    assert table({"x": np.array([[np.inf, np.nan]], "float32")}, features).num_rows == 1


def test_what_int32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"from 0 to 4294967296, more than int32 can hold - .* - name a wider type"):
        table({"x": np.array([0, 2**32])}, Features({"x": Value("int32")}))
