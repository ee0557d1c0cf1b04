"""The range test and the search on two ranks."""

from __future__ import annotations

import json

import pytest

from tests.launching import launch


@pytest.mark.slow
def test_two_ranks_sweep_and_search_as_one(tmp_path):
    pytest.importorskip("optuna")
    done = launch("tests.tuning_ranks", tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # every rank has the mean loss, stops at the same step, and trains afterwards as if nothing had been
    assert first == second and len(first["losses"]) == 9 and first["same"]
    # a trial of bad settings fails on both, and neither waits for the other
    assert set(first["search"]["states"]) == {"complete", "fail"}
    assert first["search"]["settings"].keys() == {"learning_rate", "freeze"}
    assert first["search"]["settings"]["freeze"] == "none"
