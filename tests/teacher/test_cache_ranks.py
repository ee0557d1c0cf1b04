"""Two ranks share the rows of one entry, which is that of one rank bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_transfer.teacher import cache
from tests.teacher.cache_ranks import said


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_fill_one_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "shard_rows_for", cache.shard_rows_for)  # put back afterwards
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "tests.teacher.cache_ranks", str(tmp_path / "out")],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-3000:]
    ranks = [np.load(tmp_path / f"out.{rank}.npz") for rank in range(2)]
    assert [rank["written"].tolist() for rank in ranks] == [[0, 2, 4], [1, 3]]
    single = said(tmp_path / "single")
    for rank in ranks:
        np.testing.assert_array_equal(rank["logits"], single)
    # the same entry: whoever asks next computes nothing
    keys = [path.name for name in ("cache", "single") for path in (tmp_path / name).iterdir()]
    assert len(set(keys)) == 1
