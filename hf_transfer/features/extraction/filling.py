"""The loop that fills shards of an entry of the cache: windows read ahead, batches collated beside the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from transformers.utils import logging

from hf_transfer.features.extraction.inputs import Source
from hf_transfer.features.extraction.prefetch import ahead
from hf_transfer.features.extraction.steady import Grouping, batches_of
from hf_transfer.features.extraction.text_rows import Batch


Rows = TypeVar("Rows")

__all__ = ["fill"]


def fill(
    source: Source,
    ranges: Sequence[range],
    shards: Sequence[int],
    *,
    start: Callable[[range], Rows],
    add: Callable[[Rows, Batch], None],
    write: Callable[[int, Any, Rows], None],
    grouping: Grouping,
    batch_size: int,
    workers: int,
    bar: bool,
    title: str = "Extracting features",
    even: bool = False,
) -> None:
    """
    Run over the rows of some shards, one shard after the other.

    Args:
        source (`Source`):
            The data.
        ranges (`Sequence[range]`):
            Rows of every shard of the entry.
        shards (`Sequence[int]`):
            Those to fill.
        start (`Callable`):
            What gathers the rows of a shard.
        add (`Callable`):
            Adds what is made of a batch to it.
        write (`Callable`):
            Stores a shard: its number, its window and what was gathered.
        grouping (`str`):
            Which rows may share a batch.
        batch_size (`int`):
            Most rows per forward.
        workers (`int`):
            Threads that prepare rows.
        bar (`bool`):
            Show progress.
        title (`str`, *optional*):
            In front of it.
        even (`bool`, *optional*, defaults to `False`):
            Fill up the last batch of a shard with a row of its own, so that all have `batch_size` rows.
    """
    rows = sum(len(ranges[shard]) for shard in shards)
    with logging.tqdm(total=rows, unit=" examples", desc=title, disable=not bar) as shown:
        # the next window is tokenised while the model runs on this one
        windows = ahead(shards, lambda shard: source.window(ranges[shard]), threads=min(workers, 1), depth=1)
        jobs = _jobs(windows, batch_size, grouping)
        threads = workers if source.kind == "fetched" else 0  # padding takes no time
        fill_up = batch_size if even and grouping == "any" else 0

        def collate(job: Any) -> list[Batch]:
            positions = job[2]
            return job[1].collate(np.pad(positions, (0, max(0, fill_up - len(positions))), mode="edge"))

        gathered: Rows | None = None
        for (shard, window, positions, last), batches in ahead(jobs, collate, threads=threads):
            gathered = start(ranges[shard]) if gathered is None else gathered
            for batch in batches:
                add(gathered, batch)
            shown.update(len(positions))
            if last:
                write(shard, window, gathered)
                gathered = None


def _jobs(
    windows: Iterator[tuple[int, Any]], batch_size: int, grouping: Grouping
) -> Iterator[tuple[int, Any, np.ndarray, bool]]:
    """Shard, window and positions of every batch, and whether it is the last of its shard."""
    for shard, window in windows:
        batches = batches_of(window, batch_size, grouping)
        for number, positions in enumerate(batches, 1):
            yield shard, window, positions, number == len(batches)
