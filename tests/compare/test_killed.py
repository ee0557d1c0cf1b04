"""A comparison that is killed at random points comes to what it would have come to, and does nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import numpy as np
import pytest

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.execution import running
from hf_transfer.compare.execution import store as stores
from hf_transfer.compare.execution.store import CellStore
from tests.compare.tiny_cells import run_all


ROOT = Path(__file__).parents[2]


class KilledError(BaseException):
    """Nothing that happens after it in the process counts."""


def test_killed_at_random_points(tmp_path):
    draws = SystemRandom().randrange(10**6)
    done = subprocess.run(
        [sys.executable, "-m", "tests.compare.killed_cells", str(tmp_path), str(draws)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = json.loads(done.stdout.splitlines()[-1])
    whole, killed = (CellStore(tmp_path / name, {"steps": 3}) for name in ("whole", "killed"))
    cells = whole.cells()
    assert len(cells) == 4 and len(rounds) > 1, draws
    assert [(c.key, c.scores, c.status) for c in killed.cells()] == [(c.key, c.scores, c.status) for c in cells], draws
    for cell in cells:
        for split in ("validation", "test"):
            first, second = whole.predictions(cell.key, split), killed.predictions(cell.key, split)
            assert first is not None and second is not None
            assert first.logits.tobytes() == second.logits.tobytes(), (draws, cell.key, split)
        kept, again = (store.model_folder(cell.key) for store in (whole, killed))
        assert (kept is None) == (again is None), (draws, cell.key)
        if kept is not None and again is not None:
            name = "model.safetensors"
            assert (kept / name).read_bytes() == (again / name).read_bytes(), (draws, cell.key)
    begun = [line.split(" ", 1) for line in (tmp_path / "killed.log").read_text().splitlines()]
    for number, finished in enumerate(rounds):
        later = [name for told, name in begun if int(told) > number]
        assert not set(finished) & set(later), (draws, number)
    assert len({name for _, name in begun}) == 4


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (running, "latency_ms"),
        (stores, "save_file"),
        (stores, "whole_file"),
        (CellStore, "keep_best"),
    ],
)
def test_killed_in_each_phase_of_a_run(tmp_path, where, name, monkeypatch):
    """In the process itself: whatever would tidy up after the kill is kept from doing so."""
    folder, log = tmp_path / "killed", tmp_path / "log"
    key = CellKey("tiny", "full", 0)

    def killed(*_, **__):
        raise KilledError

    store = CellStore(folder, {})
    store.check_settings()
    with monkeypatch.context() as patched:
        clear, calls = CellStore.clear, []
        patched.setattr(CellStore, "clear", lambda *a: calls.append(1) or (len(calls) == 1 and clear(*a)))
        patched.setattr(where, name, killed)
        with pytest.raises(KilledError):
            run_all(store, log, seeds=1, only="full")
    finished = store.find(key, "f") is not None
    assert finished == (name == "keep_best")
    assert (store.place(key) / "model").is_dir()
    again = CellStore(folder, {})
    again.check_settings()
    cells = run_all(again, log, seeds=1, only="full")
    assert log.read_text().split().count("full") == (1 if finished else 2)
    assert all(cell.finished and again.model_folder(cell.key) is not None for cell in cells)
    logits = again.predictions(key, "test")
    assert logits is not None and np.isfinite(logits.logits).all()
    assert not [path for path in again.place(key).iterdir() if path.name.startswith(".")]
