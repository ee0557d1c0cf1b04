from __future__ import annotations

import pytest
import torch

from tests.frozen_prefix import ranks
from tests.launching import launch


@pytest.mark.slow
def test_two_ranks_store_half_each_and_train_as_one_without_a_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_transfer.frozen_prefix.table._MOST_ROWS", 3)  # put back what the run below changes
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    ranks.run(str(tmp_path / "one" / "run"), cache=False)
    done = launch("tests.frozen_prefix.ranks", tmp_path / "two" / "run", ranks=2)
    assert done.returncode == 0, done.stderr
    assert "without the frozen-prefix cache" not in done.stderr
    alone = torch.load(tmp_path / "one" / "run.0")
    pair = [torch.load(tmp_path / "two" / f"run.{rank}") for rank in (0, 1)]
    torch.testing.assert_close(torch.tensor(pair[0]["losses"]), torch.tensor(alone["losses"]), rtol=1e-4, atol=1e-5)
    for name, value in alone["weights"].items():
        for one in pair:
            torch.testing.assert_close(one["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    # The frozen block ran 16 rows in each of 6 epochs. With the cache each rank stores half of the rows twice, proves
    # with five, and runs its half of the rows in what is left of the last phase.
    assert alone["rows"] == 6 * 16
    assert all(one["rows"] <= 2 * (9 + 5) + 12 for one in pair)
    rows = [len(list(folder.glob("shard-*"))) for folder in (tmp_path / "two" / "cache").iterdir()]
    assert rows == [6, 6]
