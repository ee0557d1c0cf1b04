"""The files of a cache entry: each is published whole, under a name that carries the checksum of its bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from hf_transfer.features.cache.checksums import new_checksum


DAY = 24 * 3600.0
"""Seconds after which a temporary file counts as left over by a killed writer."""

SHARD_NAME = re.compile(r"shard-(\d{5,})-([0-9a-f]{32})\.arrow")
TEMPORARY_NAME = re.compile(r"\.writing-.+\.tmp")

_CHUNK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKED = {errno.EACCES, errno.EPERM, errno.EROFS}

__all__ = [
    "DAY",
    "SHARD_NAME",
    "TEMPORARY_NAME",
    "damage_of",
    "locked",
    "publish",
    "shard_files",
    "sweep",
    "write_shard",
]


class _HashingFile:
    """A file for Arrow to write to that takes the checksum of what passes."""

    def __init__(self, file: BinaryIO, checksum: Any):
        self.file = file
        self.checksum = checksum
        self.closed = False

    def write(self, data: Any) -> int:
        self.checksum.update(data)
        self.file.write(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def write_shard(folder: Path, shard: int, schema: Any, batches: Iterable[Any]) -> Path:
    """
    Write record batches as one shard and publish it: whole, or not at all.

    The bytes go to a temporary file in `folder` that is flushed to the disk and renamed to
    `shard-<number>-<checksum>.arrow`. A killed writer leaves a temporary file and nothing else.

    Args:
        folder (`Path`): of the entry; must exist.
        shard (`int`): number of the shard.
        schema (`pyarrow.Schema`): of the batches.
        batches (`Iterable[pyarrow.RecordBatch]`): the rows, in order.

    Raises:
        OSError: if the disk is full; nothing is left behind. A `PermissionError` if the folder is not writable.
    """
    import pyarrow as pa

    checksum = new_checksum()

    def fill(file: BinaryIO) -> None:
        with pa.PythonFile(_HashingFile(file, checksum), mode="w") as sink:
            with pa.ipc.new_stream(sink, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)

    return publish(folder, lambda: f"shard-{shard:05d}-{checksum.hexdigest()}.arrow", fill)


def publish(folder: Path, name: Callable[[], str], fill: Callable[[BinaryIO], Any]) -> Path:
    """
    Write a file under a temporary name and rename it once it is on the disk.

    Args:
        folder (`Path`): where.
        name (`Callable`): its name, asked for when its content is known.
        fill (`Callable`): writes the content to the file it is given.

    Raises:
        OSError: see [`write_shard`].
    """
    temporary = folder / f".writing-{os.getpid()}-{secrets.token_hex(6)}.tmp"
    try:
        # `open` and not `tempfile`: the file gets the permissions of the umask, so that a group can share a cache.
        with open(temporary, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / name()
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        told = _explained(error, folder) if isinstance(error, OSError) else None
        if told is None:
            raise
        raise told from error
    _sync_folder(folder)
    return path


def shard_files(folder: Path) -> dict[int, list[Path]]:
    """The files of each shard by its number, in the order of their names; more than one where two writers met."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("shard-*.arrow")):
        match = SHARD_NAME.fullmatch(path.name)
        if match:
            found.setdefault(int(match[1]), []).append(path)
    return found


def damage_of(path: Path, rows: int) -> str | None:
    """
    What is wrong with a shard, told from all of its bytes; `None` if nothing is.

    Args:
        path (`Path`): the shard.
        rows (`int`): how many rows it must hold.

    Raises:
        FileNotFoundError: if it was removed meanwhile.
        PermissionError: if it may not be read.
    """
    import pyarrow as pa

    match = SHARD_NAME.fullmatch(path.name)
    try:
        checksum = _checksum(path)
        if match is None or checksum != match[2]:
            return "its bytes do not match its checksum"
        with pa.memory_map(str(path)) as source:
            held = sum(batch.num_rows for batch in pa.ipc.open_stream(source))
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise locked(error, path.parent) from error
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read ({error})"
    return None if held == rows else f"it holds {held} rows in place of {rows}"


def sweep(folder: Path, *, older_than: float = DAY) -> None:
    """Remove the temporary files that killed writers left in a folder, older than so many seconds."""
    for path in folder.glob(".writing-*.tmp"):
        with contextlib.suppress(OSError):
            if TEMPORARY_NAME.fullmatch(path.name) and time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def _checksum(path: Path) -> str:
    checksum = new_checksum()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum.update(view[:count])
    return checksum.hexdigest()


def _sync_folder(folder: Path) -> None:
    # Makes the new name survive a power cut. Some file systems, and Windows, cannot open a folder.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explained(error: OSError, folder: Path) -> OSError | None:
    """The error to raise in place of one that needs more words; `None` if it does not."""
    if error.errno in _FULL:
        return OSError(
            error.errno,
            f"The disk of {folder} is full ({os.strerror(error.errno)}) - this part of the cache was not stored, what "
            "was stored before stays valid - make room with `python -m hf_transfer cache prune --max_size 2GB`, or "
            "give `cache_dir` on another disk.",
        )
    if error.errno in _LOCKED:
        return locked(error, folder)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(
            error.errno,
            f"{folder} was removed while it was written to, as by `cache prune` - this part of the cache was not "
            "stored - run again.",
        )
    return None


def locked(error: OSError, folder: Path) -> PermissionError:
    """The error to raise where a folder of the cache may not be read or written."""
    return PermissionError(
        errno.EACCES,
        f"{folder} is closed to this user ({error.strerror}) - the cache can neither be read nor completed there - "
        "give `cache_dir` in a folder of your own, or set HF_HOME.",
    )
