"""What lies in the cache, and its removal."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_transfer.features.cache.description import DESCRIPTION
from hf_transfer.features.cache.entry import Entry, default_cache_dir
from hf_transfer.features.cache.shards import DAY, SHARD_NAME, TEMPORARY_NAME, shard_files, sweep


_KEY = re.compile(r"[0-9a-f]{32}")
_REMOVED = re.compile(r"\.removed-[0-9a-f]{32}-[0-9a-f]{12}")
# `Dataset.map` puts its own cache beside the files it reads.
_DERIVED = re.compile(r"cache-[0-9a-z_]+\.arrow|tmp[0-9a-z_]{8}")
_OURS = re.compile("|".join([re.escape(DESCRIPTION), SHARD_NAME.pattern, TEMPORARY_NAME.pattern, _DERIVED.pattern]))

__all__ = ["EntryInfo", "entries", "key_of", "prune"]


@dataclass(frozen=True)
class EntryInfo:
    """
    An entry as it lies on disk.

    Args:
        key (`str`): checksum of its description, and name of its folder.
        folder (`Path`): where it lies.
        description (`Mapping[str, Any]`): what it holds; empty if that cannot be read.
        rows (`int`): of the whole table.
        bytes (`int`): on disk.
        complete (`bool`): whether every shard has a file. [`verify`] reads their bytes.
        last_used (`float`): seconds since 1970.
    """

    key: str
    folder: Path
    description: Mapping[str, Any]
    rows: int
    bytes: int
    complete: bool
    last_used: float


def entries(cache_dir: str | os.PathLike[str] | None = None) -> list[EntryInfo]:
    """
    The entries of a cache, last used first. Folders that this package did not make are left out.

    Args:
        cache_dir (`str` or `PathLike`, *optional*): [`default_cache_dir`] by default.
    """
    found = [_info(folder) for folder in _folders(_cache(cache_dir))]
    return sorted((info for info in found if info is not None), key=lambda info: (-info.last_used, info.key))


def prune(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    keys: Iterable[str] | None = None,
    older_than_days: float | None = None,
    max_bytes: int | None = None,
    incomplete: bool = False,
    dry_run: bool = False,
) -> list[EntryInfo]:
    """
    Remove entries, and what killed processes left behind more than a day ago.

    An entry goes if any of the conditions given holds. Without a condition only left-overs go. Data sets that are in
    use stay readable on POSIX systems until they are closed.

    Args:
        cache_dir (`str` or `PathLike`, *optional*):
            [`default_cache_dir`] by default.
        keys (`Iterable[str]`, *optional*):
            These entries, by the beginning of their keys.
        older_than_days (`float`, *optional*):
            Entries not used for so many days.
        max_bytes (`int`, *optional*):
            The least recently used ones until the rest takes no more than this, in bytes.
        incomplete (`bool`, *optional*, defaults to `False`):
            Entries of which shards are missing.
        dry_run (`bool`, *optional*, defaults to `False`):
            Only say what would go.

    Returns:
        `list[EntryInfo]`: what was (would be) removed, least recently used first.

    Raises:
        ValueError: if no entry, or more than one, begins with one of `keys`.
    """
    cache = _cache(cache_dir)
    found = entries(cache)
    named = {key_of(found, key) for key in keys or ()}
    oldest = time.time() - older_than_days * DAY if older_than_days is not None else None
    chosen = {
        info.key
        for info in found
        if info.key in named or (incomplete and not info.complete) or (oldest is not None and info.last_used < oldest)
    }
    if max_bytes is not None:
        left = sum(info.bytes for info in found if info.key not in chosen)
        for info in reversed(found):
            if left <= max_bytes:
                break
            if info.key not in chosen:
                chosen.add(info.key)
                left -= info.bytes
    removed = [info for info in reversed(found) if info.key in chosen]
    if not dry_run:
        for info in removed:
            _remove(info.folder)
        _sweep(cache)
    return removed


def _cache(cache_dir: str | os.PathLike[str] | None) -> Path:
    return Path(cache_dir if cache_dir is not None else default_cache_dir()).absolute()


def _folders(cache: Path) -> list[Path]:
    """The folders in a cache that are entries, and nobody else's."""
    if not cache.is_dir():
        return []
    return [path for path in sorted(cache.iterdir()) if _KEY.fullmatch(path.name) and _is_ours(path)]


def _is_ours(folder: Path) -> bool:
    """Whether there is nothing in a folder that no entry has; a file that only looks like ours is not enough."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = set()
    for path in folder.iterdir():
        if path.is_symlink() or path.is_dir() or not _OURS.fullmatch(path.name):
            return False
        names.add(path.name)
    if DESCRIPTION not in names or any(SHARD_NAME.fullmatch(name) for name in names):
        return not names or not all(_DERIVED.fullmatch(name) for name in names)
    with contextlib.suppress(ValueError):
        Entry.from_folder(folder)
        return True
    return False


def _info(folder: Path) -> EntryInfo | None:
    size = 0
    try:
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # renamed by a writer
                size += path.stat().st_size
        described = folder / DESCRIPTION
        last_used = (described if described.exists() else folder).stat().st_mtime
    except FileNotFoundError:  # pruned by another process
        return None
    try:
        entry = Entry.from_folder(folder)
    except ValueError:
        return EntryInfo(folder.name, folder, {}, 0, size, False, last_used)
    complete = set(range(len(entry.ranges()))) <= set(shard_files(folder))
    return EntryInfo(folder.name, folder, entry.description, entry.rows, size, complete, last_used)


def key_of(found: list[EntryInfo], key: str) -> str:
    """The whole key of which `key` is the beginning."""
    matches = [info.key for info in found if key and info.key.startswith(key)]
    if len(matches) != 1:
        raise ValueError(
            f"{len(matches)} entries of the cache have a key that begins with {key!r} - which one is meant cannot be "
            "told - give more of a key that `python -m hf_transfer cache list` shows."
        )
    return matches[0]


def _remove(folder: Path) -> None:
    # Renamed first: nobody finds half an entry. Who has its files open keeps them.
    hidden = folder.with_name(f".removed-{folder.name}-{secrets.token_hex(6)}")
    try:
        os.replace(folder, hidden)
    except FileNotFoundError:  # by another process
        return
    except PermissionError as error:
        raise PermissionError(
            errno.EACCES,
            f"{folder} cannot be removed ({error.strerror}) - the cache is closed to this user - ask its owner "
            "to prune it, or give `cache_dir`.",
        ) from error
    shutil.rmtree(hidden)


def _sweep(cache: Path) -> None:
    for folder in _folders(cache):
        sweep(folder)
    if cache.is_dir():
        for path in cache.iterdir():
            if _REMOVED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)  # a killed `prune` did not come to its end
