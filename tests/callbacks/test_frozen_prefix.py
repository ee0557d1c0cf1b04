from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_transfer.callbacks import UnfreezingSchedule
from hf_transfer.callbacks.frozen_prefix import CacheFrozenPrefix, frozen_until
from tests.frozen_prefix.harness import RaggedRows, make, pad
from tests.models import tiny_bert


def run_of(index: int, *phases: tuple[set[str], int | None]) -> Any:
    return SimpleNamespace(index=index, trains=[names for names, _ in phases], entries=[entry for _, entry in phases])


@pytest.mark.parametrize(
    ("index", "names", "end"),
    [
        (0, {"a", "b"}, 30),  # the phase at 10 thaws none of them
        (0, {"a", "b", "c"}, 10),
        (1, {"a", "b", "c"}, 30),
        (2, {"a"}, 100),
        (0, set(), 100),
    ],
)
def test_a_prefix_stays_frozen_until_the_first_phase_that_thaws_any_of_it(index, names, end):
    run = run_of(index, ({"head"}, 0), ({"head", "c"}, 10), ({"head", "b"}, 30))
    assert frozen_until(run, names, 100) == end


def test_a_phase_that_waits_for_a_metric_has_no_known_end():
    assert frozen_until(run_of(0, ({"head"}, 0), ({"a"}, None)), {"a"}, 100) == 100
    assert frozen_until(run_of(0, ({"head"}, 0), ({"a"}, None), ({"a"}, 60)), {"a"}, 100) == 60


def test_a_phase_beyond_the_run_does_not_prolong_it():
    assert frozen_until(run_of(0, ({"head"}, 0), ({"a"}, 500)), {"a"}, 100) == 100


class Noted:
    """In place of the cache: what it is told, and when."""

    def __init__(self, model: Any):
        self.model = model
        self.events: list[Any] = []

    def enter(self, anatomy: Any, *, epochs: float) -> None:
        self.events.append(("enter", round(epochs, 3)))

    def forget(self) -> None:
        self.events.append("forget")

    def release(self) -> None:
        self.events.append("release")


def test_each_phase_is_entered_once_and_left_at_the_end(tmp_path):
    phases = [{"train": "head"}, {"step": 4, "train": ["head", "block.2"]}, {"step": 8, "train": "all"}]
    schedule = UnfreezingSchedule(phases)
    trainer = make(tmp_path, tiny_bert, schedule, cache=False, rows=RaggedRows(), collate=pad)
    noted = []

    def session(model: Any) -> Any:
        noted.append(Noted(model))
        return noted[0]

    trainer.add_callback(CacheFrozenPrefix(schedule, session))
    trainer.train()
    (cache,) = noted
    # 12 steps, 4 per epoch: all three blocks are frozen until step 4, two until step 8; then nothing
    assert [event for event in cache.events if event[0] == "enter"] == [("enter", 1.0), ("enter", 1.0), ("enter", 1.0)]
    assert cache.events.count("forget") == 12
    assert cache.events[-1] == "release"


def test_before_training_it_does_nothing():
    callback = CacheFrozenPrefix(UnfreezingSchedule([{"train": "head"}]), cast(Any, None))
    events = (callback.on_step_begin, callback.on_step_end, callback.on_substep_end, callback.on_train_end)
    for event in events:
        event(cast(TrainingArguments, None), TrainerState(), TrainerControl())
