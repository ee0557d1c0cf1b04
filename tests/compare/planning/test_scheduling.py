"""Which runs come when: cheapest first, seed by seed, halving, budgets that hold, the same after interruptions."""

from __future__ import annotations

import os
import random

import pytest

from hf_transfer.compare.cells import FAILED, FINISHED, SKIPPED, CellKey
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.planning import sessions
from hf_transfer.compare.planning.budget import Budget
from hf_transfer.compare.planning.scheduling import run_comparison, run_curve
from tests.compare.planned_runs import EVERY, FULL, LORA, MAJORITY, PROBE, RATES, SCRATCH, Killed, World, loop


SCORES = {"majority": 5, "scratch": 8, "probe": 15, "full": 18, "gradual": 12, "l2sp": 17, "lora": 16}


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # thousands of small files, none of which must outlive a crash

    def made(scores=SCORES, **options):
        made = World(dict(scores), **options)
        monkeypatch.setattr(sessions, "run_cell", made.run_cell)
        return made

    return made


def _told(results):
    return {key: (result.status, dict(result.scores), result.reason) for key, result in results.items()}


def test_everything_runs_without_a_budget(world, tmp_path):
    here = world()
    results = here.compare(tmp_path)
    assert {result.status for result in results.values()} == {FINISHED}
    assert list(results) == [(strategy.name, seed) for strategy in EVERY for seed in range(3)]  # the table's order
    first = ["majority", "probe", "scratch", "full", "gradual", "l2sp", "lora"]  # what trains nothing comes first
    assert here.order() == [f"{name} {seed}" for seed in range(3) for name in first]


def test_every_run_gets_the_rate_of_its_kind(world, tmp_path):
    here = world()
    here.compare(tmp_path, [FULL, LORA, SCRATCH], seeds=[0])
    assert here.rates == [1e-4, 1e-3, 1e-3]


def test_halving_gives_later_seeds_to_the_better_half(world, tmp_path):
    here = world()
    results = here.compare(tmp_path, halving=True)
    # 5 contenders, then 3, then 2; transfer is decided after the first seed (18 of 20 against 8)
    assert here.order()[7:] == ["majority 1", "full 1", "l2sp 1", "lora 1", "majority 2", "full 2", "l2sp 2"]
    assert results["lora", 2].status == results["probe", 1].status == SKIPPED
    assert results["probe", 1].reason == "halving: others were better with the seeds before"
    assert results["scratch", 1].reason == "halving: transfer was decided before"


def test_scratch_is_kept_while_transfer_is_open(world, tmp_path):
    here = world({**SCORES, "scratch": 17})
    here.compare(tmp_path, halving=True)
    assert "scratch 1" in here.order() and "scratch 2" in here.order()


def test_ties_go_to_what_trains_fewer_weights(world, tmp_path):
    here = world(dict.fromkeys(SCORES, 10))
    here.compare(tmp_path, [FULL, LORA, PROBE], seeds=[0, 1, 2], halving=True)
    assert here.order() == ["probe 0", "full 0", "lora 0", "probe 1", "lora 1", "probe 2"]


def test_one_strategy_alone_is_never_dropped(world, tmp_path):
    here = world()
    assert {one.status for one in here.compare(tmp_path, [FULL], halving=True).values()} == {FINISHED}


def test_a_failed_strategy_is_a_row_and_the_rest_goes_on(world, tmp_path):
    here = world(broken={"full"})
    results = here.compare(tmp_path, halving=True)
    assert results["full", 0].status == FAILED and results["full", 0].reason == "ran out of memory"
    assert results["full", 1].status == SKIPPED and results["full", 1].reason == "the run with the first seed failed"
    assert results["l2sp", 2].status == FINISHED


def test_all_may_fail(world, tmp_path):
    here = world(broken={strategy.name for strategy in EVERY})
    assert {one.status for one in here.compare(tmp_path, halving=True).values()} == {FAILED, SKIPPED}


def test_what_cannot_be_prepared_is_a_failed_row_without_a_path(world, tmp_path):
    here = world(broken={"setup"})
    result = here.compare(tmp_path, [FULL], seeds=[0])["full", 0]
    assert result.status == FAILED and "OSError" in result.reason and "anna" not in result.reason


def test_a_lower_error_of_a_regression_is_better(world, tmp_path):
    here = world()
    here.problem.metric = "mse"
    run_cell = here.run_cell

    def with_error(*args, **options):
        result = run_cell(*args, **options)
        return type(result)(**{**vars(result), "scores": {"validation_mse": result.scores["validation_accuracy"]}})

    sessions.run_cell = with_error  # the fixture puts it back
    here.compare(tmp_path, [FULL, LORA, PROBE], seeds=[0, 1], halving=True)
    assert here.order()[3:] == ["probe 1", "lora 1"]


