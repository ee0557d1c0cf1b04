"""Checks of data sets that are to be mixed as tasks: their inputs and the names of their classes."""

from __future__ import annotations

from typing import Any

from datasets import LargeList, List, Value

from hf_transfer.data.columns import listed
from hf_transfer.multitask.parts import Part
from hf_transfer.multitask.task import Task


__all__ = ["check_class_names", "check_inputs"]


def check_class_names(task: Task, part: Part, column: str) -> None:
    """
    Check the classes of a label column against those of its task.

    Raises:
        ValueError: if they have other names, or are more or fewer.
    """
    feature: Any = part.dataset.features[column]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names and task.kind in ("classification", "tokens"):
        if task.label_names and list(task.label_names) != list(names):
            raise ValueError(
                f"Task `{task.name}` has the classes {listed(task.label_names)}, and {part.where} (column `{column}`) "
                f"{listed(names)}: the same number would mean another class. Cast the column to the `ClassLabel` of "
                "the task, or leave `tasks` out."
            )
        if len(names) != task.num_labels and not part.by_row:
            raise ValueError(
                f"Task `{task.name}` has num_labels={task.num_labels}, and {part.where} (column `{column}`) has "
                f"{len(names)} classes: the head would not fit. Give `label_names=` or leave `tasks` out."
            )


def check_inputs(part: Part, first: Part) -> None:
    """
    Check the inputs of a part against those of the first.

    Raises:
        ValueError: if there are none, or they have other names or types.
    """
    missing = [name for name in first.inputs if name not in part.inputs]
    extra = [name for name in part.inputs if name not in first.inputs]
    if missing or extra:
        raise ValueError(
            f"{part.where} has other input columns than {first.where}: it lacks {listed(missing)} and has "
            f"{listed(extra)} besides. One model reads all rows. Pass `processor=` to tokenise raw data sets, or "
            "rename and remove columns until they agree."
        )
    if not first.inputs:
        raise ValueError(
            f"{first.where} has labels and no inputs: the model would have nothing to read. Pass the columns of the "
            "inputs too, such as `text` or `input_ids`."
        )
    for name in first.inputs:
        one, other = first.dataset.features[name], part.dataset.features[name]
        if _family(one) != _family(other):
            raise ValueError(
                f"`{name}` of {part.where} is {other}, and of {first.where} {one}: rows of one batch need the same "
                "type. Cast it with `dataset.cast_column`."
            )


def _family(feature: Any) -> object:
    """The type of a column up to the width of its numbers and strings, which depends on the reader of the file."""
    if isinstance(feature, (List, LargeList)):
        return "list", _family(feature.feature)
    if isinstance(feature, Value):
        return next((family for family in ("string", "int", "float") if family in feature.dtype), feature.dtype)
    return repr(feature)
