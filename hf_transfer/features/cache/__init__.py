"""The disk cache of features: content-addressed tables that are written in shards and read memory-mapped."""

from __future__ import annotations

from hf_transfer.features.cache.entry import Entry, default_cache_dir
from hf_transfer.features.cache.listing import EntryInfo, entries, prune
from hf_transfer.features.cache.rows import Rows, matrix
from hf_transfer.features.cache.verification import Verification, verify


__all__ = [
    "Entry",
    "EntryInfo",
    "Rows",
    "Verification",
    "default_cache_dir",
    "entries",
    "matrix",
    "prune",
    "verify",
]
