from __future__ import annotations

import pytest
import torch
from transformers import Trainer

from hf_transfer.callbacks import UnfreezingSchedule
from tests.callbacks.harness import (
    METRIC_PHASES,
    PHASES,
    Crash,
    Recorder,
    Rows,
    arguments,
    changed,
    copy_of,
    make_trainer,
    seeded,
)
from tests.models import tiny_bert, tiny_resnet


@pytest.mark.parametrize("build", [tiny_bert, tiny_resnet])
@pytest.mark.parametrize("step", [4, 6])
def test_a_run_killed_and_resumed_equals_the_straight_run_bit_for_bit(build, step, tmp_path):
    """Step 4 is in the middle of phase 2; at step 6 phase 3 begins."""

    def trainer(*callbacks, folder="straight"):
        return make_trainer(
            tmp_path / folder,
            seeded(build),
            UnfreezingSchedule(PHASES),
            *callbacks,
            save_strategy="steps",
            save_steps=2,
        )

    straight, killed, resumed = Recorder(), Recorder(), Recorder()
    reference = trainer(straight)
    reference.train()
    with pytest.raises(KeyboardInterrupt):
        trainer(killed, Crash(step + 1), folder="killed").train()
    again = trainer(resumed, folder="killed")
    again.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{step}"))
    assert resumed.steps == straight.steps[step:]
    assert not changed(copy_of(reference.model), copy_of(again.model))
    ours, theirs = again.optimizer.state_dict(), reference.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert all(torch.equal(value, ours["state"][index][key]) for key, value in state.items())
    schedulers = [run.lr_scheduler.state_dict() for run in (again, reference)]
    assert schedulers[0] == schedulers[1]


class FallingScore:
    """Improves at the first two evaluations and never again."""

    def __init__(self, seen: int = 0):
        self.seen = seen

    def __call__(self, predictions) -> dict[str, float]:
        self.seen += 1
        return {"score": float(min(self.seen, 2))}


def metric_trainer(folder, record, *callbacks, seen=0, **options) -> Trainer:
    model = seeded()
    options = {"max_steps": 10, "eval_strategy": "steps", "eval_steps": 1, **options}
    return Trainer(
        model,
        arguments(folder, **options),
        train_dataset=Rows(model),
        eval_dataset=Rows(model, 4),
        compute_metrics=FallingScore(seen),
        callbacks=[UnfreezingSchedule(METRIC_PHASES), record, *callbacks],
    )


def test_a_metric_that_stops_improving_begins_a_phase_and_a_resumed_run_remembers(tmp_path):
    straight, resumed = Recorder(), Recorder()
    saving = {"save_strategy": "steps", "save_steps": 1}
    reference = metric_trainer(tmp_path, straight, **saving)
    reference.train()
    sizes = [len(step["trains"]) for step in straight.steps]
    # Evaluation 3 is the first without improvement; 4 sets the standard of the next phase, which 5 fails to beat.
    assert sizes == [2] * 3 + [18] * 2 + [len(list(reference.model.parameters()))] * 5
    # Resumed at step 4: phase 2 has begun, and one of the evaluations that end it is in the past.
    again = metric_trainer(tmp_path, resumed, seen=4, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.steps == straight.steps[4:]
    assert not changed(copy_of(reference.model), copy_of(again.model))
