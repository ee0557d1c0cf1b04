from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, Dataset, Features, List, Value, concatenate_datasets

from hf_transfer.features.cache import Entry, Rows, matrix


def stored(folder: Path, columns: dict, features: Features, *, shard_rows: int = 1000) -> Entry:
    rows = len(next(iter(columns.values())))
    entry = Entry.open({"features": str(features)}, rows=rows, shard_rows=shard_rows, cache_dir=folder)
    for shard, part in enumerate(entry.ranges()):
        entry.write(shard, {name: column[part.start : part.stop] for name, column in columns.items()}, features)
    return entry


def numbers(rows: int, width: int = 5, dtype="float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, width)).astype(dtype)


def fixed(width: int = 5, dtype: str = "float32") -> Features:
    return Features({"features": List(Value(dtype), length=width)})


def lies_in_a_file(array: np.ndarray, folder: Path) -> bool:
    """Whether the first and the last byte of an array are in a mapping of a file of this folder."""
    start = array.__array_interface__["data"][0]
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            begin, end = line.split()[0].split("-")
            spans.append((int(begin, 16), int(end, 16)))
    return all(any(begin <= byte < end for begin, end in spans) for byte in (start, start + max(array.nbytes, 1) - 1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_one_shard_is_not_copied(tmp_path, dtype):
    values = numbers(50, dtype="float32").astype(dtype)
    dataset = stored(tmp_path, {"features": values}, fixed(dtype=dtype)).dataset()
    before = pa.total_allocated_bytes()
    read = matrix(dataset)
    assert read.dtype == dtype and np.array_equal(read, values)
    assert lies_in_a_file(read, tmp_path) and pa.total_allocated_bytes() == before
    assert np.shares_memory(read, matrix(dataset))
    assert not read.flags.writeable
    part = matrix(dataset.select(range(10, 20)))
    assert np.shares_memory(part, read) and np.array_equal(part, values[10:20])


def test_several_shards_and_every_order(tmp_path):
    values = numbers(53)
    dataset = stored(tmp_path, {"features": values}, fixed(), shard_rows=10).dataset()
    assert np.array_equal(matrix(dataset), values)
    for indices in ([3], [52, 0, 0, 31], list(range(52, -1, -1)), list(range(5, 35)), []):
        assert np.array_equal(matrix(dataset.select(indices)), values[np.array(indices, int)]), indices
    shuffled = dataset.shuffle(seed=0).select(range(7, 40))
    expected = np.array([row["features"] for row in shuffled], "float32")
    assert np.array_equal(matrix(shuffled), expected) and not np.array_equal(expected, values[7:40])
    both = concatenate_datasets([dataset.select([5, 1]), dataset])
    assert np.array_equal(matrix(both), np.concatenate([values[[5, 1]], values]))


def test_a_shuffled_shard_takes_the_memory_of_its_result_only(tmp_path):
    values = numbers(4000, 64)
    dataset = stored(tmp_path, {"features": values}, fixed(64), shard_rows=500).dataset()
    chosen = dataset.select(np.random.default_rng(0).integers(0, 4000, 100))
    before = pa.total_allocated_bytes()
    assert matrix(chosen).nbytes == 100 * 64 * 4
    assert pa.total_allocated_bytes() == before


def test_the_format_does_not_count(tmp_path):
    values = numbers(6)
    dataset = stored(tmp_path, {"features": values}, fixed()).dataset()
    for other in (dataset.with_format("torch"), dataset.with_transform(lambda batch: {"x": [0] * 6})):
        assert np.array_equal(matrix(other), values)


def test_other_columns_of_numbers(tmp_path):
    features = Features(
        {"labels": Value("int64"), "flag": Value("bool"), "map": List(List(Value("float32"), length=3), length=2)}
    )
    columns = {"labels": np.arange(7), "flag": np.arange(7) % 3 == 0, "map": numbers(7, 6).reshape(7, 2, 3)}
    dataset = stored(tmp_path, columns, features, shard_rows=3).dataset()
    for name, column in columns.items():
        assert np.array_equal(matrix(dataset, name), column)
        assert matrix(dataset, name).dtype == column.dtype
        rows = Rows(dataset, name)
        assert all(np.array_equal(rows[row], column[row]) for row in range(7))
        assert rows[3].shape == column.shape[1:]


def test_lists_of_one_length_make_a_matrix_without_saying_so():
    values = numbers(9)
    dataset = Dataset.from_dict({"features": values.tolist()}, features=Features({"features": List(Value("float32"))}))
    assert np.array_equal(matrix(dataset), values)
    assert np.array_equal(matrix(dataset.select(range(4, 9))), values[4:])
    assert np.array_equal(matrix(concatenate_datasets([dataset.select([1]), dataset])), values[[1, *range(9)]])


def test_tables_without_rows(tmp_path):
    dataset = stored(tmp_path, {"features": numbers(0)}, fixed()).dataset()
    assert matrix(dataset).shape == (0, 5) and matrix(dataset).dtype == np.float32
    assert len(Rows(dataset, "features")) == 0
    full = stored(tmp_path, {"features": numbers(4)}, fixed()).dataset()
    assert matrix(full.select([])).shape == (0, 5)
    assert matrix(concatenate_datasets([dataset, full])).shape == (4, 5)


def ragged(rows: int = 23) -> tuple[dict, Features]:
    generator = np.random.default_rng(0)
    tokens = [generator.standard_normal((row % 5, 4)).astype(np.float16) for row in range(rows)]
    features = Features({"tokens": List(List(Value("float16"), length=4)), "flat": List(Value("float16"))})
    return {"tokens": tokens, "flat": [row.reshape(-1) for row in tokens]}, features


def test_rows_of_different_lengths(tmp_path):
    columns, features = ragged()
    entry = stored(tmp_path, columns, features, shard_rows=6)
    for name, column in columns.items():
        rows = entry.rows_of(name)
        assert len(rows) == len(column)
        for number in np.random.default_rng(1).permutation(len(column)):
            row = rows[number]
            assert (
                row.dtype == np.float16 and np.array_equal(row, column[number]) and row.shape == column[number].shape
            )
            assert not row.flags.writeable and (not row.size or lies_in_a_file(row, tmp_path))
        assert all(np.array_equal(row, expected) for row, expected in zip(rows, column, strict=True))
        assert np.array_equal(rows[-1], column[-1])
        part = Rows(entry.dataset().select(range(4, 15)), name)
        assert len(part) == 11 and all(np.array_equal(part[row], column[row + 4]) for row in range(11))


@pytest.mark.parametrize("name", ["tokens", "flat"])
def test_a_matrix_of_ragged_rows_is_refused(tmp_path, name):
    dataset = stored(tmp_path, *ragged()).dataset()
    message = rf"The rows of `{name}` differ in length, .* - they do not make a matrix - pool them .* with `Rows`\."
    with pytest.raises(ValueError, match=message):
        matrix(dataset, name)


def test_chunks_that_differ_only_among_each_other_are_refused(tmp_path):
    columns = {"flat": [np.zeros(2, np.float32)] * 2 + [np.zeros(3, np.float32)] * 2}
    dataset = stored(tmp_path, columns, Features({"flat": List(Value("float32"))}), shard_rows=2).dataset()
    with pytest.raises(ValueError, match="differ in length"):
        matrix(dataset, "flat")


def test_reading_rows_takes_no_memory(tmp_path):
    rows = stored(tmp_path, {"features": numbers(2000, 256)}, fixed(256), shard_rows=100).rows_of("features")
    before = pa.total_allocated_bytes()
    kept = [rows[number] for number in np.random.default_rng(0).integers(0, 2000, 500)]
    assert pa.total_allocated_bytes() == before
    assert all(lies_in_a_file(row, tmp_path) for row in kept[:5])
    assert all(row.base is not None for row in kept)


def test_rows_go_to_worker_processes_as_names_of_files(tmp_path):
    rows = stored(tmp_path, {"features": numbers(3000, 64)}, fixed(64)).rows_of("features")
    pickled = pickle.dumps(rows)
    assert len(pickled) < 20_000 < 3000 * 64 * 4
    copy = pickle.loads(pickled)
    assert np.array_equal(copy[2999], rows[2999]) and lies_in_a_file(copy[0], tmp_path)


@pytest.mark.parametrize("row", [5, -6])
def test_a_row_out_of_range(tmp_path, row):
    rows = stored(tmp_path, {"features": numbers(5)}, fixed(), shard_rows=2).rows_of("features")
    with pytest.raises(IndexError, match=r"There is no row .*, only 5 rows - give 0 <= row < 5"):
        rows[row]


def test_a_shuffled_data_set_has_no_rows_in_order():
    dataset = Dataset.from_dict({"x": [1, 2, 3]}).shuffle(seed=0)
    with pytest.raises(
        ValueError, match=r"was shuffled or selected from - its rows no longer lie .* `flatten_indices"
    ):
        Rows(dataset, "x")


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match=r"has no column `features`, only x, y - there is nothing to read - name one"):
        matrix(Dataset.from_dict({"x": [1], "y": [2]}))


@pytest.mark.parametrize("column", [[1.0, None], [[1.0], None], [[1.0], [None]]])
def test_missing_values_are_refused(column):
    with pytest.raises(ValueError, match=r"1 values of `x` are missing - an array has no place for them - drop these"):
        matrix(Dataset.from_dict({"x": column}), "x")


@pytest.mark.parametrize("column", [["text"], [{"a": 1}], [[["nested"]]], [[[1.0], [2.0, 3.0]]]])
def test_columns_that_are_no_arrays_are_refused(column):
    with pytest.raises(ValueError, match=r"Column `x` holds .* - only numbers, and lists of them .* - name a column"):
        matrix(Dataset.from_dict({"x": column}), "x")


def test_array_features_of_datasets_are_refused_with_their_type():
    dataset = Dataset.from_dict({"x": np.zeros((2, 3, 4))}, features=Features({"x": Array2D((3, 4), "float32")}))
    with pytest.raises(ValueError, match="only numbers, and lists of them"):
        matrix(dataset, "x")
