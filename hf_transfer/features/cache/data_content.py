"""A checksum of the content of a data set, row by row, however it is stored."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.features.cache.checksums import new_checksum, object_digest, text_digest
from hf_transfer.features.cache.processor_state import processor_digest


if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = 256
"""Rows per batch: fixed, since it is part of the result, and few enough for images."""

__all__ = ["data_digest"]


def data_digest(dataset: Dataset, columns: Sequence[str]) -> str:
    """
    A checksum of these columns of a data set: types and values, row by row, in order.

    How the rows are stored does not count: a selection has the digest of the same rows written to their own file.
    Memory does not grow with the data set.

    Args:
        dataset (`datasets.Dataset`):
            Also after `select`, `shuffle`, `concatenate_datasets`. With `with_transform` the stored columns count, and
            the transform.
        columns (`Sequence[str]`):
            Names of the columns that count, in any order.

    Degenerate cases:
        Of images and recordings the encoded bytes count. A row that holds only the path of a file counts its path,
        size and time of change; the file is not read.

    Raises:
        TypeError: if the data set is streamed, or its transform cannot be pickled.
        ValueError: if a column is missing; if a row holds only an address on the network.
        FileNotFoundError: if the file of a row is gone.

    Example:
        >>> from datasets import Dataset
        >>> data = Dataset.from_dict({"text": ["a", "b", "a"]})
        >>> data_digest(data.select([0, 1]), ["text"]) == data_digest(data.select([2, 1]), ["text"])
        True
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"The data is a {type(dataset).__name__}, not a `datasets.Dataset` - its content cannot be told before it "
            "is read through - load it without `streaming=True`, or turn it into a `Dataset`."
        )
    columns = sorted(columns)
    for name in columns:
        if name not in dataset.column_names:
            raise ValueError(
                f"The data set has no column `{name}`, only {', '.join(dataset.column_names)} - what the features "
                "depend on would not count - name columns it has."
            )
    checksum, transform = new_checksum(), _transform(dataset)
    stored: Any = dataset.with_format("arrow").select_columns(columns)
    for start in range(0, len(stored), _ROWS):
        table: Any = stored[start : start + _ROWS]
        for name in columns:
            _update(checksum, _whole(table.column(name)), dataset.features[name])
    types: Any = dataset.features.to_dict()
    parts = [len(dataset), {name: types[name] for name in columns}, checksum.hexdigest(), transform]
    return text_digest(json.dumps(parts, sort_keys=True))


def _whole(column: Any) -> Any:
    import pyarrow as pa

    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _update(checksum: Any, array: Any, feature: Any) -> None:
    """Add the content of an Arrow array, whatever its offset and what lies under its nulls."""
    import pyarrow as pa

    kinds = pa.types
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if kinds.is_dictionary(array.type):
        array = array.dictionary_decode()
    nested = kinds.is_nested(array.type)
    checksum.update(f"{'nested' if nested else array.type} {len(array)} {array.null_count}".encode())
    if array.null_count:
        checksum.update(_bits(array))
        array = array.drop_null()
    if kinds.is_struct(array.type):
        # features that are decoded are stored as bytes or a path
        (_update_files if hasattr(feature, "decode_example") else _update_fields)(checksum, array, feature)
    elif kinds.is_list(array.type) or kinds.is_large_list(array.type) or kinds.is_fixed_size_list(array.type):
        checksum.update(array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        _update(checksum, array.flatten(), getattr(feature, "feature", None))
    elif kinds.is_string(array.type) or kinds.is_binary(array.type):
        _update_strings(checksum, array, np.dtype(np.int32))
    elif kinds.is_large_string(array.type) or kinds.is_large_binary(array.type):
        _update_strings(checksum, array, np.dtype(np.int64))
    elif kinds.is_boolean(array.type):
        checksum.update(array.to_numpy(zero_copy_only=False).tobytes())
    elif kinds.is_primitive(array.type):
        width = array.type.bit_width // 8
        if len(array):
            data = memoryview(array.buffers()[1])
            checksum.update(data[array.offset * width : (array.offset + len(array)) * width])
    elif not kinds.is_null(array.type):
        for value in array.to_pylist():
            checksum.update(f"{value!r}\n".encode())


def _update_fields(checksum: Any, array: Any, feature: Any) -> None:
    for number, child in enumerate(array.flatten()):
        name = array.type.field(number).name
        checksum.update(f"{name}\n".encode())
        _update(checksum, child, feature.get(name) if isinstance(feature, dict) else None)


def _update_strings(checksum: Any, array: Any, offset_type: np.dtype) -> None:
    if not len(array):
        return
    _, starts, data = array.buffers()
    offsets = np.frombuffer(starts, offset_type)[array.offset : array.offset + len(array) + 1]
    checksum.update(np.diff(offsets).astype(np.int64).tobytes())
    if data is not None:
        checksum.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _update_files(checksum: Any, array: Any, feature: Any) -> None:
    # where there are bytes, the path is only a name, and saving shortens it
    content, paths = array.field("bytes"), array.field("path")
    checksum.update(_bits(content))
    _update(checksum, content.drop_null(), None)
    for path in paths.filter(content.is_null()).to_pylist():
        checksum.update(f"{json.dumps(_file(path))}\n".encode())


def _bits(array: Any) -> bytes:
    return np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes()


def _file(path: str | None) -> list[Any]:
    if path is None:
        return []
    # `zip://inside.jpg::/archive.zip`: the archive is the file
    local = path.rpartition("::")[2]
    if local.startswith("hf://") and "@" in local:
        return [path]  # a revision does not change
    if "://" in local:
        raise ValueError(
            f"A row holds only the address {path} - whether it still gives the same cannot be told without fetching "
            "it - store the bytes in the data set first: `Dataset.save_to_disk` does, then `load_from_disk`."
        )
    try:
        status = os.stat(local)
    except OSError as error:
        raise FileNotFoundError(
            error.errno,
            f"{local} cannot be read ({error.strerror}), but a row of the data set is stored there - that row has no "
            "content - restore the file, or load the data set again.",
        ) from error
    return [path, status.st_size, status.st_mtime_ns]


def _transform(dataset: Dataset) -> Any:
    """What `with_transform` set, if anything."""
    transform = (dataset.format.get("format_kwargs") or {}).get("transform")
    if transform is None:
        return None
    from hf_transfer.data.preparation import _ImageTransform
    from hf_transfer.data.sound import SoundTransform

    if type(transform) is _ImageTransform:
        augment = None if transform.augment is None else object_digest(transform.augment)
        return ["images", processor_digest(transform.processor), augment]
    if type(transform) is SoundTransform:
        return ["sound", processor_digest(transform.processor)]
    return ["function", object_digest(transform)]
