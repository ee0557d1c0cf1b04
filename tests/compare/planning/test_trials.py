"""Timed trials, and budgets that have no room for a run."""

from __future__ import annotations

import pytest

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.planning import trials
from hf_transfer.compare.planning.budget import Budget
from hf_transfer.compare.planning.trials import check_budget, estimates_for, groups_of, time_steps
from tests.compare.planned_runs import EVERY, FULL, LORA, MAJORITY, PROBE, SCRATCH, World, loop


def test_kinds_in_their_order():
    assert groups_of(EVERY) == ["scratch", "whole", "adapter"]
    assert groups_of([MAJORITY, PROBE]) == []


class _Pilot:
    tried: list = []

    def __init__(self, problem, model, strategy, args):
        self.model, self.group = model, strategy.rate
        self.speeds = {}

    def loss(self, rate, *, steps):
        self.tried.append((self.model, self.group, steps))
        if self.group == "adapter":
            raise ValueError("this model takes no adapter")
        self.speeds = {f"{self.model}/{self.group}/step": 2.0}


@pytest.fixture
def tried(monkeypatch):
    monkeypatch.setattr(trials, "Pilot", _Pilot)
    monkeypatch.setattr(_Pilot, "tried", [])
    return lambda: _Pilot.tried


def test_what_is_not_known_is_timed_once(tried, tmp_path):
    here = World({}, labels=("m", "n"))
    clock = here.clock(tmp_path, trials=False)
    clock.speeds["n/whole/step"] = 1.0
    time_steps(here.problem, [FULL, SCRATCH, PROBE], loop(tmp_path), clock)
    assert tried() == [("m", "whole", 4), ("m", "scratch", 4), ("n", "scratch", 4)]
    assert clock.speeds == {"m/whole/step": 2.0, "m/scratch/step": 2.0, "n/scratch/step": 2.0, "n/whole/step": 1.0}
    again = here.clock(tmp_path, trials=False)  # from the file
    time_steps(here.problem, [FULL, SCRATCH, PROBE], loop(tmp_path), again)
    assert len(tried()) == 3


def test_a_trial_that_fails_leaves_it_open(tried, tmp_path):
    here = World({})
    clock = here.clock(trials=False)
    time_steps(here.problem, [LORA, FULL], loop(tmp_path), clock)
    assert set(clock.speeds) == {"m/whole/step"}


def test_the_first_rank_tries_for_all(tried, tmp_path):
    class Other:
        def of_first(self, work):
            return {"m/whole/step": 7.0}

    here = World({})
    clock = here.clock(trials=False)
    time_steps(here.problem, [FULL], loop(tmp_path), clock, ranks=Other())
    assert tried() == [] and clock.speeds == {"m/whole/step": 7.0}


@pytest.mark.parametrize(
    ("options", "steps"), [({"max_steps": 33}, 33), ({"max_steps": -1, "num_train_epochs": 3}, 39)]
)
def test_steps_and_rows(tmp_path, options, steps):
    here = World({})
    args = loop(tmp_path, per_device_train_batch_size=8, **options)
    estimates = estimates_for(here.problem, EVERY, args, here.clock())
    assert (estimates.steps, estimates.rows) == (steps, 120)  # 100 rows are 13 batches of 8


def _keys(*names):
    return [CellKey("m", name, 0) for name in names]


def test_a_budget_that_is_too_small(tmp_path):
    here = World({})
    clock = here.clock()
    estimates = estimates_for(here.problem, EVERY, loop(tmp_path), clock)
    here.now += 3.0
    for names, least in ((("majority", "full"), 18), (("majority", "full", "probe"), 5)):
        check_budget(Budget(least), clock, estimates, _keys(*names))
        with pytest.raises(ValueError, match=rf"3.0 s are gone, and .*Give {least}s at least, and several times"):
            check_budget(Budget(least - 1.2), clock, estimates, _keys(*names))


def test_baselines_alone_are_no_comparison(tmp_path):
    here = World({})
    clock = here.clock()
    estimates = estimates_for(here.problem, EVERY, loop(tmp_path), clock)
    with pytest.raises(ValueError, match="full of m, the shortest"):
        check_budget(Budget(5), clock, estimates, _keys("majority", "full", "scratch"))


def test_nothing_is_refused_once_a_run_is_there_or_nothing_is_known(tmp_path):
    here = World({})
    clock = here.clock()
    estimates = estimates_for(here.problem, EVERY, loop(tmp_path), clock)
    clock.cells["cells/m/full/seed_0"] = 12.0
    check_budget(Budget(1), clock, estimates, _keys("full"))
    unknown = here.clock(trials=False)
    check_budget(Budget(1), unknown, estimates_for(here.problem, EVERY, loop(tmp_path), unknown), _keys("full"))
