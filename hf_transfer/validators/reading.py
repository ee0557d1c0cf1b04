"""What a model makes of rows now: features and logits, held in memory, since the weights change between readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.anatomy import anatomy
from hf_transfer.features.extraction.inputs import Source, find_source, label_column
from hf_transfer.features.extraction.preparing import rows_per_forward
from hf_transfer.features.extraction.steady import batches_of
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.series_models import named_output
from hf_transfer.tap import HeadTap
from hf_transfer.validators.mixing import InputMixing


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Reader", "ReadingKwargs", "Readings"]


class ReadingKwargs(TypedDict):
    """Options of [`Reader`]."""

    processor: Any
    data_collator: Callable[[list[dict[str, Any]]], Any] | None
    max_length: int | None
    batch_size: int
    max_rows: int
    seed: int
    head: str | None


@dataclass(frozen=True)
class Readings:
    """
    What a model made of rows: of examples, or of tokens for token classification.

    Args:
        features (`np.ndarray`): `(N, D)` float32, the inputs of the head.
        logits (`np.ndarray`): `(N, C)` float32.
        labels (`np.ndarray`, *optional*): `(N,)`; `None` where they were not asked for.
        mixed_agreement (`float`, *optional*): what [`InputMixing`] found, where inputs can be mixed.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray | None = None
    mixed_agreement: float | None = None

    @property
    def classes(self) -> np.ndarray:
        """The class of the largest logit, `(N,)`."""
        return self.logits.argmax(1)


class Reader:
    """
    Reads features and logits off a model; a context manager that takes its hook off.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT, in evaluation mode.
        processor (`Any`, *optional*):
            The model's own, for raw columns.
        data_collator (`Callable`, *optional*):
            Collates rows.
        max_length (`int`, *optional*):
            Longest text in tokens.
        batch_size (`int`):
            Most rows per forward.
        max_rows (`int`):
            Most rows that are read, unless all are asked for.
        seed (`int`):
            Of the rows that are read and mixed.
        head (`str`, *optional*):
            Name of the head.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        processor: Any = None,
        data_collator: Callable[[list[dict[str, Any]]], Any] | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        max_rows: int = 2000,
        seed: int = 0,
        head: str | None = None,
    ):
        self.model = model
        self.processor, self.data_collator, self.max_length = processor, data_collator, max_length
        self.batch_size, self.max_rows, self.seed = batch_size, max_rows, seed
        parameter = next(model.parameters())
        self._device = parameter.device
        self._float = parameter.dtype if parameter.is_floating_point() else torch.float32
        self._tap = HeadTap(model, anatomy(model, head=head).head)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tap.remove()

    def read(
        self, dataset: Dataset, *, labelled: bool = False, everything: bool = False, mix: bool = False
    ) -> Readings:
        """
        The rows of a data set, in an order drawn by the seed.

        Args:
            dataset (`datasets.Dataset`):
                The rows.
            labelled (`bool`, *optional*, defaults to `False`):
                Read labels too, and leave rows without out. Else the labels are not looked at.
            everything (`bool`, *optional*, defaults to `False`):
                More than `max_rows` too.
            mix (`bool`, *optional*, defaults to `False`):
                Try mixtures of rows, if they are images.

        Raises:
            ValueError: if no row has a label that should have one; and whatever `find_source` raises.
        """
        # drawn, not in order: a data set may be sorted by class, and mixtures need several in a batch
        order = np.random.default_rng(self.seed).permutation(len(dataset))
        rows = dataset.select(order if everything else order[: self.max_rows])
        source = find_source(self.model, rows, self.processor, max_length=self.max_length, collator=self.data_collator)
        window: Any = source.window(range(len(rows)))
        mixing = InputMixing(self.seed) if mix and set(source.reads) & {"pixel_values"} else None
        found: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(rows)
        for positions in batches_of(window, rows_per_forward(self.model, source, self.batch_size), "any"):
            for batch in window.collate(positions):
                inputs = {name: self._moved(value) for name, value in batch.inputs.items()}
                for position, *own in zip(batch.positions, *self._rows(inputs, batch.mask, mixing), strict=True):
                    found[position] = (own[0], own[1])
        features, logits = (np.concatenate([row[part] for row in found if row is not None]) for part in (0, 1))
        labels = None
        if labelled:
            labels = _labels(rows, source, window, [len(row[0]) for row in found if row is not None])
            kept = labels != UNLABELLED
            if not kept.any():
                raise ValueError(
                    "None of the rows that were read has a label: there is no error to count on them. Give labelled "
                    "rows, or raise `max_rows`."
                )
            features, logits, labels = features[kept], logits[kept], labels[kept]
        if len(features) > self.max_rows and not everything:  # tokens
            chosen = np.random.default_rng(self.seed).permutation(len(features))[: self.max_rows]
            features, logits = features[chosen], logits[chosen]
            labels = None if labels is None else labels[chosen]
        return Readings(features, logits, labels, None if mixing is None else mixing.agreement())

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self._device)
        return value.to(self._float) if value.is_floating_point() else value

    def _logits(self, inputs: Mapping[str, Any]) -> Tensor:
        outputs: Any = self.model(**inputs)
        return (outputs[named_output(outputs)] if isinstance(outputs, Mapping) else outputs[0]).float()

    def _rows(
        self, inputs: dict[str, Any], mask: Tensor | None, mixing: InputMixing | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Features and logits of each example: `(1, D)` and `(1, C)`, or one row per token that is no padding."""
        self._tap.open = True
        try:
            logits = self._logits(inputs)
            features = self._tap.take(logits, inputs)
        finally:
            self._tap.open = False
        if mixing is not None:
            mixing.add(self._logits, inputs, logits)
        parts = [part.cpu().numpy() for part in (features, logits)]
        if logits.dim() == 2:
            return [row[None] for row in parts[0]], [row[None] for row in parts[1]]
        real = np.ones(parts[1].shape[:2], bool) if mask is None else mask.cpu().numpy() != 0
        features_of, logits_of = ([row[own] for row, own in zip(part, real, strict=True)] for part in parts)
        return features_of, logits_of


def _labels(dataset: Dataset, source: Source, window: Any, sizes: list[int]) -> np.ndarray:
    """One per row that was read."""
    if any(size != 1 for size in sizes) or source.token_labels:
        labels = window.token_labels() if source.token_labels else None
        if labels is None or [len(row) for row in labels] != sizes:
            raise ValueError(
                "The labels of the rows do not fit their tokens, of which the model classifies each one: which label "
                "belongs to which token is unknown. Give `labels` as long as `input_ids`, as `prepare` makes them."
            )
        return np.concatenate(labels)
    column: Any = dataset.select_columns([str(label_column(dataset))]).with_format("arrow")[:]
    return column[0].fill_null(UNLABELLED).to_numpy().astype(np.int64)