@pytest.mark.parametrize("seconds", [2, 5, 15, 30, 40, 55, 70, 90, 120, 180, 260, 1000])
def test_a_budget_is_kept(world, tmp_path, seconds):
    here = world()
    start, budget = here.now, Budget(seconds)
    results = here.compare(tmp_path, budget=budget)
    assert here.now - start <= budget.until("cells") + 0.5  # one step of the run that was stopped
    assert len(results) == len(EVERY) * 3
    for (name, seed), result in results.items():
        assert result.status in (FINISHED, SKIPPED)
        assert result.finished or result.reason
        if seed and result.finished:
            assert results[name, 0].finished  # nobody has a second seed before the first
    if seconds >= 80:
        assert all(results[strategy.name, 0].finished for strategy in EVERY)
    if seconds == 1000:  # there is time even for what was dropped
        assert all(result.finished for result in results.values())


def test_a_short_budget_is_spent_on_the_cheap_ones(world, tmp_path):
    here = world()
    results = here.compare(tmp_path, budget=Budget(12))
    assert here.order() == ["majority 0", "probe 0", "lora 0"] + [
        f"{name} {seed}" for seed in (1, 2) for name in ("majority",)
    ]
    assert results["full", 0].reason == "it takes about 13 s, and 1.7 s of the budget are left for such runs"


def test_a_run_that_takes_longer_than_thought_is_stopped(world, tmp_path):
    here = world()
    here.seconds = lambda key: 60.0 if key.strategy == "full" else 1.0
    results = here.compare(tmp_path, [MAJORITY, FULL, LORA], seeds=[0], budget=Budget(40))
    assert results["full", 0].status == SKIPPED and results["full", 0].reason == "the budget ended"
    assert here.now - 100 <= 36.5


def test_a_budget_for_no_run_is_refused_before_any(world, tmp_path):
    here = world()
    with pytest.raises(
        ValueError, match=r"`--budget 1.0 s` has no room for one run: .*probe of m, the shortest, takes"
    ):
        here.compare(tmp_path, budget=Budget(1))
    assert here.ran == []
    assert not (tmp_path / "cells").exists()


def test_with_a_budget_dropped_ones_come_last_and_baselines_first_of_them(world, tmp_path):
    here = world()
    here.compare(tmp_path, budget=Budget(1000))
    assert here.order()[14:] == [
        *("scratch 1", "probe 1", "gradual 1"),
        *("scratch 2", "lora 2", "probe 2", "gradual 2"),
    ]


@pytest.mark.parametrize("halving", [None, True])
def test_an_interrupted_comparison_ends_as_an_undisturbed_one(world, tmp_path, halving):
    draw = random.Random(0)
    for trial in range(2):
        scores = {(strategy.name, seed): draw.randint(8, 20) for strategy in EVERY for seed in range(3)}
        straight = world(scores)
        expected = straight.compare(tmp_path / f"straight{trial}", halving=halving)
        ran: list[CellKey] = []
        cuts = 0
        while True:
            here = world(scores, killed_after=draw.randint(0, 5))
            try:
                results = here.compare(tmp_path / f"cut{trial}", halving=halving)
            except Killed:
                cuts += 1
                ran += here.ran
                continue
            ran += here.ran
            break
        assert cuts and _told(results) == _told(expected)
        assert len(ran) == len(set(ran))  # no finished run twice
        assert set(ran) == set(straight.ran)


def test_time_before_an_interruption_counts(world, tmp_path):
    here = world(killed_after=4)
    with pytest.raises(Killed):
        here.compare(tmp_path, budget=Budget(50))
    spent = here.now - 100
    again = world()
    results = again.compare(tmp_path, budget=Budget(50))
    assert spent + again.now - 100 <= 45.5
    assert not set(again.ran) & set(here.ran)
    assert results[here.ran[0].strategy, 0].finished


def test_a_larger_budget_goes_on_where_the_smaller_ended(world, tmp_path):
    here = world()
    first = here.compare(tmp_path, seeds=[0], budget=Budget(40))
    assert {one.status for one in first.values()} == {FINISHED, SKIPPED}
    again = world()
    second = again.compare(tmp_path, seeds=[0], budget=Budget(400))
    assert {one.status for one in second.values()} == {FINISHED}
    assert not set(again.ran) & {one.key for one in first.values() if one.finished}


