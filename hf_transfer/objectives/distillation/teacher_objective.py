"""What the objectives of distillation share: a teacher that is asked once per batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher, TeacherOutput


class TeacherObjective(Objective):
    """
    An objective with a teacher. Subclasses read `self.taught(batch)` in `forward`.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str`, path, or a list of these):
            Give one [`Teacher`] to several objectives: it then runs once per batch for all of them.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).
    """

    reads_inputs = True
    reads_teacher_logits: ClassVar[bool] = False
    """Whether the objective reads the teacher's predictions: they then must be for the student's classes."""

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str] | Sequence[Any],
        *,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        self.teacher = Teacher.of(teacher)  # no module: see `Source`

    def build(self, spec: ModelSpec) -> Self:
        """Introduce teacher and student."""
        self.teacher.bind(spec, logits=self.reads_teacher_logits)
        return self

    @property
    def optional_columns(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the teacher reads where the data has it; asked for after `build`, which says what it needs."""
        return self.teacher.columns

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Warn if the teacher's predictions, where they are read, are no better than a constant answer."""
        if self.reads_teacher_logits:
            self.teacher.inspect(model, batches)

    def prepare(self, batch: TransferBatch) -> None:
        """Let the teacher read the batch before the student does."""
        self.teacher.read_ahead(batch)

    def taught(self, batch: TransferBatch) -> TeacherOutput:
        """What the teacher says of the batch."""
        return self.teacher(batch)
