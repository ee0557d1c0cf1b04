"""`UpdateAverageTeacher`: keep the average teachers of a run up to date, and in its checkpoints."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_transfer.callbacks.averaged_weights import read_metadata
from hf_transfer.callbacks.refusals import refuse_partitioned, saved_state
from hf_transfer.files import whole_file
from hf_transfer.teacher.average import AverageTeacher
from hf_transfer.teacher.teacher import Teacher


AVERAGE_TEACHER_NAME = "average_teacher.safetensors"
"""File of a checkpoint that holds the average teachers."""

__all__ = ["AVERAGE_TEACHER_NAME", "UpdateAverageTeacher", "average_teacher_callbacks"]


class UpdateAverageTeacher(TrainerCallback, ExportableState):
    """
    Update average teachers once per optimizer step, and keep them in checkpoints.

    Args:
        *teachers (`AverageTeacher`):
            All of the run: they share one file, `average_teacher.safetensors`, of the size of the student each.

    Raises:
        ValueError: when the Trainer is built under FSDP, DeepSpeed, `nn.DataParallel` or tensor parallelism, or with
            `restore_callback_states_from_checkpoint` or `enable_jit_checkpoint`; when training begins on a resume from
            a checkpoint without the teachers.
    """

    def __init__(self, *teachers: AverageTeacher):
        self.teachers = teachers
        self.run: str | None = None
        """Name of the run, by which its files are told from those of another."""
        self.folder: str | None = None
        """Where the run saves."""

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"run": self.run, "folder": self.folder}}

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot work before any data is read."""
        if kwargs["model"] is not None:
            refuse_partitioned(args, kwargs["model"], "AverageTeacher", fsdp2=False)
        if args.restore_callback_states_from_checkpoint:
            raise ValueError(
                "AverageTeacher with restore_callback_states_from_checkpoint - the Trainer would make its callback "
                "anew, without the teacher, which would then never move - leave it False: the teacher comes back from "
                f"{AVERAGE_TEACHER_NAME} in any case."
            )
        if args.enable_jit_checkpoint:
            raise ValueError(
                "AverageTeacher with enable_jit_checkpoint - it saves in the middle of a step and tells no callback, "
                "so that the teacher would be missing - set save_steps low enough instead."
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the averages, or continue those of a checkpoint."""
        if state.global_step:
            stored = load_file(self._file(args, state))
            for number, teacher in enumerate(self.teachers):
                prefix = f"{number}."
                own = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
                teacher.load_state_dict(own, steps=state.global_step)
        else:
            self.run = uuid.uuid4().hex
            for teacher in self.teachers:
                teacher.restart()
        self.folder = str(Path(str(args.output_dir)).absolute())

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Average, before anything else touches the weights; the step is not counted yet."""
        for teacher in self.teachers:
            if teacher.steps <= state.global_step:  # another callback may hold it too
                teacher.update()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the averages beside the model."""
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.save_only_model or state.is_hyper_param_search or not args.should_save or not folder.is_dir():
            return
        tensors = {
            f"{number}.{name}": tensor.detach().cpu().contiguous()
            for number, teacher in enumerate(self.teachers)
            for name, tensor in teacher.state_dict().items()
        }
        with whole_file(folder / AVERAGE_TEACHER_NAME) as unfinished:
            save_file(tensors, unfinished, {"run": str(self.run), "step": str(state.global_step)})

    def _file(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The file of the checkpoint that the run resumes from, which the Trainer tells no callback."""
        saved = saved_state(state, self, what="its average teacher would have to start anew in the middle of the run")
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        folders = [Path(str(place)) / name for place in (args.output_dir, saved["folder"])]
        if isinstance(args.resume_from_checkpoint, str):
            folders.insert(0, Path(args.resume_from_checkpoint))
        self.run = saved["run"]
        for folder in folders:
            path = folder / AVERAGE_TEACHER_NAME
            if read_metadata(path) == {"run": self.run, "step": str(state.global_step)}:
                return path
        raise ValueError(
            f"No {AVERAGE_TEACHER_NAME} of this run and step {state.global_step} in "
            f"{' or '.join(map(str, folders))}: the teacher would start anew in the middle of the run. Resume from a "
            "complete checkpoint; if it was moved, name it in TrainingArguments(resume_from_checkpoint=...) too."
        )


def average_teacher_callbacks(objectives: Iterable[object], callbacks: Iterable[object]) -> list[UpdateAverageTeacher]:
    """The callback that the average teachers of objectives need, as a list: empty if they need none, or have it."""
    teachers = [getattr(objective, "teacher", None) for objective in objectives]
    members = [member for teacher in teachers if isinstance(teacher, Teacher) for member in teacher.members]
    averages = {id(member): member for member in members if isinstance(member, AverageTeacher)}
    held = {id(teacher) for one in callbacks if isinstance(one, UpdateAverageTeacher) for teacher in one.teachers}
    missing = [teacher for key, teacher in averages.items() if key not in held]
    return [UpdateAverageTeacher(*missing)] if missing else []
