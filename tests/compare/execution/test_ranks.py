"""Runs shared by several processes, and by one, which has them all."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_transfer.compare.cells import FAILED, CellResult, Costs
from hf_transfer.compare.execution import ranks
from tests.compare.comparing_ranks import CELLS, STEPS, trained
from tests.launching import launch


# --- how runs are shared


def test_no_share_is_longer_than_four_thirds_of_the_best():
    generator = np.random.default_rng(0)
    for _ in range(30):
        costs, count = generator.exponential(1.0, size=6).tolist(), int(generator.integers(2, 4))
        parts = ranks.shares(costs, count)
        assert sorted(itertools.chain(*parts)) == list(range(6)) and all(part == sorted(part) for part in parts)
        ways = itertools.product(range(count), repeat=6)
        best = min(
            max(sum(c for c, one in zip(costs, way, strict=True) if one == r) for r in range(count)) for way in ways
        )
        # Graham 1969: 4/3 - 1/3m times the best possible
        assert max(sum(costs[number] for number in part) for part in parts) <= (4 / 3 - 1 / (3 * count)) * best + 1e-12


@pytest.mark.parametrize(
    "costs, count, parts",
    [
        ([1.0] * 5, 2, [[0, 2, 4], [1, 3]]),
        ([0.0] * 4, 2, [[0, 2], [1, 3]]),
        ([4.0, 3.0, 3.0, 2.0], 2, [[0, 3], [1, 2]]),
        ([1.0], 3, [[0], [], []]),
        ([], 2, [[], []]),
    ],
)
def test_shares(costs, count, parts):
    assert ranks.shares(costs, count) == parts


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1.0])
def test_a_cost_that_is_none(cost):
    with pytest.raises(ValueError, match=r"A run costs .*must be finite and not negative. Pass an estimate"):
        ranks.shares([1.0, cost], 2)


def test_as_many_costs_as_runs():
    with pytest.raises(ValueError, match=r"3 runs and 2 costs: the longest .*Pass one cost for each run"):
        ranks.share(CELLS, [1.0, 2.0])


# --- one process


def test_one_process_has_it_all(tmp_path):
    cells = [CellResult(key, "f", scores={"validation_accuracy": 0.5, "x": None}, costs=Costs(2.0)) for key in CELLS]
    cells[1] = CellResult(CELLS[1], "f", status=FAILED, reason="out of memory")
    assert ranks.position() == (0, 1)
    assert ranks.share(CELLS[::-1]) == CELLS[::-1]
    assert ranks.gather(cells[::-1]) == cells == ranks.together(lambda: iter(cells))
    assert ranks.gather([*cells, cells[0]]) == cells
    assert ranks.of_first(lambda: 3) == 3
    ranks.check_shared_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_errors_of_one_process_are_its_own():
    def part():
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        ranks.together(part)
    with pytest.raises(KeyError, match="here"):
        ranks.of_first(part)


def test_an_interruption_waits_for_nobody(monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda *_, **__: pytest.fail("it waited"))

    def part():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranks.together(part)


# --- two processes


@pytest.mark.slow
def test_two_ranks_share_runs_as_one(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    done = launch("tests.compare.comparing_ranks", two, ranks=2)
    assert done.returncode == 0, done.stderr[-6000:]
    first, second = (json.loads((two / f"{rank}.json").read_text()) for rank in (0, 1))

    # nothing of the other is seen within, and nothing is lost by it
    for found in (first, second):
        assert found["within"].pop("gather").startswith("RuntimeError: The ranks were to meet within `alone()`")
        assert found["within"] == {
            "initialized": False,
            "variables": [],
            "ranks": [1, 0, 1],
            "main": True,
            "error": True,
        }
        assert found["put_back"] and found["put_back_again"]
        assert found["together"] == ["DistributedDataParallel", 2]
    assert first["first"] == second["first"] == {"who": 0}

    # the longest run on one, the two others on the other: weights and results are those of one process
    assert (first["mine"], second["mine"]) == ([1], [0, 2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = [trained(key, one) for key in CELLS]
    finally:
        torch.set_num_threads(threads)
    gathered = [CellResult.from_json(stored) for stored in first["gathered"]]
    assert first["gathered"] == second["gathered"] and gathered == expected
    assert [cell.steps for cell in gathered] == list(STEPS.values())
    for seed in STEPS:
        ours, theirs = load_file(two / f"{seed}.safetensors"), load_file(one / f"{seed}.safetensors")
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    # one that fails lets all know, and leaves none waiting
    assert second["failing"]["part"] == "ValueError: the second\n  rank"
    assert "Rank 1 of 2 failed (ValueError: the second rank): its part" in first["failing"]["part"]
    assert first["failing"]["first"] == "OSError: disk full"
    assert "Rank 0 of 2 failed (OSError: disk full)" in second["failing"]["first"]
    for found in (first, second):
        assert "The 2 ranks were given different runs (2, 3 of them)" in found["failing"]["runs"]
        assert "Start all with the same command" in found["failing"]["runs"]
        assert found["folders"]["shared"] == "None"
        assert "Rank 1 of 2 does not see what rank 0 writes" in found["folders"]["own"]
        assert "Put it on a file system that all machines share" in found["folders"]["own"]
    assert not [*(two / "shared").iterdir(), *(two / "own0").iterdir()]
