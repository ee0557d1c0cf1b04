"""What a teacher said of the rows of one shard while they are computed, and the types in which it is stored."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hf_transfer.features.extraction.fetched_rows import FetchedWindow
from hf_transfer.features.extraction.text_rows import MASK, TextWindow
from hf_transfer.teacher.cached_columns import CLASSES, LOG_REST, TOKENS, TOP_INDICES


if TYPE_CHECKING:
    from datasets import Features

__all__ = ["TeacherRows", "token_checksum", "token_checksums"]


class TeacherRows:
    """
    The rows of one shard, in the order of the data set whatever the order of the batches.

    Args:
        rows (`range`): numbers of the rows, for messages.
        dtype (`str`): type of what is stored in the precision chosen, `"float32"` or `"float16"`.
    """

    def __init__(self, rows: range, dtype: str):
        self.rows, self.dtype = rows, dtype
        self._values: dict[str, list[np.ndarray]] = {}
        self._per_token: set[str] = set()

    def add(self, positions: np.ndarray, read: dict[str, Tensor | list[Tensor]]) -> None:
        """What a batch says of the rows at these positions of the shard."""
        for name, values in read.items():
            if not isinstance(values, Tensor):
                self._per_token.add(name)
            rows = self._values.setdefault(name, [np.empty(0)] * len(self.rows))
            for position, value in zip(positions, values, strict=True):
                rows[position] = self._stored(value.numpy(), name, self.rows[position])

    def finish(self, window: Any) -> tuple[dict[str, Any], Features]:
        """
        The columns and their types.

        Args:
            window: of these rows; of text its token ids are noted beside what there is for each token.
        """
        from datasets import Features

        columns: dict[str, Any] = {
            name: values if name in self._per_token else np.stack(values) for name, values in self._values.items()
        }
        types = {name: self._type(name, values) for name, values in columns.items()}
        checksums = token_checksums(window) if self._per_token else None
        if checksums is not None:
            from datasets import Value

            columns[TOKENS] = checksums
            types[TOKENS] = Value("int64")
        return columns, Features(types)

    def _type(self, name: str, values: Any) -> Any:
        from datasets import List, Value

        row = values[0]
        kind: Any = Value(str(row.dtype))
        for size in row.shape[:0:-1] if name in self._per_token else row.shape[::-1]:
            kind = List(kind, length=size)
        return List(kind) if name in self._per_token else kind

    def _stored(self, value: np.ndarray, name: str, row: int) -> np.ndarray:
        if name in (TOP_INDICES, CLASSES):
            return value
        if not np.isfinite(value).all():
            raise ValueError(
                f"The teacher gives values that are not finite for row {row} (`{name}`): the student would learn "
                "nothing of them, and lose what it has. Check the teacher's weights and the inputs of that row; a "
                "model trained in bfloat16 may overflow in float16."
            )
        if self.dtype == "float32" or name == LOG_REST:
            return value
        with np.errstate(over="ignore"):
            stored = value.astype(self.dtype)
        if np.isinf(stored).any():
            raise ValueError(
                f"The teacher gives values up to {np.abs(value).max():.4g} for row {row} (`{name}`), half precision "
                'ends at 65504: they would be stored as infinite. Pass store="float32".'
            )
        return stored


def token_checksums(window: TextWindow | FetchedWindow) -> np.ndarray | None:
    """The checksum of the token ids of each row of a window, `(n,)` int64; `None` of what is no text."""
    if isinstance(window, TextWindow):
        ends = window.starts[1:]
        columns = {name: np.split(window.flat[name], ends) for name in ("input_ids", MASK) if name in window.flat}
    else:
        columns = window.dataset[window.rows.start : window.rows.stop]
        if "input_ids" not in columns:
            return None
    ids = columns["input_ids"]
    masks = columns[MASK] if MASK in columns else [None] * len(ids)
    return np.array([token_checksum(row, kept) for row, kept in zip(ids, masks, strict=True)], np.int64)


def token_checksum(ids: Any, mask: Any = None) -> int:
    """
    A checksum of the token ids of one row, padding left out.

    Example:
        >>> token_checksum([5, 6]) == token_checksum([5, 6, 0], [1, 1, 0])
        True
    """
    ids = np.asarray(ids, np.int64)
    if mask is not None:
        ids = ids[np.asarray(mask) != 0]
    return zlib.crc32(ids.tobytes())
