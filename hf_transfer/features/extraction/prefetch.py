"""Work that is done in threads while the model runs, its results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar


Job = TypeVar("Job")
Result = TypeVar("Result")

__all__ = ["ahead", "cores"]


def cores() -> int:
    """Cores this process may use."""
    # not on macOS and Windows
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def ahead(
    jobs: Iterable[Job], work: Callable[[Job], Result], *, threads: int, depth: int | None = None
) -> Iterator[tuple[Job, Result]]:
    """
    Each job with its result, in order; up to `depth` jobs are begun before their result is asked for.

    Args:
        jobs (`Iterable`):
            Taken up one by one, in the calling thread.
        work (`Callable`):
            Done in a thread. What it raises is raised here, and no more jobs are begun.
        threads (`int`):
            How many; with 0 the work is done in the calling thread.
        depth (`int`, *optional*):
            Bounds the results held; one more than threads by default.

    Example:
        >>> list(ahead([3, 4], lambda n: n * n, threads=2))
        [(3, 9), (4, 16)]
    """
    if threads == 0:
        for job in jobs:
            yield job, work(job)
        return
    depth = threads + 1 if depth is None else depth
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        try:
            for job in jobs:
                waiting.append((job, pool.submit(work, job)))
                if len(waiting) > depth:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
