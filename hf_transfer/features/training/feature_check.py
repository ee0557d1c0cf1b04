"""What training a head on cached features needs: the head gives the logits, and every objective can do with less."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy
from hf_transfer.features.extraction.inputs import find_source
from hf_transfer.features.extraction.tap_reader import evaluating
from hf_transfer.features.head_logits import head_logits
from hf_transfer.features.training.feature_batches import FEATURES, FeatureTable
from hf_transfer.objective import Objective


if TYPE_CHECKING:
    import datasets

__all__ = ["check_head", "check_objectives", "check_width"]


def check_head(
    model: nn.Module,
    anatomy: Anatomy,
    features: datasets.Dataset,
    rows: datasets.Dataset,
    processor: Any,
    *,
    max_length: int | None = None,
    collator: Callable[[list[dict[str, Any]]], Any] | None = None,
    exact: bool = True,
) -> None:
    """
    Compare the logits of a model with what its head makes of the features of the same rows, one by one.

    Args:
        model (`nn.Module`):
            A classifier.
        anatomy (`Anatomy`):
            Its anatomy; only the head is used.
        features (`datasets.Dataset`):
            The features of `rows`.
        rows (`datasets.Dataset`):
            A few rows, raw or with the model's inputs.
        processor (`Any`):
            The model's own for raw rows, or `None`.
        max_length, collator:
            As for [`extract_features`].
        exact (`bool`, *optional*, defaults to `True`):
            Whether the features are in single precision; else two digits have to agree.

    Raises:
        ValueError: if they differ.
    """
    source = find_source(model, rows, processor, max_length=max_length, collator=collator)
    head = model.get_submodule(anatomy.head)
    parameter = next(model.parameters())
    exact = exact and parameter.dtype in (torch.float32, torch.float64)
    tolerance = 1e-3 if exact else 3e-2
    table = FeatureTable(features, [FEATURES])
    with evaluating(model):
        for row in range(len(rows)):
            (batch,) = source.window(range(row, row + 1)).collate(np.zeros(1, np.int64))
            own = model(**{name: _moved(value, parameter) for name, value in batch.inputs.items()}).logits
            mine = head_logits(head, _moved(table[row].tensors[FEATURES], parameter))
            scale = float(own.abs().max().clamp(min=1.0))
            if own.shape != mine.shape or not torch.allclose(
                own.float(), mine.float(), rtol=0, atol=tolerance * scale
            ):
                _refuse_head(model, anatomy, own, mine)


def _moved(value: Any, like: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(like.device, like.dtype if value.is_floating_point() else None)


def _refuse_head(model: nn.Module, anatomy: Anatomy, own: Tensor, mine: Tensor) -> None:
    what = f"shapes {tuple(own.shape)} and {tuple(mine.shape)}"
    if own.shape == mine.shape:
        what = f"{(own.float() - mine.float()).abs().max().item():.2g} at most"
    raise ValueError(
        f"The logits of {type(model).__name__} and those of its head `{anatomy.head}` on the same features differ by "
        f"{what}: the model does something after its head, or has two, and a head trained alone would not fit it. "
        "Name the layer that returns the logits, `head=...`, or train with `TransferTrainer` and `FreezeBackbone`."
    )


def check_width(features: datasets.Dataset, anatomy: Anatomy) -> None:
    """
    Compare the width of a feature data set with what the head takes.

    Raises:
        ValueError: if they differ.
    """
    if not len(features):
        return
    width = FeatureTable(features, [FEATURES])[0].tensors[FEATURES].shape[-1]
    if width != anatomy.feature_dim:
        raise ValueError(
            f"The features are {width} wide and the head `{anatomy.head}` takes {anatomy.feature_dim}: they are of "
            "another model or another layer. Extract them from this model with `extract_features(model, ...)`, or "
            "give the trainer the data itself."
        )


def check_objectives(objectives: Iterable[Objective]) -> None:
    """
    Look for objectives that read or change the inputs of the model, of which cached features have none.

    Raises:
        ValueError: if there is one.
    """
    from hf_transfer.source import Source

    for objective in objectives:
        second_model = isinstance(getattr(objective, "source", None), Source)
        if objective.transforms or objective.hidden_states or second_model:
            does = "runs a second model on" if second_model else "changes or looks inside a forward of"
            raise ValueError(
                f"{type(objective).__name__} {does} the model's inputs, and a step on cached features has none: only "
                "the head runs. Leave it out, or train with `TransferTrainer` and `FreezeBackbone`."
            )
