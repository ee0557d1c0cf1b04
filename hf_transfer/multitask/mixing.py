"""`mix_tasks`: the labelled rows of several tasks as one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.multitask.task import Task, check_tasks


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_transfer.multitask.parts import LabelColumns

__all__ = ["mix_tasks"]


def mix_tasks(
    datasets: Mapping[str, Dataset] | Dataset,
    tasks: Sequence[Task] | None = None,
    *,
    label_columns: LabelColumns | None = None,
    processor: Any = None,
    max_length: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> Dataset:
    """
    One data set for several tasks: the inputs, a column `labels_<name>` for each task, and where rows are of one task
    each an int64 column `task` with its number.

    A row without a label of a task has -100 there, or a list of them; so has one whose label is null. Inputs are
    neither copied nor decoded, and formats and transforms go on working, also where every data set has another.

    Args:
        datasets (`Mapping[str, Dataset]` or `Dataset`):
            A data set for each task, by its name, with its labels in `labels_<name>` or the only one of `label`,
            `labels`, `ner_tags` and `tags`; or one data set with a column `task` (numbers or names) and one of
            labels; or one with a label column for each task. What this function made may be given again.
        tasks (`Sequence[Task]`, *optional*):
            The tasks in their order; by default those that the labels tell of ([`infer_tasks`]).
        label_columns (`Mapping[str, str]` or `Sequence[str]`, *optional*):
            The label column of each task by its name; a list of columns stands for tasks of these names.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`, *optional*):
            Prepares raw data sets for the model as [`prepare`] does: texts are tokenised, labels of words given to
            their first pieces, images processed when they are read. Without it the inputs stay as they are.
        max_length (`int`, *optional*):
            Longest text in tokens; by default as long as the tokenizer allows.
        augment (`Callable`, *optional*):
            Maps `(B, 3, H, W)` processed images to the same shape.

    Raises:
        TypeError: if a dictionary of splits or something other than a `Dataset` is given.
        ValueError: if a task is unknown, or has no data set, row or label; if two have the same label column; if data
            sets have different inputs, formats or class names; if a label is no class of its task or no number.
        ImportError: if `datasets` is not installed.

    Relations:
        [`mix_domains`] mixes data sets of one task, of which some are unlabelled. Train on the result with
        [`MultiTask`], whose batches a [`TaskCollator`] makes.

    Example:
        >>> from datasets import Dataset
        >>> stars = Dataset.from_dict({"text": ["good", "bad"], "label": [4.5, 1.0]})
        >>> taste = Dataset.from_dict({"text": ["salty"], "label": [1]})
        >>> mixed = mix_tasks({"stars": stars, "taste": taste})
        >>> mixed["labels_stars"][:], mixed["labels_taste"][:], mixed["task"][:]
        ([4.5, 1.0, -100.0], [-100, -100, 1], [0, 0, 1])
    """
    if not is_datasets_available():
        raise ImportError(
            "`mix_tasks` mixes data sets of the library `datasets`, which is not installed. Run "
            '`pip install "hf-transfer-learning[recipes]"`.'
        )
    from hf_transfer.multitask.inference import inferred
    from hf_transfer.multitask.parts import parts_of
    from hf_transfer.multitask.tables import mix_parts

    given = None if tasks is None else check_tasks(tasks)
    parts = parts_of(datasets, None if given is None else [task.name for task in given], label_columns)
    known = inferred(parts) if given is None else given
    if processor is not None:
        from hf_transfer.multitask.task_inputs import prepared

        by_name = {task.name: task for task in known}
        parts = [prepared(part, by_name, processor, max_length=max_length, augment=augment) for part in parts]
    return mix_parts(parts, known)
