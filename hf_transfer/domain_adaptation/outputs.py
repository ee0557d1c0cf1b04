"""What a model makes of the rows of a domain: features and logits, kept beside the model for reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_transfer.anatomy import anatomy
from hf_transfer.features.extraction.tap_reader import evaluating
from hf_transfer.files import whole_file
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.tap import HeadTap


__all__ = ["Outputs", "load_outputs", "model_outputs", "save_outputs"]


@dataclass(frozen=True)
class Outputs:
    """
    Features and logits of the rows of a domain; of a token classifier a row is a token.

    Args:
        features (`Tensor`): `(N, D)` float32, what enters the head.
        logits (`Tensor`): `(N, C)` float32.
        labels (`Tensor`): `(N,)`, or `(N, C)` for several labels a row; -100 for rows without one.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def labelled(self) -> Outputs:
        """The rows that have a label."""
        rows = self.labels != UNLABELLED
        rows = rows if rows.dim() == 1 else rows.any(1)
        return Outputs(self.features[rows], self.logits[rows], self.labels[rows])


def model_outputs(
    model: nn.Module, rows: Any, collate: Callable[[list[dict[str, Any]]], Any], *, batch_size: int
) -> Outputs:
    """
    Features and logits of every row, in their order, on the CPU. The model is in `eval()` meanwhile.

    Args:
        model (`nn.Module`): any classifier of transformers, on its device.
        rows (map-style data set): prepared rows, with `labels` or without.
        collate (`Callable`): the collator.
        batch_size (`int`): rows of a forward.
    """
    tap = HeadTap(model, anatomy(model).head)
    device = next(model.parameters()).device
    parts: list[Outputs] = []
    try:
        with torch.no_grad(), evaluating(model):
            for batch in DataLoader(rows, batch_size=batch_size, collate_fn=collate):
                batch = {name: value.to(device) for name, value in batch.items() if name != "domain"}
                labels = batch.pop("labels", None)
                tap.open = True
                output = model(**batch)
                tap.open = False
                logits = (output["logits"] if isinstance(output, dict) else output[0]).float()
                parts.append(_rows(tap.take(logits, batch), logits, labels, batch.get("attention_mask")))
    finally:
        tap.remove()
    return Outputs(*(torch.cat([getattr(part, name) for part in parts]) for name in ("features", "logits", "labels")))


def save_outputs(outputs: dict[str, Outputs], file: Path) -> None:
    """Write the outputs of several domains into one file, by their names."""
    tensors = {
        f"{name}.{field}": getattr(part, field).contiguous()
        for name, part in outputs.items()
        for field in ("features", "logits", "labels")
    }
    with whole_file(file) as unfinished:
        save_file(tensors, unfinished)


def load_outputs(file: Path, names: Sequence[str]) -> dict[str, Outputs]:
    """What [`save_outputs`] wrote."""
    tensors = load_file(file)
    return {
        name: Outputs(*(tensors[f"{name}.{field}"] for field in ("features", "logits", "labels"))) for name in names
    }


def _rows(features: Tensor, logits: Tensor, labels: Tensor | None, mask: Tensor | None) -> Outputs:
    if labels is None:
        labels = torch.full(logits.shape[:-1], UNLABELLED, device=logits.device)
    if logits.dim() == 3:
        counted = mask.bool() if mask is not None and mask.shape == logits.shape[:2] else labels == labels
        features, logits, labels = features[counted], logits[counted], labels[counted]
    return Outputs(features.cpu(), logits.cpu(), labels.cpu())
