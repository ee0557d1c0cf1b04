"""Processes that write to one cache entry, are killed, fill the disk or meet a closed folder.

Run as a program, with a folder as argument: forking is safe here, where no thread has started. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from hf_transfer.features.cache import Entry
from hf_transfer.features.cache.shards import shard_files


WIDTH = 256
SHARD_ROWS = 512
FEATURES = Features({"features": List(Value("float32"), length=WIDTH), "id": Value("int64")})


def open_entry(cache: Path, name: str, shards: int) -> Entry:
    return Entry.open({"name": name}, rows=shards * SHARD_ROWS, shard_rows=SHARD_ROWS, cache_dir=cache)


def values(rows: range, noise: float = 0.0) -> dict[str, np.ndarray]:
    number = np.arange(rows.start, rows.stop)
    features = np.outer(number, np.ones(WIDTH)) + np.arange(WIDTH) + noise
    return {"features": features.astype(np.float32), "id": number}


def right(entry: Entry, shard: int) -> bool:
    """Whether the rows of a published shard are those that belong there, up to the noise of a writer."""
    expected = values(entry.ranges()[shard])
    for path in shard_files(entry.folder)[shard]:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_stream(source).read_all().combine_chunks()
        features = table.column("features").chunk(0).flatten().to_numpy().reshape(-1, WIDTH)
        if not np.array_equal(table.column("id"), expected["id"]):
            return False
        if features.shape != expected["features"].shape or np.abs(features - expected["features"]).max() > 1e-2:
            return False
    return True


def child(work: Callable[[], None]) -> int:
    """A process that does `work` and ends with the number of its error, or 0."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(error.errno or 255)
    except BaseException as error:  # noqa: BLE001
        sys.stderr.write(f"{error!r}\n")
        os._exit(255)


def killed_writers(cache: Path, rounds: int = 10) -> dict:
    """Kill writers at random points, each after it has published something, then write what is missing."""
    shards = 12
    report = {"torn": 0, "wrong": 0, "misreported": 0}
    published: dict[int, list[Path]] = {}
    for turn in range(rounds):
        entry = open_entry(cache, "killed", shards)
        order = random.Random(turn)

        def write(entry: Entry = entry, order: random.Random = order) -> None:
            while True:  # it never ends before it is killed
                shard = order.randrange(shards)
                entry.write(shard, values(entry.ranges()[shard]), FEATURES)

        def inodes(entry: Entry = entry) -> set[int]:
            return {path.stat().st_ino for path in entry.folder.glob("shard-*")}

        before, pid, deadline = inodes(), child(write), time.monotonic() + 20
        while inodes() <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(order.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        published = shard_files(entry.folder)
        report["torn"] = len(list(entry.folder.glob(".writing-*.tmp")))
        report["misreported"] += entry.missing() != [shard for shard in range(shards) if shard not in published]
        report["wrong"] += sum(not right(entry, shard) for shard in published)
    report["published_by_the_killed"] = len(published)
    for shard in entry.missing():
        entry.write(shard, values(entry.ranges()[shard]), FEATURES)
    report["complete_and_right"] = np.array_equal(
        np.asarray(entry.dataset().with_format("numpy")["id"]), np.arange(shards * SHARD_ROWS)
    )
    return report


def two_writers(cache: Path, shards: int = 12) -> dict:
    """Both write every shard at once, with noise of their own."""

    def writer(noise: float) -> Callable[[], None]:
        def write() -> None:
            entry = open_entry(cache, "two", shards)
            for shard, rows in enumerate(entry.ranges()):
                entry.write(shard, values(rows, noise), FEATURES)

        return write

    ends = [os.waitpid(pid, 0)[1] for pid in [child(writer(0.0)), child(writer(1e-3))]]
    entry = open_entry(cache, "two", shards)
    chosen = {open_entry(cache, "two", shards).dataset()._fingerprint for _ in range(3)}
    return {
        "ends": ends,
        "missing": entry.missing(),
        "wrong": sum(not right(entry, shard) for shard in range(shards)),
        "files": sum(len(files) for files in shard_files(entry.folder).values()),
        "readings": len(chosen),
        "left_over": len(list(entry.folder.glob(".writing-*"))),
    }


def full_disk(cache: Path) -> dict:
    """A writer that may write files of 100 kB only: its second shard does not fit."""
    entry = open_entry(cache, "full", 2)

    def write() -> None:
        entry.write(0, values(entry.ranges()[0]), FEATURES)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        entry.write(1, values(entry.ranges()[1]), FEATURES)

    status = os.waitpid(child(write), 0)[1]
    left_over = len(list(entry.folder.glob(".writing-*")))
    return {"errno": os.waitstatus_to_exitcode(status), "missing": entry.missing(), "left_over": left_over}


def closed_folder(cache: Path) -> dict:
    """A user who may read the folder and not write to it."""
    whole, part = open_entry(cache, "whole", 1), open_entry(cache, "part", 2)
    for entry in (whole, part):
        entry.write(0, values(entry.ranges()[0]), FEATURES)
        entry.folder.chmod(0o555)

    def reads() -> None:
        drop_rights()
        entry = open_entry(cache, "whole", 1)
        assert entry.missing() == []
        assert len(entry.rows_of("features")) == SHARD_ROWS

    def writes() -> None:
        drop_rights()
        entry = open_entry(cache, "part", 2)
        assert entry.missing() == [1]
        entry.write(1, values(entry.ranges()[1]), FEATURES)

    def makes() -> None:
        drop_rights()
        cache.chmod(0o555) if os.geteuid() == cache.stat().st_uid else None
        open_entry(cache, "new", 1)

    def drop_rights() -> None:
        if os.geteuid() == 0:  # nothing is closed to root
            os.setuid(65534)

    report = {work.__name__: os.waitpid(child(work), 0)[1] >> 8 for work in (reads, writes, makes)}
    for folder in (whole.folder, part.folder, cache):
        folder.chmod(0o755)
    return report


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.chmod(0o755)
    print(
        json.dumps({work.__name__: work(folder) for work in (killed_writers, two_writers, full_disk, closed_folder)})
    )
