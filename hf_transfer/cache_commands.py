"""`python -m hf_transfer cache list|prune|verify`: what lies in the cache of features, its removal and its check."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from hf_transfer.features.cache import EntryInfo

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_SHORT_KEY = 12

__all__ = ["add_commands", "human_size", "parse_size", "run"]


def add_commands(subparsers: Any) -> None:
    """
    Add `cache` with its own commands to a command line.

    Args:
        subparsers (`argparse._SubParsersAction`): what `ArgumentParser.add_subparsers` returned.
    """
    parser = subparsers.add_parser("cache", help="list, prune or verify the cache of extracted features")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="what is stored, and how large it is")
    pruning = actions.add_parser("prune", help="remove entries; any of the conditions is enough")
    pruning.add_argument("--older_than_days", type=_days, metavar="DAYS", help="entries not used for so long")
    pruning.add_argument("--max_size", type=_size, metavar="SIZE", help="least recently used ones above it, as 2GB")
    pruning.add_argument("--incomplete", action="store_true", help="entries of which shards are missing")
    pruning.add_argument("--all", action="store_true", help="every entry")
    pruning.add_argument("--key", action="append", help="the entry whose key begins so; may be given several times")
    pruning.add_argument("--dry_run", action="store_true", help="only say what would be removed")
    checking = actions.add_parser("verify", help="read every byte and remove what is damaged")
    checking.add_argument("--key", action="append", help="only the entry whose key begins so")
    for action in (listing, pruning, checking):
        action.add_argument("--cache_dir", type=Path, help="where (default: hf_transfer/features in HF_HOME)")


def run(options: argparse.Namespace) -> str:
    """
    Carry out a command that [`add_commands`] parsed.

    Args:
        options (`argparse.Namespace`): with `action` and what belongs to it.

    Returns:
        `str`: what to print.

    Raises:
        ValueError: if `prune` is given no condition; if a key is not found.
        OSError: if the cache may not be changed.
        ImportError: if `datasets` is not installed.
    """
    return {"list": _list, "prune": _prune, "verify": _verify}[options.action](options)


def human_size(size: float) -> str:
    """
    A number of bytes for people, in powers of 1000 as disks are sold.

    Example:
        >>> human_size(999), human_size(1_536_000), human_size(2e9)
        ('999 B', '1.5 MB', '2.0 GB')
    """
    unit = 0
    # 999,950 would round to 1000.0 KB
    while size >= (999.95 if unit else 1000) and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:.0f} B"


def parse_size(text: str) -> int:
    """
    A number of bytes as people write it: powers of 1000, or of 1024 with an `i`.

    Raises:
        ValueError: if it is not one.

    Example:
        >>> parse_size("2GB"), parse_size("1.5 MiB"), parse_size("100")
        (2000000000, 1572864, 100)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?\s*", text.lower())
    if match is None or (match[3] and not match[2]):
        raise ValueError(
            f"{text!r} is not a size - how much to keep is not known - write a size such as 500MB or 2GB."
        )
    power = " kmgtp".index(match[2] or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:  # argparse shows the text of this error only
        raise argparse.ArgumentTypeError(str(error)) from error


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of days - which entries are old is not known - write a number such as 30."
        )
    return days


def _list(options: argparse.Namespace) -> str:
    from hf_transfer.features.cache import default_cache_dir, entries

    found = entries(options.cache_dir)
    place = options.cache_dir or default_cache_dir()
    if not found:
        return f"The cache in {place} is empty.\n"
    return f"{_table(found)}\n{_total(found)} in {place}\n"


def _prune(options: argparse.Namespace) -> str:
    from hf_transfer.features.cache import entries, prune

    conditions = (options.older_than_days, options.max_size, options.key)
    if not (options.all or options.incomplete or any(condition is not None for condition in conditions)):
        raise ValueError(
            "`cache prune` was given no condition - nothing would be removed - add --older_than_days 30, --max_size "
            "2GB, --incomplete, --key or --all; with --dry_run it only says what would go."
        )
    keys = [info.key for info in entries(options.cache_dir)] if options.all else options.key
    removed = prune(
        options.cache_dir,
        keys=keys,
        older_than_days=options.older_than_days,
        max_bytes=options.max_size,
        incomplete=options.incomplete,
        dry_run=options.dry_run,
    )
    done = "Would remove" if options.dry_run else "Removed"
    return f"{_table(removed)}\n{done} {_total(removed)}\n" if removed else f"{done} nothing.\n"


def _verify(options: argparse.Namespace) -> str:
    from hf_transfer.features.cache import verify

    results = verify(options.cache_dir, keys=options.key)
    lines = []
    for result in results:
        whole = result.shards - len(result.missing)
        state = f"{whole} of {result.shards} shards valid" if result.shards else "description damaged"
        lines.append(f"{result.key[:_SHORT_KEY]}  {state}")
        lines += [f"  removed {name}" for name in result.removed]
    damaged = sum(len(result.removed) for result in results)
    ending = f"{_plural(damaged, 'damaged file')} removed; what is missing is computed when next needed"
    lines.append(f"{_plural(len(results), 'entry', 'entries')} read, {ending if damaged else 'no damaged file'}.")
    return "\n".join(lines) + "\n"


def _table(found: Sequence[EntryInfo]) -> str:
    now = time.time()
    rows = [("key", "kind", "model", "tap", "rows", "size", "complete", "last used")]
    for info in found:
        kind, model, taps = (_text(info.description, *names) for names in (("kind",), ("model",), ("taps", "tap")))
        state = ("yes" if info.complete else "no") if info.description else "damaged"
        used = _ago(now - info.last_used)
        rows.append((info.key[:_SHORT_KEY], kind, model, taps, f"{info.rows:,}", human_size(info.bytes), state, used))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {4, 5}
    lines = (
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _text(description: Mapping[str, Any], *names: str) -> str:
    """A field of a description in a cell, whatever wrote it."""
    value = next((description[name] for name in names if name in description), None)
    if isinstance(value, (list, tuple)):
        # a tap is its column, its module and its pooling
        value = ", ".join(str(item[0] if isinstance(item, (list, tuple)) and item else item) for item in value)
    elif isinstance(value, Mapping):
        value = value.get("name")
    text = " ".join(str(value).split()) if value not in (None, "") else "-"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _total(found: Iterable[EntryInfo]) -> str:
    found = list(found)
    return f"{_plural(len(found), 'entry', 'entries')}, {human_size(sum(info.bytes for info in found))}"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{_plural(int(seconds // length), unit)} ago"
    return "just now"
