"""`student_from_teacher`: a shallower model of the teacher's class that starts from its weights."""

from __future__ import annotations

import copy as copies
import os
from typing import Any

from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.source import Source
from hf_transfer.students.depth import resized
from hf_transfer.students.selection import KeepBlocks, is_rule, kept_positions, nearest_of_kind
from hf_transfer.students.stacks import Stack, difference, signature, stacks_of
from hf_transfer.students.weights import fill, misfit
from hf_transfer.teacher import Teacher


__all__ = ["student_from_teacher"]


def student_from_teacher(
    teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
    keep_blocks: KeepBlocks = "every_other",
    *,
    copy: bool = True,
    head: str | None = None,
) -> Any:
    """
    A student made of some of the teacher's blocks: the same class and widths, and the teacher's weights in the blocks
    that stay, the embeddings, the neck and the head.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            Any classifier of `transformers`, or a Hub id or folder of one. It is not changed. Adapters are merged
            into the copied weights.
        keep_blocks (`str`, `int` or `Sequence[int]`, *optional*, defaults to `"every_other"`):
            Which blocks stay. `"every_other"`: the first, third, ...; `"first"` or `"last"`: that half, rounded up;
            each in every list of blocks (encoder and decoder, each stage). A number: so many in all, in proportion to
            the lists, spread from the first to the last (0, 2, 4, 7, 9, 11 for 6 of 12, as in DistilBERT). A list:
            these, numbered as in `anatomy(teacher).blocks`, negative from the end. For a block that is run repeatedly
            (ALBERT), what counts is how many stay.
        copy (`bool`, *optional*, defaults to `True`):
            Copy the weights. If `False` the student shares the teacher's memory, and training it destroys the teacher.
        head (`str`, *optional*):
            Name of the teacher's head, where it cannot be told from the model.

    Returns:
        `PreTrainedModel`: in evaluation mode, as `from_pretrained` gives models; every parameter trains; in the
        teacher's dtype and on its device. Its config has the teacher's class names and the new number of blocks, so
        that `save_pretrained` and `from_pretrained` give the same model.

    A rule or a number is a wish. Where kinds of blocks alternate (Swin's shifted windows, local and global attention)
    and the blocks that it says would be of the wrong kind for their place, or all of one, the nearest are taken that
    keep the teacher's pattern. A rule leaves a list of blocks whole that no field of the config shortens. A list of
    numbers is taken as it is, or refused.

    Deviations from the paper:
        DistilBERT leaves the pooler and the head behind; here the student starts with them.

    Raises:
        TypeError: if the teacher is no model of `transformers`.
        ValueError: if a block cannot go, because its widths or its kind differ from what would stand in its place; if
            the config has no field for the number of blocks; if the teacher is quantised or has adapters that cannot
            be merged; if `keep_blocks` names no such blocks; if `copy=False` meets a [`Teacher`] or [`Source`].

    Relations:
        For a student of another class or width load it as any model; layer maps pair its blocks with the teacher's.
        [`reinitialize_blocks`] keeps the depth.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=6, num_attention_heads=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> student = student_from_teacher(teacher, [0, 2, 5])
        >>> student.config.num_hidden_layers
        3
        >>> kept = student.bert.encoder.layer[2].output.dense.weight
        >>> bool((kept == teacher.bert.encoder.layer[5].output.dense.weight).all())
        True

    Paper: Sanh et al., "DistilBERT, a distilled version of BERT", 2019, https://huggingface.co/papers/1910.01108
    """
    model = _model_of(teacher, copy=copy)
    stacks = stacks_of(model, anatomy(model, head=head))
    kept = kept_positions(keep_blocks, stacks)
    if isinstance(keep_blocks, str):
        kept = _shortenable(model, stacks, kept)
    student = _sized(model, stacks, kept)
    wrong = _misplaced(model, student, stacks, kept)
    if is_rule(keep_blocks) and (wrong is not None or _loses_kind(model, stacks, kept)):
        patterned = _sized(model, stacks, kept, in_pattern=True)
        chosen = _of_kind(model, patterned, stacks, kept)
        if chosen is not None:
            kept, student, wrong = chosen, patterned, None
    if wrong is not None:
        raise ValueError(_cannot_go(model, student, stacks, *wrong))
    name = misfit(model, student, stacks, kept)
    if name:
        raise ValueError(
            f"`{name}` of {type(model).__name__} has no counterpart, or one of another shape, in a model of "
            f"{sum(map(len, kept))} blocks: the student would start from random numbers there. Keep all blocks, or "
            "take a student of another class."
        )
    fill(model, student, stacks, kept, copy=copy)
    return student.requires_grad_(True).eval()


