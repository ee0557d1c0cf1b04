"""A ranking on two ranks, in processes of their own."""

from __future__ import annotations

import json

import pytest

from tests.launching import launch
from tests.selection.ranks import ranked


@pytest.mark.slow
def test_two_ranks_give_the_table_of_one_and_one_of_them_writes(tmp_path):
    done = launch("tests.selection.ranks", tmp_path, ranks=2)
    assert not done.returncode, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["table"] == second["table"] == ranked(tmp_path, "alone").table()
    # once for each candidate and baseline
    assert first["written"] == ["results.json"] * 4 and second["written"] == []
    found, alone = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "alone"))
    assert found["settings"] == alone["settings"]
    assert [own["name"] for own in found["outcomes"]] == ["good", "blind", "majority", "raw inputs"]
