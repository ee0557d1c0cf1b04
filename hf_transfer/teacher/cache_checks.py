"""What may be stored of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from hf_transfer.features.extraction.taps import block_outputs
from hf_transfer.source import Source
from hf_transfer.teacher.cached_teacher import CachedTeacher
from hf_transfer.teacher.teacher import Teacher


STORES = ("float32", "float16", "top_k")
"""The forms in which logits are stored."""

__all__ = ["STORES", "check_store", "module_names"]


def check_store(teacher: Teacher, store: str, k: int | None, *, more: bool) -> None:
    """
    Check that this can be stored of this teacher.

    Args:
        teacher (`Teacher`): of one model or several.
        store (`str`): one of [`STORES`].
        k (`int`, *optional*): logits kept of each row.
        more (`bool`): whether features or hidden states are asked for.

    Raises:
        ValueError: as the message says.
    """
    if store not in STORES:
        raise ValueError(
            f'store="{store}" is unknown: it says in which form the logits are kept. Choose one of '
            f"{', '.join(STORES)}."
        )
    if isinstance(teacher, CachedTeacher):
        raise ValueError(
            "A `CachedTeacher` was given: it has no model to ask, only what was stored before. Give the model, its "
            "name or a `Teacher`."
        )
    if more and len(teacher.members) > 1:
        raise ValueError(
            f"Features or hidden states of {teacher!r} were asked for: each of several models has a space of its own, "
            "and only their predictions are combined. Leave `features` and `hidden_states` out, or cache one of them."
        )
    model = next(iter(teacher.members)).source
    predicts = not model.found[1]
    if not predicts and (not more or store == "top_k"):
        raise ValueError(
            f"{teacher!r} predicts nothing ({model.found[1]}): there are no logits to store. Ask for "
            "`features=True` or `hidden_states=[...]`, or give a checkpoint with the head it was trained with."
        )
    if store != "top_k":
        if k is not None:
            raise ValueError(
                f'k={k} with store="{store}": all logits are stored, and there is nothing to choose. Pass '
                'store="top_k", or leave `k` out.'
            )
        return
    classes, problem = model.num_labels, model.problem_type
    if problem in ("regression", "multi_label_classification"):
        raise ValueError(
            f'store="top_k" for a teacher of {problem}: its outputs are no distribution over classes, and the '
            'smaller ones say as much as the larger. Pass store="float16" or "float32".'
        )
    if k is None or not 1 <= k < classes:
        raise ValueError(
            f'store="top_k" with k={k} for {classes} classes: that many logits cannot be kept beside a rest. Give `k` '
            f'from 1 to {classes - 1}, or pass store="float16" or "float32" to keep all.'
        )


def module_names(model: Source, hidden_states: Sequence[str | int]) -> list[str]:
    """
    Names of modules of a teacher; blocks may be given by number.

    Args:
        model (`Source`): the teacher.
        hidden_states (`Sequence[str | int]`): names, and numbers of blocks.

    Raises:
        ValueError: if there is no such module or block.
    """
    if not hidden_states:
        return []
    names, known = [], dict(model.model.named_modules())
    blocks: list[str] = []
    for given in hidden_states:
        if isinstance(given, str):
            if given not in known or not given:
                raise ValueError(
                    f"hidden_states names `{given}`, and the teacher has no such module: its output cannot be read. "
                    "Give a name as in `model.named_modules()`, or the number of a block."
                )
            names.append(given)
            continue
        blocks = blocks or block_outputs(model.model)
        if not -len(blocks) <= given < len(blocks):
            raise ValueError(
                f"hidden_states names block {given}, and the teacher has {len(blocks)}: there is no output to read. "
                f"Give a number from {-len(blocks)} to {len(blocks) - 1}, or the name of a module."
            )
        names.append(blocks[given])
    return list(dict.fromkeys(names))
