"""The supervised loss over the labelled rows of a micro-batch that may hold unlabelled ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


UNLABELLED = -100
"""Marks an unlabelled entry in `labels`, as everywhere in the Hugging Face stack."""


def labelled_mean(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """
    The loss a classifier computed, or an exact zero with a graph where no entry is labelled and that loss is NaN.

    Args:
        loss (`Tensor`): mean cross-entropy over the entries of `labels` that are not -100, scalar, in nats.
        logits (`Tensor`): any shape; only keeps the zero in the graph.
        labels (`Tensor`): integer, any shape.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> labels = torch.tensor([-100, -100])
        >>> labelled_mean(F.cross_entropy(logits, labels), logits, labels).item()
        0.0
    """
    return torch.where((labels != UNLABELLED).any(), loss, (0 * logits).sum().to(loss.dtype))


def labelled_regression(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Mean squared error over the labelled entries: models of `transformers` would train on -100 as a value.

    Args:
        logits (`Tensor`): `(B, C)`, or `(B,)`.
        labels (`Tensor`): as many values as `logits`; -100 marks an unlabelled one.

    Example:
        >>> labelled_regression(torch.tensor([[1.0], [9.0]]), torch.tensor([3.0, -100.0])).item()
        4.0
    """
    logits, labels = logits.float().flatten(), labels.float().flatten()
    labelled = labels != UNLABELLED
    errors = torch.where(labelled, logits - labels, 0 * logits)
    return errors.square().sum() / labelled.sum().clamp(min=1)


def labelled_multi_label(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Mean binary cross-entropy over the labelled entries, in nats.

    Args:
        logits (`Tensor`): `(B, C)`.
        labels (`Tensor`): `(B, C)` of 0 and 1; -100 marks an unlabelled entry.

    Example:
        >>> labels = torch.tensor([[1.0, 0.0], [-100.0, -100.0]])
        >>> round(labelled_multi_label(torch.zeros(2, 2), labels).item(), 4)
        0.6931
    """
    labelled = labels != UNLABELLED
    targets = torch.where(labelled, labels, 0.0).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return (losses * labelled).sum() / labelled.sum().clamp(min=1)
