"""The cache read through, byte by byte."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hf_transfer.features.cache.entry import Entry
from hf_transfer.features.cache.listing import entries, key_of
from hf_transfer.features.cache.shards import shard_files


__all__ = ["Verification", "verify"]


@dataclass(frozen=True)
class Verification:
    """
    What [`verify`] found in an entry.

    Args:
        key (`str`): of the entry.
        shards (`int`): it should have.
        missing (`list[int]`): shards without a valid file, the damaged ones among them.
        removed (`list[str]`): names of the damaged files, which were deleted.
    """

    key: str
    shards: int
    missing: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def verify(
    cache_dir: str | os.PathLike[str] | None = None, *, keys: Iterable[str] | None = None
) -> list[Verification]:
    """
    Read every byte of the cache and delete the files that are damaged, with a warning for each.

    Args:
        cache_dir (`str` or `PathLike`, *optional*): [`default_cache_dir`] by default.
        keys (`Iterable[str]`, *optional*): only these entries, by the beginning of their keys.

    Raises:
        ValueError: if no entry, or more than one, begins with one of `keys`.
    """
    found = entries(cache_dir)
    named = {key_of(found, key) for key in keys} if keys is not None else {info.key for info in found}
    results = []
    for info in found:
        if info.key not in named:
            continue
        if not info.description:
            results.append(Verification(info.key, 0))
            continue
        entry = Entry.from_folder(info.folder)
        before = _names(info.folder)
        missing = entry.missing()
        results.append(Verification(info.key, len(entry.ranges()), missing, sorted(before - _names(info.folder))))
    return results


def _names(folder: Path) -> set[str]:
    return {path.name for paths in shard_files(folder).values() for path in paths}
