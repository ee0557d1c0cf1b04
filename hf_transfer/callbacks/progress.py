"""`TrackProgress`: tells the objectives of a model how much of the training is done."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.attach import Attachment


class TrackProgress(TrainerCallback):
    """
    Sets the progress of attached objectives at the start of each optimizer step, so that their schedules advance.

    `TransferTrainer` has it built in; pass it to a stock `Trainer` together with an attached model. Progress is a
    function of the trainer's own step count: accumulation does not advance it and a resumed run continues exactly.

    Args:
        attachment (`Attachment`): as returned by `attach(model, objectives)`.
    """

    def __init__(self, attachment: Attachment):
        self.attachment = attachment

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Set the progress to `global_step / max_steps`."""
        self.attachment.progress = state.global_step / max(state.max_steps, 1)