def test_a_finished_comparison_is_only_read(world, tmp_path):
    here = world()
    first = here.compare(tmp_path, budget=Budget(100))
    again = world()
    second = again.compare(tmp_path, budget=Budget(100))
    assert again.ran == []
    done = [key for key, one in first.items() if one.finished]
    assert {key: second[key] for key in done} == {key: first[key] for key in done}


def test_another_rate_or_other_rows_run_anew(world, tmp_path):
    world().compare(tmp_path, [FULL, LORA, PROBE], seeds=[0])
    here = world()
    here.compare(tmp_path, [FULL, LORA, PROBE], seeds=[0], rates={**RATES, ("m", "whole"): 3e-4})
    assert here.order() == ["full 0"]
    other = world()
    other.problem.fingerprint = lambda model=None: "other rows"
    other.compare(tmp_path, [FULL, LORA, PROBE], seeds=[0])
    assert other.order() == ["probe 0", "full 0", "lora 0"]


def test_several_models(world, tmp_path):
    here = world(labels=("m", "n"))
    rates = {(model, group): rate for model in "mn" for (_, group), rate in RATES.items()}
    store = CellStore(tmp_path, {})
    results = run_comparison(
        here.problem,
        [MAJORITY, SCRATCH, FULL],
        [0, 1],
        loop(tmp_path),
        store,
        rates=rates,
        halving=True,
        progress=False,
        clock=here.clock(),
    )
    assert [(one.key.model, one.key.strategy, one.key.seed) for one in results] == [
        (model, name, seed) for model in "mn" for name in ("majority", "scratch", "full") for seed in (0, 1)
    ]
    assert [(key.model, key.strategy) for key in here.ran[:6]] == [
        *(("m", "majority"), ("n", "majority"), ("m", "scratch"), ("m", "full"), ("n", "scratch"), ("n", "full"))
    ]
    second = [(key.model, key.strategy) for key in here.ran[6:]]
    assert second == [("m", "majority"), ("n", "majority"), ("m", "full")]  # a tie of models: the first named


class _Pair:
    """Two ranks after each other: this one's part is the second half, the first half was done by the other."""

    def __init__(self, here):
        self.here, self.shared, self.first = here, [], 0

    def position(self):
        return 1, 2

    def of_first(self, work):
        self.first += 1
        return work()

    def share(self, keys, costs):
        assert len(keys) == len(costs) and all(cost > 0 for cost in costs)
        self.shared.append(list(keys))
        return list(keys)[1::2]

    def together(self, part):
        session = part.__closure__ and next(
            cell.cell_contents for cell in part.__closure__ if isinstance(cell.cell_contents, sessions.Session)
        )
        own = part()
        keys = self.shared[-1]
        others = session._work(keys[::2], "cells", lambda result, seconds: None)
        return sorted([*own, *others], key=lambda result: result.key)


@pytest.mark.parametrize("halving", [False, True])
def test_ranks_share_the_runs_and_know_all(world, tmp_path, halving):
    alone = world().compare(tmp_path / "alone", halving=halving)
    here = world()
    pair = _Pair(here)
    assert _told(here.compare(tmp_path / "pair", halving=halving, ranks=pair)) == _told(alone)
    assert len(here.ran) == len(set(here.ran))
    assert len(pair.shared) == (3 if halving else 1)


def _curve(here, folder, **options):
    store = CellStore(folder, {})
    options = {"rates": RATES, "clock": here.clock(folder), "progress": False, **options}
    leaders = [("m", FULL), ("m", SCRATCH)]
    return run_curve(here.problem, leaders, [0.5, 0.25], [0, 1], loop(folder), store, **options)


def test_the_learning_curve(world, tmp_path):
    here = world()
    results = _curve(here, tmp_path)
    assert [one.key for one in results] == [
        CellKey("m", name, seed, share) for name in ("full", "scratch") for share in (0.5, 0.25) for seed in (0, 1)
    ]
    assert all(one.finished for one in results)
    assert [(key.strategy, key.share, key.seed) for key in here.ran[:4]] == [
        *(("full", 0.5, 0), ("scratch", 0.5, 0), ("full", 0.25, 0), ("scratch", 0.25, 0))
    ]
    again = world()
    assert _curve(again, tmp_path) == results and again.ran == []


@pytest.mark.parametrize(("by_folds", "most"), [(False, 97.5), (True, 97.5 - 12)])
def test_the_curve_leaves_time_for_the_winner(world, tmp_path, by_folds, most):
    here = world()
    here.problem.by_folds = by_folds
    results = _curve(here, tmp_path, budget=Budget(100))
    assert here.now - 100 <= most
    assert {one.status for one in results} == ({FINISHED} if not by_folds else {FINISHED, SKIPPED})
