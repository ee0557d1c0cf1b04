"""What a teacher must be: another model than the student, with a head where its predictions are asked for."""

from __future__ import annotations

from hf_transfer.batch import ModelSpec
from hf_transfer.source import Source


__all__ = ["refuse_student", "require_head"]


def refuse_student(teacher: object, source: Source, spec: ModelSpec) -> None:
    """Refuse a model that was not copied and is part of the student; `teacher` is who says so."""
    if source.copied or spec.model is None:
        return
    own = {id(module) for module in source.model.modules()} | {id(p) for p in source.model.parameters()}
    if any(id(part) in own for part in (*spec.model.modules(), *spec.model.parameters())):
        raise ValueError(
            f"{teacher!r} is, in whole or in part, the student itself: it was frozen by `copy=False`, and what it "
            "says would change with what the student learns. Leave `copy=False` out, so that a copy is kept, or "
            "give `copy.deepcopy(model)`."
        )


def require_head(teacher: object, source: Source) -> None:
    """Refuse a model without logits."""
    found, reason = source.found
    if found is None or reason:
        raise ValueError(
            f"{teacher!r} predicts nothing ({reason}): there are no logits to learn from. Give a checkpoint with the "
            'head it was trained with, name the layer with `Teacher(..., head="...")`, or take an objective on '
            "features or hidden states."
        )
