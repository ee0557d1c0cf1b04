"""
A comparison of tiny runs that is killed again and again, and one that is not.

Run as a program, with a folder and a number of random draws as arguments: forking is safe here, where no thread has
started. Prints JSON: what was finished at the end of each round.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import sklearn.metrics  # noqa: F401 (once, not in every child)
import torch
import transformers

from hf_transfer.compare.execution.store import CellStore
from tests.compare.tiny_cells import run_all


KILLS = 4
SEEDS = 2


def compare(folder: Path, log: Path, told: str) -> None:
    store = CellStore(folder, {"steps": 3})
    store.check_settings()
    run_all(store, log, seeds=SEEDS, told=told)


def forked(folder: Path, log: Path, told: str, seconds: float | None) -> tuple[bool, float]:
    """Whether a child has come to its end within the time, and how long it took; else it is killed."""
    start, pid = time.monotonic(), os.fork()
    if pid == 0:
        try:
            compare(folder, log, told)
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, status
            return True, time.monotonic() - start
        if seconds is not None and time.monotonic() - start > seconds:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False, seconds
        time.sleep(0.001)


def main(folder: Path, draws: random.Random) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gc.freeze()  # what is here is no garbage of a child
    log = folder / "killed.log"
    _, seconds = forked(folder / "whole", folder / "whole.log", "0", None)
    rounds = []
    for number in range(KILLS + 1):
        limit = None if number == KILLS else draws.uniform(0.0, 0.5 * seconds)
        done, _ = forked(folder / "killed", log, str(number), limit)
        cells = CellStore(folder / "killed", {}).cells()
        rounds.append([f"{cell.key.strategy} {cell.key.seed}" for cell in cells])
        if done:
            break
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(Path(sys.argv[1]), random.Random(sys.argv[2]))
