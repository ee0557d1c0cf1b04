"""What a teacher says of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


__all__ = ["TeacherOutput"]


class TeacherOutput(NamedTuple):
    """
    What the teacher says of a batch.

    Attributes:
        logits: `(B, C)`, or `(B, T, C)` for tokens; the classes in the student's order; float32. `None` of a teacher
            without a head, which `Teacher.bind` refuses where an objective reads them.
        features: `(B, D)` or `(B, T, D)`, the input of its head, pooled as it pools; float32.
        hidden_states: the outputs of the modules asked for, by their name in the teacher.
        attentions: `(B, H, T, T)`, the maps of the attention layers asked for, by their name in the teacher.
    """

    logits: Tensor
    features: Tensor
    hidden_states: dict[str, Tensor]
    attentions: dict[str, Tensor]
