"""Two ranks share the rows of one entry, which is that of one rank bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.teacher import cache
from tests.launching import launch
from tests.teacher.cache_ranks import said


@pytest.mark.slow
def test_two_ranks_fill_one_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "shard_rows_for", cache.shard_rows_for)  # put back afterwards
    done = launch("tests.teacher.cache_ranks", tmp_path / "out", ranks=2)
    assert not done.returncode, done.stderr[-3000:]
    ranks = [np.load(tmp_path / f"out.{rank}.npz") for rank in range(2)]
    assert [rank["written"].tolist() for rank in ranks] == [[0, 2, 4], [1, 3]]
    single = said(tmp_path / "single")
    for rank in ranks:
        np.testing.assert_array_equal(rank["logits"], single)
    # the same entry: whoever asks next computes nothing
    keys = [path.name for name in ("cache", "single") for path in (tmp_path / name).iterdir()]
    assert len(set(keys)) == 1