def _model_of(teacher: Teacher | Source | nn.Module | str | os.PathLike[str], *, copy: bool) -> Any:
    if isinstance(teacher, Teacher | Source):
        if not copy:
            raise ValueError(
                f"`copy=False` with {teacher!r}: training the student would change the weights of what it learns "
                "from. Leave it at True."
            )
        model: Any = teacher.model
    elif isinstance(teacher, nn.Module):
        model = teacher
    else:
        model = Source(teacher).model
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    # the class attribute of `PreTrainedModel`, whose import would take seconds
    if not hasattr(type(base), "base_model_prefix"):
        raise TypeError(
            f"{type(base).__name__} is no model of transformers: no config says how many blocks the student "
            "has. Pass the bare model, unwrapped from DDP or `torch.compile`."
        )
    if getattr(base.config, "quantization_config", None) is not None:
        raise ValueError(
            f"{type(base).__name__} is quantised: its weights cannot be trained, and so no student can start from "
            "them. Load the teacher without `quantization_config` to make the student, which may then learn from the "
            "quantised one."
        )
    if model is base:
        return model
    if not hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"The adapters of {type(base).__name__} ({type(model.base_model).__name__}) cannot be merged into its "
            "weights: the student would start without what they learned. Use LoRA or another kind with "
            "`merge_and_unload()`, or pass `model.get_base_model()` to do without."
        )
    return copies.deepcopy(model).merge_and_unload()


def _shortenable(model: Any, stacks: list[Stack], kept: list[list[int]]) -> list[list[int]]:
    """What a rule keeps where some stacks have to stay whole; as it is if all have."""
    wished = [len(positions) < len(stack) for stack, positions in zip(stacks, kept, strict=True)]
    able = [not wish or _shrinks(model, stack) for wish, stack in zip(wished, stacks, strict=True)]
    if not any(wish and can for wish, can in zip(wished, able, strict=True)):
        return kept
    return [
        positions if can else list(range(len(stack))) for can, stack, positions in zip(able, stacks, kept, strict=True)
    ]


def _shrinks(model: Any, stack: Stack) -> bool:
    return len(stack) > 1 and isinstance(resized(model, [stack], [list(range(len(stack) - 1))]), nn.Module)


def _sized(model: Any, stacks: list[Stack], kept: list[list[int]], *, in_pattern: bool = False) -> nn.Module:
    student = resized(model, stacks, kept, in_pattern=in_pattern)
    if isinstance(student, nn.Module):
        return student
    others = [stack for stack in stacks if stack is not student and _shrinks(model, stack)]
    able = _listing([number for stack in others for number in stack.numbers])
    raise ValueError(
        f"No field of {type(model.config).__name__} shortens `{student.name}`, a list of {len(student)} blocks: a "
        "student with fewer could be neither saved nor loaded. "
        + (f"Blocks that can go: {able}." if able else "Take a student of another class.")
    )


def _loses_kind(model: nn.Module, stacks: list[Stack], kept: list[list[int]]) -> bool:
    """Whether some kind of block (attention to everything, beside local attention) would be gone."""
    for stack, positions in zip(stacks, kept, strict=True):
        kinds = [signature(stack.block(model, position)) for position in range(len(stack))]
        if not all(any(kinds[position] == kind for position in positions) for kind in kinds):
            return True
    return False


def _misplaced(
    model: nn.Module, student: nn.Module, stacks: list[Stack], kept: list[list[int]]
) -> tuple[Stack, int, int, str] | None:
    """A block that is not of the kind of its place in the student: stack, position, place, what differs."""
    for stack, positions in zip(stacks, kept, strict=True):
        for place, position in enumerate(positions):
            differs = difference(signature(stack.block(model, position)), signature(stack.block(student, place)))
            if differs:
                return stack, position, place, differs
    return None


def _of_kind(
    model: nn.Module, student: nn.Module, stacks: list[Stack], kept: list[list[int]]
) -> list[list[int]] | None:
    chosen = []
    for stack, positions in zip(stacks, kept, strict=True):
        there = [signature(stack.block(model, position)) for position in range(len(stack))]
        here = [signature(stack.block(student, place)) for place in range(len(positions))]
        found = nearest_of_kind(
            positions, len(stack), lambda place, position, a=here, b=there: not difference(a[place], b[position])
        )
        if found is None:
            return None
        chosen.append(found)
    return chosen


def _cannot_go(
    model: Any, student: nn.Module, stacks: list[Stack], stack: Stack, position: int, place: int, differs: str
) -> str:
    what = f"`{differs.partition('.')[2]}` of the blocks of {type(model).__name__}"
    if difference(signature(stack.block(model, place)), signature(stack.block(student, place))) == differs:
        return (
            f"{what} depends on how many blocks `{stack.name}` has: those of a shallower student would compute "
            "something else with the same weights. Keep all blocks, or take a student of another class."
        )
    able = []
    for one in stacks:
        kinds = [signature(one.block(model, index)) for index in range(len(one))]
        able += [number for number, kind in zip(one.numbers, kinds, strict=True) if kinds.count(kind) > 1]
    return (
        f"{what} depends on their place, and block {stack.numbers[position]} would be number {place} of "
        f"`{stack.name}` in the student: its weights belong to another kind of block. "
        + (
            f"Blocks that have others of their kind, and can go: {_listing(able)}; or give a rule."
            if able
            else "Keep all."
        )
    )


def _listing(numbers: list[int]) -> str:
    """Numbers as ranges."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
