"""Learning rates: the climb over a grid, what follows from a given rate, what is kept, and who decides."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from hf_transfer.compare.execution.deadline import OutOfTimeError
from hf_transfer.compare.planning import rates as module
from hf_transfer.compare.planning import trials
from hf_transfer.compare.planning.budget import Budget
from hf_transfer.compare.planning.rates import DEFAULTS, GRIDS, choose_rate, find_rates, given_rates
from hf_transfer.compare.strategies.standard import STANDARD
from tests.compare.planned_runs import EVERY, FULL, LORA, MAJORITY, PROBE, SCRATCH, World, loop


GRID = (1.0, 2.0, 3.0, 4.0, 5.0)


def _climbed(losses):
    tried = []

    def loss(rate):
        tried.append(rate)
        return losses[GRID.index(rate)]

    best, found = choose_rate(loss, GRID)
    assert list(found) == sorted(tried) and len(set(tried)) == len(tried)
    return best, tried


@pytest.mark.parametrize(
    ("losses", "best", "tried"),
    [
        ((9, 8, 7, 6, 5), 5.0, [3, 4, 5]),
        ((9, 8, 7, 6, 8), 4.0, [3, 4, 5]),
        ((9, 8, 7, 8, 9), 3.0, [3, 4, 2]),
        ((8, 6, 7, 8, 9), 2.0, [3, 4, 2, 1]),
        ((5, 6, 7, 8, 9), 1.0, [3, 4, 2, 1]),
        ((9, 9, 9, 9, 9), 3.0, [3, 4, 2]),
        ((9, 8, 7, math.nan, 1), 3.0, [3, 4, 2]),
        ((9, 8, math.inf, math.nan, math.nan), 2.0, [3, 4, 2, 1]),
        ((7, math.nan, math.nan, math.nan, 1), 1.0, [3, 4, 2, 1]),
        ((math.nan,) * 5, None, [3, 4, 2, 1]),
    ],
)
def test_the_climb(losses, best, tried):
    assert _climbed(losses) == (best, tried)


def test_the_climb_finds_the_lowest_of_every_valley():
    draw = random.Random(0)
    for _ in range(300):
        lowest = draw.randrange(5)
        steps = [draw.uniform(0.1, 1) for _ in range(5)]
        losses = [sum(steps[min(lowest, place) : max(lowest, place)]) for place in range(5)]
        best, tried = _climbed(losses)
        assert best == GRID[lowest] and len(tried) <= 4


def test_the_grids_rise_and_hold_the_defaults():
    for group, grid in GRIDS.items():
        assert list(grid) == sorted(set(grid)) and grid[0] <= DEFAULTS[group] <= grid[-1]


@pytest.mark.parametrize(
    ("given", "adapter", "scratch"),
    [(1e-5, 1e-4, 1e-3), (1e-4, 1e-3, 1e-3), (3e-3, 1e-2, 3e-3), (0.1, 0.1, 0.1)],
)
def test_what_follows_from_a_given_rate(given, adapter, scratch):
    rates = given_rates(["m", "n"], given)
    for model in "mn":
        assert rates[model, "whole"] == given
        assert rates[model, "adapter"] == pytest.approx(adapter)
        assert rates[model, "scratch"] == scratch


class _Pilots:
    """In place of pilot runs: losses by kind and rate."""

    def __init__(self, monkeypatch, here, losses):
        self.here, self.losses, self.tried = here, losses, []
        pilots = self

        class Pilot:
            def __init__(self, problem, model, strategy, args):
                self.model, self.strategy, self.steps, self.speeds = model, strategy, 0, {}
                self.group = strategy.rate

            def loss(self, rate, *, deadline=None, steps=None):
                if deadline is not None and here.now > deadline:
                    raise OutOfTimeError("the budget ended")
                here.now += 1.0
                self.steps, self.speeds = steps or 30, {f"{self.model}/{self.group}/step": 0.25}
                pilots.tried.append((self.group, rate, steps))
                found = pilots.losses[self.group]
                found = found(rate) if callable(found) else found[GRIDS[self.group].index(rate)]
                if isinstance(found, Exception):
                    raise found
                return found

        monkeypatch.setattr(module, "Pilot", Pilot)
        monkeypatch.setattr(trials, "Pilot", Pilot)

    @property
    def groups(self):
        return list(dict.fromkeys(group for group, _, _ in self.tried))


LOSSES = {"whole": (3, 2, 1, 2, 3), "adapter": (5, 4, 3, 2, 1), "scratch": (1, 2, 3, 4, 5)}


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(module.logger, "info", found.append)
    monkeypatch.setattr(module.logger, "warning", found.append)
    return found


def _args(folder, **options):
    return loop(folder, **{"learning_rate": 0.0, **options})


def test_each_kind_gets_its_rate_and_a_line(monkeypatch, tmp_path, lines):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    rates = find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path)
    assert rates == {("m", "whole"): 3e-4, ("m", "adapter"): 3e-3, ("m", "scratch"): 1e-4}
    assert pilots.groups == ["scratch", "whole", "adapter"]
    assert len(lines) == 3
    assert lines[1] == (
        "Learning rate of whole models: 0.0003, by the loss on held-out rows after 30 steps "
        "(0.0001 2.000, 0.0003 1.000, 0.001 2.000)"
    )


def test_a_given_rate_needs_no_pilot(monkeypatch, tmp_path):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    rates = find_rates(here.problem, EVERY, _args(tmp_path, learning_rate=1e-4), folder=tmp_path)
    assert rates == given_rates(["m"], 1e-4)
    assert pilots.tried == [] and not (tmp_path / "rates.json").exists()


def test_kinds_that_nobody_has_are_left_out(monkeypatch, tmp_path):
    here = World({}, labels=("m", "n"))
    _Pilots(monkeypatch, here, LOSSES)
    assert set(find_rates(here.problem, [MAJORITY, PROBE, LORA], _args(tmp_path))) == {
        ("m", "adapter"),
        ("n", "adapter"),
    }
    assert find_rates(here.problem, [MAJORITY, PROBE], _args(tmp_path)) == {}


def test_what_was_found_is_kept(monkeypatch, tmp_path):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    first = find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path)
    stored = json.loads((tmp_path / "rates.json").read_text())
    assert {one["key"]["strategy"]: one["scores"]["rate"] for one in stored} == {
        "whole": 3e-4,
        "adapter": 3e-3,
        "scratch": 1e-4,
    }
    pilots.tried.clear()
    clock = here.clock(trials=False)
    assert find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path, clock=clock) == first
    assert pilots.tried == [] and clock.speeds["m/whole/step"] == 0.25  # which a resumed comparison needs


@pytest.mark.parametrize("change", ["rows", "steps", "strategy", "seed", "file"])
def test_what_was_found_for_something_else_does_not_count(monkeypatch, tmp_path, change):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    find_rates(here.problem, [FULL], _args(tmp_path), folder=tmp_path)
    pilots.tried.clear()
    strategies, args = [FULL], _args(tmp_path)
    if change == "rows":
        here.problem.fingerprint = lambda model: "other rows"
    elif change == "steps":
        args = _args(tmp_path, max_steps=11)
    elif change == "strategy":
        strategies = [STANDARD["full"]]
    elif change == "seed":
        args = _args(tmp_path, seed=7)
    else:
        (tmp_path / "rates.json").write_text('[{"key": 1}]')
    find_rates(here.problem, strategies, args, folder=tmp_path)
    assert pilots.tried


def test_an_interrupted_search_goes_on(monkeypatch, tmp_path):
    here = World({})

    def killed(rate):
        raise KeyboardInterrupt

    pilots = _Pilots(monkeypatch, here, {**LOSSES, "adapter": killed})
    with pytest.raises(KeyboardInterrupt):
        find_rates(here.problem, [FULL, LORA], _args(tmp_path), folder=tmp_path)
    pilots.losses, pilots.tried = LOSSES, []
    rates = find_rates(here.problem, [FULL, LORA], _args(tmp_path), folder=tmp_path)
    assert pilots.groups == ["adapter"] and rates["m", "whole"] == 3e-4


def test_where_all_fails_the_usual_rate_is_taken_and_told(monkeypatch, tmp_path, lines):
    here = World({})
    _Pilots(monkeypatch, here, {**LOSSES, "whole": lambda rate: MemoryError("no"), "scratch": (math.nan,) * 5})
    rates = find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path)
    assert rates["m", "whole"] == DEFAULTS["whole"] and rates["m", "scratch"] == DEFAULTS["scratch"]
    assert rates["m", "adapter"] == 3e-3
    assert lines[0].startswith("No pilot run for models from random weights came to an end: they take the usual")
    assert "for whole models came to an end (MemoryError): they take the usual learning rate 0.0001." in lines[1]
    json.loads((tmp_path / "rates.json").read_text())  # no NaN, which JSON does not know


def test_pilots_keep_to_their_part_of_the_budget(monkeypatch, tmp_path, lines):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    start, budget = here.now, Budget(24)
    clock = here.clock(tmp_path)
    rates = find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path, clock=clock, budget=budget)
    assert here.now - start <= budget.until("pilots")  # none is begun that would not end in time
    assert pilots.groups == ["scratch"] and rates["m", "scratch"] == 1e-4
    assert rates["m", "adapter"] == DEFAULTS["adapter"] and "No pilot run for adapters came to an end" in lines[2]
    # with more time what was cut short is tried again, and nothing else
    pilots.tried.clear()
    clock = here.clock(tmp_path)
    rates = find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path, clock=clock, budget=Budget(1000))
    assert rates["m", "adapter"] == 3e-3 and "scratch" not in pilots.groups


def test_a_budget_for_no_run_is_refused_before_any_pilot(monkeypatch, tmp_path):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    clock = here.clock(tmp_path, trials=False)
    with pytest.raises(ValueError, match="`--budget 2.0 s` has no room for one run"):
        find_rates(here.problem, [FULL], _args(tmp_path), folder=tmp_path, clock=clock, budget=Budget(2))
    assert pilots.tried == [("whole", 1e-4, trials.STEPS)]  # a timed trial of a few steps
    assert not (tmp_path / "rates.json").exists()


class _Ranks:
    """The first of two ranks; the other does the second part."""

    def __init__(self):
        self.work = None

    def position(self):
        return 0, 2

    def of_first(self, work):
        return work()

    def share(self, keys):
        self.keys = list(keys)
        return self.keys[::2]

    def together(self, part):
        mine = part()
        work: Any = next(cell.cell_contents for cell in part.__closure__ if callable(cell.cell_contents))
        return sorted([*mine, *work(self.keys[1::2], keep=False)], key=lambda one: one.key)


def test_ranks_share_the_pilots(monkeypatch, tmp_path):
    here = World({})
    pilots = _Pilots(monkeypatch, here, LOSSES)
    alone = find_rates(here.problem, EVERY, _args(tmp_path))
    pilots.tried.clear()
    assert find_rates(here.problem, EVERY, _args(tmp_path), folder=tmp_path, ranks=_Ranks()) == alone
    assert sorted(pilots.groups) == ["adapter", "scratch", "whole"]
    assert len(json.loads((tmp_path / "rates.json").read_text())) == 3


def test_every_model_is_named_where_there_are_several(monkeypatch, tmp_path, lines):
    here = World({}, labels=("m", "n"))
    _Pilots(monkeypatch, here, LOSSES)
    find_rates(here.problem, [SCRATCH], _args(tmp_path))
    assert [line.split(":")[0] for line in lines] == [
        "Learning rate of models from random weights of m",
        "Learning rate of models from random weights of n",
    ]
