"""Texts for a teacher with a tokenizer of its own: columns beside the student's, and whether they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hf_transfer.data.columns import listed


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    Data = TypeVar("Data", Dataset, DatasetDict)

PREFIX = "teacher_"
"""What the teacher's own inputs are called in the data, before the name that its model gives them."""

# Where tokenizers with one vocabulary may still differ: case, accents, numbers, punctuation, spaces, other scripts.
_PROBES = ("Hello World, it's 3.14 o'clock!", "Ünïcödé  naïve\tcafé", "數據 ab-cd_ef #tag @user http://x.y/z")

__all__ = ["PREFIX", "same_tokens", "teacher_inputs"]


def teacher_inputs(
    dataset: Data,
    tokenizer: Any,
    columns: str | Sequence[str] = "text",
    *,
    max_length: int | None = None,
    batch_size: int = 1000,
) -> Data:
    """
    The data set with the texts as a teacher's own tokenizer reads them, in columns `teacher_input_ids`,
    `teacher_attention_mask` and what else it makes. [`TeacherCollator`] pads them, and the [`Teacher`] reads them in
    place of what the student reads.

    Args:
        dataset (`Dataset` or `DatasetDict`):
            With the texts; the student's own columns may be there too.
        tokenizer (tokenizer, `str` or path):
            The teacher's.
        columns (`str` or `Sequence[str]`, *optional*, defaults to `"text"`):
            Column of the texts, or both columns of pairs.
        max_length (`int`, *optional*):
            Longest row in tokens; by default what the tokenizer allows.
        batch_size (`int`, *optional*, defaults to 1000):
            Rows at a time.

    Raises:
        ValueError: if a column is missing, or one of the teacher's is there already.

    Example:
        >>> from datasets import Dataset
        >>> from hf_transfer.data.source_models import source_model  # doctest: +SKIP
        >>> data = Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]})
        >>> teacher_inputs(data, "embedded:text").column_names  # doctest: +SKIP
        ['text', 'label', 'teacher_input_ids', 'teacher_token_type_ids', 'teacher_attention_mask']
    """
    tokenizer = load_processor(tokenizer, "input_ids")
    names = [columns] if isinstance(columns, str) else list(columns)
    splits = dataset.column_names
    for present in splits.values() if isinstance(splits, dict) else [splits]:
        missing = [name for name in names if name not in present]
        if missing or not 1 <= len(names) <= 2:
            raise ValueError(
                f"`columns={names}` with a data set of {listed(present)}: a teacher reads one text a row, or two. "
                'Name the column of the texts, such as `columns="sentence"`, before the student\'s tokenizer drops it.'
            )
        taken = [name for name in present if name.startswith(PREFIX) and name[len(PREFIX) :] in _inputs(tokenizer)]
        if taken:
            raise ValueError(
                f"The data set has {listed(taken)} already: two teachers would stand under one name. Take them out "
                "first, `dataset.remove_columns([...])`."
            )

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(*(batch[name] for name in names), truncation=True, max_length=max_length)
        return {f"{PREFIX}{name}": values for name, values in encoded.items() if name in _inputs(tokenizer)}

    return dataset.map(read, batched=True, batch_size=batch_size, desc="Teacher's tokens")


def same_tokens(first: Any, second: Any) -> bool:
    """
    Whether two tokenizers read texts alike: the same vocabulary, and the same ids for some texts on which tokenizers
    of one vocabulary differ.
    """
    if first is second:
        return True
    if first.get_vocab() != second.get_vocab():
        return False
    return all(first(probe)["input_ids"] == second(probe)["input_ids"] for probe in _PROBES)


def load_processor(processor: Any, main_input: str) -> Any:
    """The processor for models that read `main_input`, loaded if it is given by its name."""
    if not isinstance(processor, (str, os.PathLike)):
        return processor
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

    from hf_transfer.models import resolve_name

    kinds: dict[str, Any] = {
        "pixel_values": AutoImageProcessor,
        "input_values": AutoFeatureExtractor,
        "input_features": AutoFeatureExtractor,
    }
    kind = kinds.get(main_input, AutoTokenizer)
    return kind.from_pretrained(resolve_name(os.fspath(processor)))


def _inputs(tokenizer: Any) -> set[str]:
    return {*tokenizer.model_input_names, "input_ids", "attention_mask", "token_type_ids"}
