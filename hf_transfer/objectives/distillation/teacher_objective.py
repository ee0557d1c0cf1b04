"""What the objectives of distillation share: a teacher that is asked once per batch."""

from __future__ import annotations

import os
from typing import ClassVar

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
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            Give one [`Teacher`] to several objectives: it then runs once per batch for all of them.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).
    """

    reads_inputs = True
    reads_teacher_logits: ClassVar[bool] = False
    """Whether the objective reads the teacher's predictions: they then must be for the student's classes."""

    def __init__(
        self, teacher: Teacher | Source | nn.Module | str | os.PathLike[str], *, weight: float | Schedule = 1.0
    ):
        super().__init__(weight=weight)
        self.teacher = Teacher.of(teacher)  # no module: see `Source`

    def build(self, spec: ModelSpec) -> Self:
        """Introduce teacher and student."""
        self.teacher.bind(spec, logits=self.reads_teacher_logits)
        self.optional_columns = self.teacher.columns
        return self

    def taught(self, batch: TransferBatch) -> TeacherOutput:
        """What the teacher says of the batch."""
        return self.teacher(batch)
