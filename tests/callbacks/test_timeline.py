from __future__ import annotations

import random
from fractions import Fraction
from math import ceil

import pytest

from hf_transfer.callbacks.phases import parse_phases
from hf_transfer.callbacks.timeline import current_phase, entry_steps, late_phases


def schedule(*entries: dict) -> tuple:
    return parse_phases([{"train": "head"}, *({"train": "all", **entry} for entry in entries)])


def test_each_unit_is_turned_into_optimizer_steps():
    phases = schedule({"step": 3}, {"epoch": 0.5}, {"fraction": 0.5}, {"when": "loss"}, {"epoch": 3})
    assert entry_steps(phases, max_steps=40, steps_per_epoch=10) == (0, 3, 5, 20, None, 30)


@pytest.mark.parametrize("max_steps", [1, 7, 10, 100, 1000, 12345])
def test_a_fraction_is_rounded_up_exactly(max_steps):
    for percent in range(1, 101):
        entries = entry_steps(schedule({"fraction": percent / 100}), max_steps=max_steps, steps_per_epoch=1)
        assert entries[1] == ceil(Fraction(percent, 100) * max_steps)


def test_an_order_that_only_the_run_reveals_is_refused():
    phases = schedule({"epoch": 3}, {"fraction": 0.5})
    assert entry_steps(phases, max_steps=80, steps_per_epoch=10) == (0, 30, 40)
    with pytest.raises(ValueError, match=r"Phase 3 \(fraction 0.5\) begins at optimizer step 20, before .* overlap"):
        entry_steps(phases, max_steps=40, steps_per_epoch=10)


def test_the_phase_is_a_pure_function_of_the_step():
    phases = schedule({"step": 3}, {"step": 7})
    entries = entry_steps(phases, max_steps=10, steps_per_epoch=10)
    steps = list(range(10))
    in_order = [current_phase(phases, entries, step=step) for step in steps]
    assert in_order == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    random.Random(0).shuffle(steps)
    assert all(current_phase(phases, entries, step=step) == in_order[step] for step in steps)


def history(*losses: float, every: int = 10) -> list[dict]:
    logs: list[dict] = []
    for index, loss in enumerate(losses, start=1):
        logs += [{"loss": 9.0, "step": index * every - 1}, {"eval_loss": loss, "step": index * every}]
    return logs


def test_a_metric_phase_begins_with_the_step_after_the_evaluation():
    phases = schedule({"when": {"metric": "loss", "patience": 2}})
    logs = history(0.9, 0.8, 0.85, 0.8, 0.1)
    assert [current_phase(phases, (0, None), step=step, log_history=logs) for step in (39, 40, 41, 50)] == [0, 1, 1, 1]


def test_evaluations_after_the_step_asked_for_play_no_part():
    phases = schedule({"when": "loss"})
    logs = history(0.9, 0.95)
    assert current_phase(phases, (0, None), step=19, log_history=logs) == 0


def test_an_evaluation_repeated_at_one_step_counts_once():
    phases = schedule({"when": {"metric": "loss", "patience": 2}})
    logs = history(0.9, 0.95)
    assert current_phase(phases, (0, None), step=25, log_history=[*logs, logs[-1]]) == 0


def test_a_metric_phase_counts_from_the_phase_before():
    phases = schedule({"when": "loss"}, {"when": "loss"})
    # 20 ends the first phase; 30 sets the standard of the second, 40 improves on it, 50 does not.
    logs = history(0.5, 0.6, 0.9, 0.8, 0.8)
    phase_at = [current_phase(phases, (0, None, None), step=step, log_history=logs) for step in (10, 20, 30, 40, 50)]
    assert phase_at == [0, 1, 1, 1, 2]


def test_a_fixed_phase_does_not_wait_for_the_metric_before_it():
    phases = schedule({"when": "loss"}, {"step": 30}, {"when": "loss"})
    falling = history(0.9, 0.8, 0.7, 0.6, 0.65)
    entries = (0, None, 30, None)
    phase_at = [current_phase(phases, entries, step=step, log_history=falling) for step in (10, 29, 30, 40, 50)]
    assert phase_at == [0, 0, 2, 2, 3]


def test_a_metric_phase_that_follows_one_never_begun_does_not_begin():
    phases = schedule({"when": "accuracy"}, {"when": "loss"})
    assert current_phase(phases, (0, None, None), step=99, log_history=history(0.5, 0.6, 0.7)) == 0


def test_late_and_swallowed_phases_are_told():
    phases = schedule({"fraction": 0.5}, {"fraction": 0.75}, {"epoch": 5}, {"when": "loss"})
    entries = entry_steps(phases, max_steps=2, steps_per_epoch=1)
    messages = late_phases(phases, entries, 2)
    assert [message.split(" never")[0].split()[1] for message in messages] == ["3", "4"]
    swallowed = late_phases(phases[:3], (0, 1, 1), 2)
    assert swallowed == ["Phase 2 (fraction 0.5: all) never trains: the next one begins at step 1, too."]
    assert late_phases(phases[:3], (0, 5, 7), 10) == []
