"""What says which entry of the cache is which: canonical JSON, whose checksum is the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_transfer.features.cache.checksums import text_digest


DESCRIPTION = "description.json"
FORMAT = 1
"""Of the files; part of the key, so that entries of another format are neither read nor damaged."""

__all__ = ["DESCRIPTION", "FORMAT", "describe", "read_description"]


def describe(description: Mapping[str, Any], *, rows: int, shard_rows: int) -> str:
    """
    The canonical JSON of an entry.

    Args:
        description (`Mapping[str, Any]`): everything that the content depends on.
        rows (`int`): of the table.
        shard_rows (`int`): rows per shard.

    Raises:
        TypeError: if the description is not JSON.
    """
    whole = {"format": FORMAT, "rows": rows, "shard_rows": shard_rows, "description": description}
    try:
        return json.dumps(whole, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"The description of a cache entry is not JSON ({error}) - its key would not be the same in the next run "
            "- describe objects by names, numbers and digests, such as `weights_digest(model)`."
        ) from error


def read_description(folder: Path) -> dict[str, Any]:
    """
    What [`describe`] wrote into a folder: `rows`, `shard_rows` and `description`.

    Raises:
        ValueError: if there is none, or its checksum is not the folder's name.
    """
    try:
        stored = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        text = describe(stored["description"], rows=stored["rows"], shard_rows=stored["shard_rows"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unknown(folder) from error
    if text_digest(text) != folder.name:
        raise _unknown(folder)
    return stored


def _unknown(folder: Path) -> ValueError:
    return ValueError(
        f"{folder} holds no valid {DESCRIPTION} - what its shards hold is not known - run what wrote it again, which "
        "restores it, or remove it with `python -m hf_transfer cache prune --incomplete`."
    )
