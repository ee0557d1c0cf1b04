"""Two ranks fill one entry, and a killed run goes on: in processes of their own."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

from hf_transfer.features.extraction import extract as extraction
from tests.features.extraction.extraction_data import inputs_for, stack
from tests.launching import launch
from tests.models import tiny_bert


@pytest.mark.slow
def test_two_ranks_go_on_where_a_killed_process_stopped(tmp_path, monkeypatch):
    killed = launch("tests.features.extraction.extraction_ranks", tmp_path / "out", 2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    stored = sorted((tmp_path / "cache").glob("*/shard-*"))
    assert [path.name[:11] for path in stored] == ["shard-00000", "shard-00001"]
    done = launch("tests.features.extraction.extraction_ranks", tmp_path / "out", ranks=2)
    assert not done.returncode, done.stderr[-3000:]
    assert set(stored) < set((tmp_path / "cache").glob("*/shard-*"))  # untouched

    torch.manual_seed(0)
    monkeypatch.setattr(extraction, "shard_rows_for", lambda source, tokens: 5)
    model = tiny_bert()
    data = inputs_for(model, 23)
    single = extraction.extract_features(model, data, cache_dir=tmp_path / "single", progress=False)
    ranks = [np.load(tmp_path / f"out.{rank}.npz") for rank in range(2)]
    for rank in ranks:
        np.testing.assert_allclose(rank["features"], stack(single), atol=1e-6)
        assert rank["id"].tolist() == list(range(23)) and rank["labels"].tolist() == list(data["labels"])
    # five rows tried together and one alone; then shards 2 and 4, of 5 and 3 rows, and shard 3
    assert [int(rank["rows"]) for rank in ranks] == [6 + 5 + 3, 6 + 5]
