"""One entry of the cache: a table cut into shards, found by the description of what it holds."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers.utils import logging

from hf_transfer.features.cache.arrow_batches import record_batches
from hf_transfer.features.cache.checksums import text_digest
from hf_transfer.features.cache.description import DESCRIPTION, describe, read_description
from hf_transfer.features.cache.rows import Rows
from hf_transfer.features.cache.shards import damage_of, locked, publish, shard_files, sweep, write_shard


if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["Entry", "default_cache_dir"]

logger = logging.get_logger(__name__)


def default_cache_dir() -> Path:
    """`hf_transfer/features` under the Hugging Face home (`HF_HOME`)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "hf_transfer" / "features"


class Entry:
    """
    A table of `rows` rows on disk, cut into shards of `shard_rows` consecutive rows that are written one by one.

    Open it with [`Entry.open`]. The key is a checksum of the description, so whoever describes the same gets the same
    entry, and nothing else. Any number of processes may write to it at once: a shard is published whole or not at all.

    Args:
        folder (`Path`): where it lies; its name is the key.
        description (`Mapping[str, Any]`): what it holds.
        rows (`int`): of the table.
        shard_rows (`int`): of each shard but the last.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from datasets import Features, List, Value
        >>> folder = tempfile.TemporaryDirectory()
        >>> entry = Entry.open({"kind": "features"}, rows=3, shard_rows=2, cache_dir=folder.name)
        >>> entry.missing()
        [0, 1]
        >>> features = Features({"features": List(Value("float32"), length=4)})
        >>> for shard in entry.missing():
        ...     entry.write(shard, {"features": np.ones((len(entry.ranges()[shard]), 4), "float32")}, features)
        >>> entry.missing(), len(entry.dataset()), entry.rows_of("features")[2].tolist()
        ([], 3, [1.0, 1.0, 1.0, 1.0])
        >>> folder.cleanup()
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], *, rows: int, shard_rows: int):
        self.folder = folder
        self.key = folder.name
        self.description = dict(description)
        self.rows = rows
        self.shard_rows = shard_rows
        # Files whose bytes were read and found right, by what the file system says of them.
        self._verified: set[tuple[str, int, int, int]] = set()

    @classmethod
    def open(
        cls,
        description: Mapping[str, Any],
        *,
        rows: int,
        shard_rows: int,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Entry:
        """
        The entry of a description; its folder is made if there is none, and marked as used now.

        Args:
            description (`Mapping[str, Any]`):
                Everything that the content depends on, as JSON. `"kind"` says what the table is for.
            rows (`int`):
                Rows of the table.
            shard_rows (`int`):
                Rows per shard.
            cache_dir (`str` or `PathLike`, *optional*):
                Where entries lie; [`default_cache_dir`] by default.

        Raises:
            ValueError: if `rows` or `shard_rows` is out of range.
            TypeError: if the description is not JSON.
            PermissionError: if the folder cannot be made.
        """
        if rows < 0 or shard_rows < 1:
            raise ValueError(
                f"rows={rows} and shard_rows={shard_rows} describe no table - nothing can be stored - give rows >= 0 "
                "and shard_rows >= 1."
            )
        text = describe(description, rows=rows, shard_rows=shard_rows)
        # absolute, for worker processes in another folder
        folder = Path(cache_dir if cache_dir is not None else default_cache_dir()).absolute() / text_digest(text)
        # From the text, so that an entry opened anew and one read from its folder agree on tuples and numbers.
        entry = cls(folder, json.loads(text)["description"], rows=rows, shard_rows=shard_rows)
        entry._ensure()
        with contextlib.suppress(OSError):  # a cache that is only read
            os.utime(folder / DESCRIPTION)
        sweep(folder)
        return entry

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Entry:
        """
        The entry in a folder, by the description in it; does not count as use.

        Raises:
            ValueError: if the folder holds no description, or that of another entry.
        """
        folder = Path(folder)
        stored = read_description(folder)
        return cls(folder, stored["description"], rows=stored["rows"], shard_rows=stored["shard_rows"])

    def ranges(self) -> list[range]:
        """The rows of each shard. A table without rows has one shard, which holds its columns."""
        starts = range(0, max(self.rows, 1), self.shard_rows)
        return [range(start, min(start + self.shard_rows, self.rows)) for start in starts]

    def missing(self) -> list[int]:
        """
        The shards that have no valid file. All bytes of all files are read.

        Files whose bytes differ from their checksum, or that hold another number of rows, are deleted with a warning:
        their rows are then computed again.
        """
        files = shard_files(self.folder)
        missing = []
        for shard, rows in enumerate(self.ranges()):
            # every file is checked, also behind a valid one: whoever comes next may take it
            if not any([self._valid(path, len(rows), again=True) for path in files.get(shard, [])]):
                missing.append(shard)
        return missing

    def write(self, shard: int, columns: Mapping[str, Any], features: Features) -> None:
        """
        Store a shard, whole or not at all.

        Args:
            shard (`int`):
                Its number.
            columns (`Mapping[str, Any]`):
                By name the values of the rows `ranges()[shard]`: an array `(n, ...)`, a list of arrays that differ in
                their first dimension for `List(...)`, or anything that `datasets` encodes.
            features (`datasets.Features`):
                Types of the columns, the same for all shards.

        Raises:
            ValueError: if the columns do not fit.
            OSError: if the disk is full; no part of the shard is left. A `PermissionError` if the folder is closed.
        """
        ranges = self.ranges()
        if not 0 <= shard < len(ranges):
            raise ValueError(
                f"There is no shard {shard}, the table has {len(ranges)} - its rows would never be read - give a "
                "number that `missing()` names."
            )
        rows = ranges[shard]
        self._ensure()
        path = write_shard(self.folder, shard, features.arrow_schema, record_batches(columns, features, len(rows)))
        with contextlib.suppress(FileNotFoundError):
            self._verified.add(_signature(path))

    def dataset(self) -> Dataset:
        """
        The whole table, memory-mapped: rows as they were given, no bytes read yet.

        Raises:
            RuntimeError: if a shard is missing or damaged; if shards were written with different columns.
        """
        from datasets import Dataset
        from datasets.table import MemoryMappedTable, concat_tables

        files, chosen = shard_files(self.folder), []
        for shard, rows in enumerate(self.ranges()):
            # of several valid ones the first by name, so that all processes read the same numbers
            path = next((path for path in files.get(shard, []) if self._valid(path, len(rows))), None)
            if path is None:
                raise RuntimeError(
                    f"Shard {shard} of {len(self.ranges())} in {self.folder} is missing or damaged - the table would "
                    "lack its rows - write every shard that `missing()` names first."
                )
            chosen.append(path)
        tables = [MemoryMappedTable.from_file(str(path)) for path in chosen]
        if any(table.schema != tables[0].schema for table in tables):
            raise RuntimeError(
                f"The shards in {self.folder} hold different columns - they do not make one table - remove them with "
                f"`python -m hf_transfer cache prune --key {self.key}` and run again."
            )
        # The fingerprint is of the content: what `Dataset.map` caches on top is found again, and never wrongly.
        fingerprint = text_digest(" ".join([self.key, *(path.name for path in chosen)]))
        return Dataset(cast(Any, concat_tables(cast(Any, tables))), fingerprint=fingerprint)

    def rows_of(self, column: str) -> Rows:
        """Random access to the rows of a column, with no copy; see [`Rows`]."""
        return Rows(self.dataset(), column)

    def _ensure(self) -> None:
        """The folder and the description in it, also after it was pruned or altered."""
        text = describe(self.description, rows=self.rows, shard_rows=self.shard_rows).encode("utf-8")
        path = self.folder / DESCRIPTION
        try:
            if path.exists():
                if path.read_bytes() == text:
                    return
                logger.warning(f"{path} was altered. It is written anew; the shards have checksums of their own.")
            self.folder.mkdir(parents=True, exist_ok=True)
        except PermissionError as error:
            raise locked(error, self.folder) from error
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                error.errno,
                f"{self.folder.parent} is a file, or lies in one - the cache has no place there - give a folder as "
                "`cache_dir`.",
            ) from error
        publish(self.folder, lambda: DESCRIPTION, lambda file: file.write(text))

    def _valid(self, path: Path, rows: int, *, again: bool = False) -> bool:
        try:
            signature = _signature(path)
            if signature in self._verified and not again:
                return True
            damage = damage_of(path, rows)
        except FileNotFoundError:  # pruned by another process
            return False
        if damage is None:
            self._verified.add(signature)
            return True
        self._verified.discard(signature)
        logger.warning(f"{path} is damaged: {damage}. It is deleted; its rows are computed again when next needed.")
        with contextlib.suppress(OSError):  # deleted by another process, or not ours to delete: it is not read
            path.unlink()
        return False


def _signature(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns
