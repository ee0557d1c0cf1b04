"""Formats and transforms of data sets that were mixed as tasks go on working."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from hf_transfer.data.columns import listed
from hf_transfer.data.transforms import DomainTransform
from hf_transfer.multitask.parts import Part
from hf_transfer.multitask.task import TASK_COLUMN, Task
from hf_transfer.multitask.transforms import TaskTransform, TaskTransforms


__all__ = ["with_formats"]


def with_formats(
    mixed: Dataset, formats: Sequence[dict[str, Any]], parts: Sequence[Part], tasks: Sequence[Task]
) -> Dataset:
    """
    The mixed data set with the formats and transforms of its parts.

    Args:
        mixed (`Dataset`): without a format.
        formats (`Sequence[dict]`): what `Dataset.format` said of each part.
        parts (`Sequence[Part]`): the parts.
        tasks (`Sequence[Task]`): the tasks.

    Raises:
        ValueError: if parts have formats that differ and are no transforms.
    """
    kinds = [format["type"] for format in formats]
    if not any(kinds):
        return mixed
    columns = [task.column for task in tasks]
    if set(kinds) <= {"custom", None}:
        transforms = []
        for part, format in zip(parts, formats, strict=True):
            label = part.columns[part.task] if part.task else ""
            column = f"labels_{part.task}" if part.task else ""
            transforms.append(TaskTransform(_transform(format), label, column))
        return mixed.with_transform(TaskTransforms(transforms, columns))
    added = {*columns, TASK_COLUMN}
    settings = [
        (format["type"], format["format_kwargs"], set(format["columns"]) & set(part.inputs))
        for part, format in zip(parts, formats, strict=True)
    ]
    if any(setting != settings[0] for setting in settings):
        raise ValueError(
            f"The data sets have different formats: {listed(kinds)}, or other columns or options of it; rows of one "
            "batch need the same. Call `with_format` alike on every one, or only on the result."
        )
    kind, options, chosen = settings[0]
    return mixed.with_format(kind, columns=[name for name in mixed.column_names if name in chosen | added], **options)


def _transform(format: dict[str, Any]) -> DomainTransform | None:
    if format["type"] is None:
        return None
    return DomainTransform(
        format["format_kwargs"]["transform"], tuple(format["columns"]), format["output_all_columns"]
    )
