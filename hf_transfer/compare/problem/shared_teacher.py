"""The teacher of a comparison, loaded once for all runs."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_transfer.data.loading import TransferData
from hf_transfer.language_models import pretrained_part
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.tokens import load_processor, same_tokens, teacher_inputs


__all__ = ["SharedTeacher"]


class SharedTeacher:
    """
    A teacher that every run meets anew, while its model is loaded once.

    Args:
        teacher (`str`, path, `nn.Module` or `Source`): Hub id, folder or embedded model; or a model in memory, which
            reads what the students read.

    Raises:
        ValueError: if it cannot be loaded.
        OSError: if there is no such model.
    """

    def __init__(self, teacher: Source | nn.Module | str | os.PathLike[str]):
        self.source = Source.of(teacher)
        self.name = self.source.name or type(self.source.model).__name__
        main_input: str = getattr(pretrained_part(self.source.model)[1], "main_input_name", "input_ids")
        self.processor = load_processor(self.source.name, main_input) if self.source.name else None

    @cached_property
    def digest(self) -> str:
        """Of its weights."""
        from hf_transfer.features.cache.digests import weights_digest

        return weights_digest(self.source.model)

    def teacher(self, processor: Any) -> Teacher:
        """A fresh `Teacher` for a student with this processor."""
        own = {} if self.processor is None else {"processor": self.processor, "student_processor": processor}
        return Teacher(self.source, **own)

    def tokenizer(self, processor: Any) -> Any:
        """Its tokenizer, where the student's makes other tokens; else `None`."""
        if not isinstance(self.processor, PreTrainedTokenizerBase) or same_tokens(processor, self.processor):
            return None
        return self.processor

    def with_inputs(self, rows: Dataset, data: TransferData, processor: Any, max_length: int | None) -> Dataset:
        """Raw rows with its own tokens beside the text, where the student's are others."""
        tokenizer = self.tokenizer(processor)
        columns = [name for name in ("text", "text_pair") if name in data.input_columns]
        if tokenizer is None or not columns:
            return rows
        return teacher_inputs(rows, tokenizer, columns, max_length=max_length)
