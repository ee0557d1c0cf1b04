"""Students cut out of their teacher."""

from __future__ import annotations

from hf_transfer.students.from_teacher import student_from_teacher


__all__ = ["student_from_teacher"]
