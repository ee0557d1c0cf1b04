"""The teacher of a distillation: one model or several, or what they once said, beside the student."""

from hf_transfer.teacher.teacher import Teacher, TeacherOutput


__all__ = ["Teacher", "TeacherOutput"]
