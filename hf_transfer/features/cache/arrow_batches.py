"""NumPy arrays as Arrow record batches, without a copy where there is one already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.features.cache.rows import is_number


if TYPE_CHECKING:
    from datasets import Features

_BYTES = 64 << 20
"""Of ragged rows in one batch: they are copied together, and counted in 32 bits."""

__all__ = ["record_batches"]


def record_batches(columns: Mapping[str, Any], features: Features, rows: int) -> Iterator[Any]:
    """
    Columns as record batches: one, or several of a bounded size if rows differ in length.

    Args:
        columns (`Mapping[str, Any]`):
            Of each column `rows` values: an array `(rows, ...)`, a list of arrays that differ in their first
            dimension, or anything that `datasets` encodes.
        features (`datasets.Features`):
            Names and types, in the order stored.
        rows (`int`):
            How many rows.

    Raises:
        ValueError: if names, numbers of rows, widths or kinds of numbers differ from what `features` says.
    """
    import pyarrow as pa

    if set(columns) != set(features):
        raise ValueError(
            f"The columns are {', '.join(sorted(columns))}, but the features name {', '.join(sorted(features))} - "
            "what is stored could not be read back - give one array per feature."
        )
    for name, column in columns.items():
        if len(column) != rows:
            raise ValueError(
                f"Column `{name}` has {len(column)} rows where the shard has {rows} - rows would be missing, or "
                "belong to others - give the values of exactly the rows in `ranges()[shard]`."
            )
    schema = features.arrow_schema
    for start, end in _pieces([column for column in columns.values() if _is_ragged(column)], rows):
        arrays = [_arrow(columns[field.name][start:end], field, features) for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _pieces(ragged: Sequence[Sequence[np.ndarray]], rows: int) -> Iterator[tuple[int, int]]:
    start, size = 0, 0
    for row in range(rows if ragged else 0):
        more = sum(column[row].nbytes for column in ragged)
        if row > start and size + more > _BYTES:
            yield start, row
            start, size = row, 0
        size += more
    yield start, rows


def _is_ragged(column: Any) -> bool:
    return isinstance(column, (list, tuple)) and bool(column) and all(isinstance(row, np.ndarray) for row in column)


def _arrow(column: Any, field: Any, features: Features) -> Any:
    import pyarrow as pa
    from datasets import Dataset, Features

    if is_number(_innermost(field.type)):
        if isinstance(column, np.ndarray) and column.dtype != object:
            return _nested(column, field)
        if _is_ragged(column):
            if len({row.shape for row in column}) == 1:
                return _nested(np.stack(list(column)), field)
            if len({row.shape[1:] for row in column}) > 1 or not pa.types.is_list(field.type):
                raise _misfit(field, f"rows of shapes {', '.join(sorted({str(row.shape) for row in column})[:3])}")
            ends = np.cumsum([0, *(len(row) for row in column)], dtype=np.int32)
            values = _nested(np.concatenate(column), field.with_type(field.type.value_type))
            return pa.ListArray.from_arrays(pa.array(ends), values, type=field.type)
    whole = Dataset.from_dict({field.name: list(column)}, features=Features({field.name: features[field.name]}))
    return pa.concat_arrays(whole.data.column(field.name).chunks or [pa.array([], field.type)])


def _innermost(arrow_type: Any) -> Any:
    import pyarrow as pa

    while pa.types.is_fixed_size_list(arrow_type) or pa.types.is_list(arrow_type):
        arrow_type = arrow_type.value_type
    return arrow_type


def _nested(array: np.ndarray, field: Any) -> Any:
    """An array `(n, ...)` as `n` numbers or lists, which may be nested."""
    import pyarrow as pa

    levels, inner = [], field.type
    while not is_number(inner):
        levels.append(inner)
        inner = inner.value_type
    if array.ndim != len(levels) + 1:
        raise _misfit(field, f"rows of shape {array.shape[1:]}")
    built = pa.array(_converted(array, inner.to_pandas_dtype(), field).reshape(-1), type=inner)
    for depth in range(len(levels), 0, -1):
        level, size = levels[depth - 1], array.shape[depth]
        if pa.types.is_list(level):
            count = int(np.prod(array.shape[:depth]))
            built = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * size), built, type=level)
        elif level.list_size == size:
            built = pa.FixedSizeListArray.from_arrays(built, type=level)
        else:
            raise _misfit(field, f"rows of shape {array.shape[1:]}")
    return built


def _converted(array: np.ndarray, dtype: Any, field: Any) -> np.ndarray:
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise _misfit(field, f"{array.dtype} values")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    narrowed = converted.dtype.itemsize < array.dtype.itemsize
    if narrowed and (np.isfinite(array) != np.isfinite(converted)).any():
        raise ValueError(
            f"Values of column `{field.name}` are up to {np.abs(array[np.isfinite(array)]).max():.3g}, more than "
            f"{converted.dtype} can hold - they would be stored as infinite - store float32."
        )
    if narrowed and converted.dtype.kind in "iu" and (converted != array).any():
        raise ValueError(
            f"Values of column `{field.name}` reach from {array.min()} to {array.max()}, more than {converted.dtype} "
            "can hold - other numbers would be stored - name a wider type in the features."
        )
    return converted


def _misfit(field: Any, seen: str) -> ValueError:
    return ValueError(
        f"Column `{field.name}` has {seen}, but its feature is {field.type} - they could not be read back as they "
        "are - give arrays as the feature says, or a feature as the arrays are."
    )
