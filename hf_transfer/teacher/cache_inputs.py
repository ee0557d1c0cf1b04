"""The rows of a data set as a teacher reads them when its answers are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from hf_transfer.features.extraction.inputs import Source, find_source, from_arrow_lengths, label_column
from hf_transfer.teacher.cached_columns import is_cached
from hf_transfer.teacher.tokens import PREFIX


REMEDY = (
    "Take the augmentation out of the data that is cached, or leave the cache out and give the objective the teacher, "
    "which then sees what the student sees."
)
"""What to do where inputs are random, for messages."""

__all__ = ["REMEDY", "teacher_source"]


def teacher_source(
    model: nn.Module, dataset: Any, processor: Any, max_length: int | None, collator: Any
) -> tuple[Source, bool]:
    """
    How to read the data, and whether they are read as inputs of the teacher and not of a student.

    Args:
        model (`nn.Module`): the teacher's.
        dataset (`datasets.Dataset`): as given to [`cache_teacher`].
        processor (`Any`): the teacher's own, for raw columns.
        max_length (`int`, *optional*): longest text in tokens.
        collator (`Callable`, *optional*): collates rows in place of the padding here.

    Raises:
        ValueError: if the data set augments its images at random; as [`find_source`].
    """
    from hf_transfer.data.preparation import _ImageTransform

    shown = getattr(dataset, "format", None) or {}
    transform = (shown.get("format_kwargs") or {}).get("transform")
    if isinstance(transform, _ImageTransform) and transform.augment is not None:
        raise ValueError(
            "The data set augments its images at random: the teacher's answers to one draw would pass for those to "
            f"every other. {REMEDY}"
        )
    own = [name for name in getattr(dataset, "column_names", ()) if name.startswith(PREFIX) and not is_cached(name)]
    if own:  # tokens of its own, beside those of the student
        dataset = dataset.with_format(None).select_columns(own)
        dataset = dataset.rename_columns({name: name.removeprefix(PREFIX) for name in own})
    found = find_source(model, dataset, processor, max_length=max_length, collator=collator)
    own_inputs = bool(own) or (processor is not None and found.processor is processor)
    return (found if collator is not None else _as_trained_on(found, dataset)), own_inputs


def _as_trained_on(found: Source, dataset: Any) -> Source:
    """The source without labels; text that was padded to one length is run at that length, as it is in training."""
    # what the teacher says does not depend on the labels
    label = label_column(dataset)
    names = [name for name in found.columns if name != label or not found.token_labels]
    found = replace(found, columns=names, token_labels=False)
    if found.kind != "ids":
        return found
    lengths = from_arrow_lengths(found.dataset.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"])
    if (lengths != lengths[0]).any():
        return found
    return replace(found, kind="fetched", dataset=found.dataset.select_columns(names).with_format("numpy"))
