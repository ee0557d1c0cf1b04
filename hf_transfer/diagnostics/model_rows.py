"""What a model in training makes of some rows: features, logits and labels, with nothing of the training disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.attach import CHILD
from hf_transfer.features.extraction.tap_reader import forward_parameters, model_inputs
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.tap import HeadTap


__all__ = ["ModelRows", "anatomy_of", "is_label", "read_model"]


@dataclass(frozen=True)
class ModelRows:
    """
    What a model makes of some rows.

    Args:
        features (`np.ndarray`): `(N, D)` float32, what enters the head; of tokens their mean.
        logits (`np.ndarray`): `(M, C)` float64, of each row, or of each real token of a token classifier.
        labels (`np.ndarray`): `(M,)`, -100 where there is none.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


def is_label(name: str, label_names: Sequence[str] = ()) -> bool:
    """Whether a column of this name is one of labels, which the target must not show."""
    return "label" in name.lower() or name in label_names


def anatomy_of(model: nn.Module, head: str | None = None) -> Anatomy:
    """The anatomy of a model, as its objectives know it where it has any."""
    objectives: Any = getattr(model, CHILD, None)
    return anatomy(model, head=head) if objectives is None else objectives.attachment.anatomy


def read_model(
    model: nn.Module,
    dataset: Any,
    rows: Sequence[int],
    collate: Callable[[list[Any]], Any],
    *,
    batch_size: int,
    labelled: bool,
    label_names: Sequence[str] = (),
    head: str | None = None,
) -> ModelRows:
    """
    Features and logits of some rows of a data set. The model must be in evaluation mode.

    Args:
        model (`nn.Module`): any classifier of `transformers`, also under PEFT, not its DDP wrapper.
        dataset (`Any`): rows as dictionaries.
        rows (`Sequence[int]`): which.
        collate (`Callable`): makes a batch of a list of rows.
        batch_size (`int`): rows per forward.
        labelled (`bool`): whether labels are read. If not, they are dropped from each row before anything sees it.
        label_names (`Sequence[str]`): further columns that are labels.
        head (`str`, *optional*): name of the head.

    Raises:
        ValueError: if the collator adds rows or takes some away.
        RuntimeError: if the forward does not pass through the head.
    """
    inputs = model_inputs(model)
    parameter = next(model.parameters())
    options = {"use_cache": False} if "use_cache" in forward_parameters(model) else {}
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    tap = HeadTap(model, anatomy_of(model, head).head)
    try:
        for start in range(0, len(rows), batch_size):
            fetched = [dataset[int(row)] for row in rows[start : start + batch_size]]
            batch = dict(collate([_needed(row, inputs, labelled, label_names) for row in fetched]))
            labels = next((batch[name] for name in ("labels", "label") if name in batch), None)
            batch = {name: _moved(batch[name], parameter) for name in batch if name in inputs}
            tap.open = True
            outputs = model(**batch, **options)
            tap.open = False
            logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
            if len(logits) != len(fetched):
                raise ValueError(
                    f"The data collator made {len(logits)} rows of {len(fetched)}: which of them are the data's is "
                    "unknown. Pass one that keeps the rows: `DomainHealth(..., data_collator=...)`."
                )
            features = tap.take(logits, batch)
            parts.append(_arrays(features, logits.float(), labels if labelled else None, batch.get("attention_mask")))
    finally:
        tap.remove()
    return ModelRows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _needed(row: Any, inputs: set[str], labelled: bool, label_names: Sequence[str]) -> dict[str, Any]:
    """What of a row the collator gets: the model's inputs, and labels where they are read."""
    kept = {name: value for name, value in row.items() if labelled or not is_label(name, label_names)}
    if not any(name in inputs for name in kept):  # raw rows, of which the collator makes the inputs
        return kept
    return {name: value for name, value in kept.items() if name in inputs or is_label(name, label_names)}


def _moved(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.to(parameter.device)
    return value.to(parameter.dtype) if value.is_floating_point() and parameter.is_floating_point() else value


def _arrays(
    features: Tensor, logits: Tensor, labels: Tensor | None, mask: Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = logits.new_full(logits.shape[:-1], UNLABELLED, dtype=torch.long)
    if labels is not None and labels.shape == known.shape and not labels.is_floating_point():
        known = labels.to(known)
    if logits.dim() == 3:
        real = torch.ones_like(known, dtype=torch.bool)
        if mask is not None and mask.shape == known.shape:
            real = mask != 0
        logits, known = logits[real], known[real]
        if features.dim() == 3:
            weights = real.unsqueeze(-1).to(features.dtype)
            features = features.masked_fill(weights == 0, 0.0).sum(1) / weights.sum(1).clamp(min=1)
    return features.cpu().numpy(), logits.double().cpu().numpy(), known.cpu().numpy()
