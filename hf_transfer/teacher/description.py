"""A teacher in the words of a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_transfer.language_models import pretrained_part


if TYPE_CHECKING:
    from hf_transfer.teacher.teacher import Teacher

__all__ = ["describe"]


def describe(teacher: Teacher) -> dict[str, Any]:
    """
    What a single teacher is: name and class of its model, size, type of its weights, classes and how they are matched.

    Args:
        teacher (`Teacher`): with a model.
    """
    _, owner = pretrained_part(teacher.model)
    source = teacher.source
    told: dict[str, Any] = {
        "model": source.name or getattr(getattr(owner, "config", None), "_name_or_path", "") or type(owner).__name__,
        "class": type(owner).__name__,
        "parameters": sum(parameter.numel() for parameter in teacher.model.parameters()),
        "dtype": str(next(teacher.model.parameters()).dtype).removeprefix("torch."),
        "classes": None if source.found[1] else teacher.class_names or teacher.num_labels,
        "labels": dict(teacher.labels) if isinstance(teacher.labels, Mapping) else teacher.labels,
    }
    return {**told, "revision": source.revision} if source.name else told
