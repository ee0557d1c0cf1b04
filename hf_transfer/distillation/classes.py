"""A trained model with the classes of a data set, matched by their names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.batch import ModelSpec
from hf_transfer.data.loading import TransferData
from hf_transfer.teacher.labels import class_names, class_order


__all__ = ["matching", "take_classes"]


def matching(config: Any, data: TransferData) -> list[int] | None:
    """
    The output of a trained model for each class of the data; `None` where they are the same. Without names in its
    config the outputs are taken to be the classes of the data, if there are as many.

    Args:
        config (`PreTrainedConfig`): of the model.
        data (`TransferData`): whose classes.

    Raises:
        ValueError: if a class of the data is missing, or there are other numbers of unnamed ones.
    """
    count: int = config.num_labels
    names = class_names(config, count)
    model: Any = nn.Module()
    model.config = SimpleNamespace(id2label=data.id2label)
    spec = ModelSpec(feature_dim=0, num_labels=data.num_labels, model=model)
    rule = "name" if names and data.label_names else "position"
    try:
        return class_order(names, count, spec, rule, teacher="The teacher")
    except ValueError as error:
        raise ValueError(
            f"{error} In this recipe `--train_teacher true` gives it a head for the data, as `auto` does."
        ) from error


@torch.no_grad()
def take_classes(model: Any, data: TransferData) -> Any:
    """
    Give a trained head the classes of `data` in their order, and its other classes up.

    Args:
        model (`nn.Module`): a classifier of transformers; it is changed.
        data (`TransferData`): whose classes.

    Raises:
        ValueError: as [`matching`].
    """
    order = matching(model.config, data)
    if order is not None:
        _select(model.get_submodule(anatomy(model).head), torch.tensor(order))
    if data.label_names:
        model.config.id2label, model.config.label2id = data.id2label, data.label2id
    if hasattr(model, "num_labels"):
        model.num_labels = data.num_labels  # which some losses read, beside the config
    return model


def _select(head: Any, order: torch.Tensor) -> None:
    head.weight = nn.Parameter(head.weight[order].clone())
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias[order].clone())
    setattr(head, "out_features" if hasattr(head, "out_features") else "out_channels", len(order))
