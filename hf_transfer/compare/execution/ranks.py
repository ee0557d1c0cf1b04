"""Several processes that share the runs of a comparison: each trains whole runs alone, and all know all results."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from torch import distributed

from hf_transfer.compare.cells import CellKey, CellResult
from hf_transfer.compare.execution.alone import alone, is_alone, meeting, position
from hf_transfer.files import whole_file


T = TypeVar("T")

_SIGHT = 5.0
"""Seconds that a new file may take to show on another machine."""

__all__ = ["alone", "check_shared_folder", "gather", "of_first", "position", "share", "shares", "together"]


def shares(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """
    Numbers of the runs for each rank: the longest goes first to the rank that has least to do.

    Args:
        costs (`Sequence[float]`): of the runs, in seconds or any unit.
        ranks (`int`): how many share them.

    Raises:
        ValueError: if a cost is negative or not finite.

    Example:
        >>> shares([1.0, 5.0, 2.0, 2.0], 2)
        [[1], [0, 2, 3]]
    """
    wrong = [cost for cost in costs if not (math.isfinite(cost) and cost >= 0)]
    if wrong:
        raise ValueError(
            f"A run costs {wrong[0]}: runs are shared by their costs, which must be finite and not negative. Pass an "
            "estimate in seconds, or no costs at all."
        )
    parts: list[list[int]] = [[] for _ in range(ranks)]
    # a run that costs nothing still takes its turn
    loads = [(0.0, 0, rank) for rank in range(ranks)]
    for number in sorted(range(len(costs)), key=lambda one: (-costs[one], one)):
        load, held, rank = min(loads)
        parts[rank].append(number)
        loads[rank] = (load + costs[number], held + 1, rank)
    return [sorted(part) for part in parts]


def share(cells: Sequence[T], costs: Sequence[float] | None = None) -> list[T]:
    """
    The part of the runs that this process does, in the order given. All processes must call it with the same runs.

    Args:
        cells (`Sequence`): runs, as [`CellKey`] or tuples of names: by what `repr` shows they are held to be the same.
        costs (`Sequence[float]`, *optional*): what each will take; those of the first process count, as estimates
            differ. By default all cost the same.

    Raises:
        RuntimeError: if processes were given different runs, or within [`alone`].
        ValueError: if there are not as many costs as runs, or a cost is negative or not finite.

    Example:
        >>> share(["probe", "full"], [1.0, 9.0])
        ['probe', 'full']
    """
    costs = [1.0] * len(cells) if costs is None else list(costs)
    if len(costs) != len(cells):
        raise ValueError(
            f"There are {len(cells)} runs and {len(costs)} costs: the longest runs are shared out first. Pass one "
            "cost for each run, or none."
        )
    rank, ranks = position()
    told = _exchange({"cells": [repr(cell) for cell in cells], "costs": costs})
    if any(other["cells"] != told[0]["cells"] for other in told):
        raise RuntimeError(
            f"The {ranks} ranks were given different runs ({', '.join(str(len(one['cells'])) for one in told)} of "
            "them): some would be done twice and others never. Start all with the same command and the same code."
        )
    return [cells[number] for number in shares(told[0]["costs"], ranks)[rank]]


def gather(results: Iterable[CellResult], *, error: Exception | None = None) -> list[CellResult]:
    """
    The results of all processes on every process, in the order of their keys. They wait for each other, as long as
    it takes.

    Args:
        results (`Iterable[CellResult]`): of this process.
        error (`Exception`, *optional*): that ended the part of this process; it is raised here, and the others learn
            of it.

    Raises:
        RuntimeError: if another process failed, or within [`alone`].

    Example:
        >>> cells = [CellResult(CellKey("m", name, 0), "f") for name in ("lora", "full")]
        >>> [cell.key.strategy for cell in gather(cells)]
        ['full', 'lora']
    """
    parts = _answers([result.to_json() for result in results], error)
    every = [CellResult.from_json(stored) for part in parts for stored in part]
    # a run that two ranks found finished counts once
    by_key: dict[CellKey, CellResult] = {}
    for result in every:
        by_key.setdefault(result.key, result)
    return [by_key[key] for key in sorted(by_key)]


def together(part: Callable[[], Iterable[CellResult]]) -> list[CellResult]:
    """
    Do the part of this process [`alone`], and [`gather`] the results. A part that fails does not keep the others
    waiting: once they are done, all processes raise.

    Args:
        part (`Callable`): does the runs that [`share`] gave, and returns their results.

    Raises:
        RuntimeError: if the part of another process failed; what this one's raised is raised as it is.

    Example:
        >>> together(lambda: [CellResult(CellKey("m", "full", 0), "f")])[0].key.strategy
        'full'
    """
    try:
        with alone():
            results = list(part())
    except Exception as error:
        return gather([], error=error)
    return gather(results)


def of_first(work: Callable[[], T]) -> T:
    """
    What the first process makes of something, alone, on every process; the others wait for it.

    Args:
        work (`Callable`): done on the first process only; returns plain values.

    Raises:
        RuntimeError: on the others if it failed; the first raises what it was.

    Example:
        >>> of_first(lambda: {"learning_rate": 1e-3})
        {'learning_rate': 0.001}
    """
    made: Any = None
    error: Exception | None = None
    if position()[0] == 0:
        try:
            with alone():
                made = work()
        except Exception as failure:
            error = failure
    return _answers(made, error)[0]


def check_shared_folder(folder: str | os.PathLike[str]) -> None:
    """
    See that all processes write to the same folder. Several machines must share it, by a network file system.

    Args:
        folder (`str` or path): of the comparison; it is made if there is none.

    Raises:
        OSError: on the first process if it cannot be written; on the others as a `RuntimeError`.
        RuntimeError: on all, if a file that the first process wrote is not seen by another.

    Example:
        >>> import tempfile
        >>> check_shared_folder(tempfile.mkdtemp())
    """
    _, ranks = position()
    if ranks == 1:
        return
    path = Path(folder)

    def write() -> str:
        name = f".seen-by-all-{uuid4().hex}"
        with whole_file(path / name) as unfinished:
            unfinished.touch()
        return name

    mark = path / of_first(write)
    sees = _exchange(_appears(mark))
    mark.unlink(missing_ok=True)
    blind = [str(rank) for rank, seen in enumerate(sees) if not seen]
    if blind:
        raise RuntimeError(
            f"Rank {', '.join(blind)} of {ranks} does not see what rank 0 writes to the output folder `{path.name}`: "
            "finished runs of the ranks would not find together. Put it on a file system that all machines share, "
            "and give all the same absolute path."
        )


def _appears(path: Path) -> bool:
    end = time.monotonic() + _SIGHT
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _answers(made: Any, error: Exception | None) -> list[Any]:
    """What all made, or an error on all if one failed."""
    reason = None if error is None else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    told = _exchange({"made": made, "reason": reason})
    if error is not None:
        raise error
    failed = [(rank, one["reason"]) for rank, one in enumerate(told) if one["reason"] is not None]
    if failed:
        rank, reason = failed[0]
        raise RuntimeError(
            f"Rank {rank} of {len(told)} failed ({reason}): its part of the comparison is missing. Remove the cause "
            "and start again; runs that were finished are kept."
        )
    return [one["made"] for one in told]


def _exchange(value: Any) -> list[Any]:
    if is_alone():
        raise RuntimeError(
            "The ranks were to meet within `alone()`, where this process sees no other: it would take its own part "
            "for the whole. Leave the block first."
        )
    ranks = position()[1]
    if ranks == 1:
        return [value]
    told: list[Any] = [None] * ranks
    distributed.all_gather_object(told, value, group=meeting())
    return told
