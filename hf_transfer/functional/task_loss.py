"""The supervised loss over the labelled rows of a micro-batch that may hold unlabelled ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


UNLABELLED = -100
"""Marks an unlabelled entry in `labels`, as everywhere in the Hugging Face stack."""

SAMPLE_WEIGHT = "sample_weight"
"""Name of the column that says what a row counts in the task loss."""


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


def labelled_regression(logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """
    Mean squared error over the labelled entries: models of `transformers` would train on -100 as a value.

    Args:
        logits (`Tensor`): `(B, C)`, or `(B,)`.
        labels (`Tensor`): as many values as `logits`; -100 marks an unlabelled one.
        sample_weight (`Tensor`, *optional*): `(B,)`, what each row counts (dimensionless); the mean is divided by the
            number of entries all the same.

    Example:
        >>> labelled_regression(torch.tensor([[1.0], [9.0]]), torch.tensor([3.0, -100.0])).item()
        4.0
    """
    logits, labels = logits.float().flatten(), labels.float().flatten()
    labelled = labels != UNLABELLED
    errors = torch.where(labelled, logits - labels, 0 * logits).square()
    if sample_weight is not None:
        errors = errors.reshape(len(sample_weight), -1) * sample_weight.unsqueeze(-1)
    return errors.sum() / labelled.sum().clamp(min=1)


def observed_squared_error(prediction: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    r"""
    Mean squared error over the targets that were observed,
    $\frac{1}{n} \sum_i w_i \sum_j o_{ij} (y_{ij} - \hat y_{ij})^2$ with $n = \sum_{ij} o_{ij}$.

    Args:
        prediction (`Tensor`): `(B, ...)`.
        target (`Tensor`): of the same shape; NaN where it is missing.
        sample_weight (`Tensor`, *optional*): `(B,)`, as in [`labelled_regression`].

    Degenerate cases:
        Where nothing was observed it is an exact zero with a graph.

    Example:
        >>> observed_squared_error(torch.tensor([[1.0, 9.0]]), torch.tensor([[3.0, torch.nan]])).item()
        4.0
    """
    observed = ~target.isnan()
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    errors = torch.where(observed, prediction.to(dtype) - target.to(dtype), 0.0).square()
    if sample_weight is not None:
        errors = errors.flatten(1) * sample_weight.unsqueeze(-1)
    return errors.sum() / observed.sum().clamp(min=1)


def labelled_multi_label(logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """
    Mean binary cross-entropy over the labelled entries, in nats.

    Args:
        logits (`Tensor`): `(B, C)`.
        labels (`Tensor`): `(B, C)` of 0 and 1; -100 marks an unlabelled entry.
        sample_weight (`Tensor`, *optional*): `(B,)`, as in [`labelled_regression`].

    Example:
        >>> labels = torch.tensor([[1.0, 0.0], [-100.0, -100.0]])
        >>> round(labelled_multi_label(torch.zeros(2, 2), labels).item(), 4)
        0.6931
    """
    labelled = labels != UNLABELLED
    targets = torch.where(labelled, labels, 0.0).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    if sample_weight is not None:
        losses = losses * sample_weight.unsqueeze(-1)
    return (losses * labelled).sum() / labelled.sum().clamp(min=1)


@dataclass(frozen=True)
class TaskRows:
    """
    The task loss taken apart: `N` rows of a classification, to be changed and put together by [`task_loss`].

    A row is an example; for token classification a token; for several labels an example one label, which is a
    classification of its own with the classes no and yes.

    Args:
        log_probabilities (`Tensor`): `(N, C)` float32, log-softmax of the logits.
        targets (`Tensor`): `(N, C)` float32, a distribution over the classes.
        weights (`Tensor`): `(N, C)` float32, what each class of a row counts; 0 in unlabelled rows.
        labelled (`Tensor`): `(N,)` bool, which rows have a label.
        labels (`Tensor`): `(N,)` int64, the class number; 0 in unlabelled rows.
        example (`Tensor`): `(N,)` int64, the row of the batch.
        multi_label (`bool`): whether rows are the labels of examples, `C` of them in a line.
        sample_weight (`Tensor`, *optional*): `(N,)` float32, what the example of each row counts; 1 if left out.

    Example:
        >>> rows = TaskRows.of(torch.zeros(2, 3), torch.tensor([1, -100]))
        >>> rows.targets[0].tolist(), rows.weights[:, 0].tolist()
        ([0.0, 1.0, 0.0], [1.0, 0.0])
    """

    log_probabilities: Tensor
    targets: Tensor
    weights: Tensor
    labelled: Tensor
    labels: Tensor
    example: Tensor
    multi_label: bool = False
    sample_weight: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> TaskRows:
        """
        The rows of a batch: `logits` `(B, C)` or `(B, T, C)`, `labels` `(B,)`, `(B, T)` or `(B, C)` of 0 and 1,
        `sample_weight` `(B,)`.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        multi_label = labels.dim() == 2 and labels.shape == logits.shape
        example = torch.arange(len(labels), device=labels.device).reshape(-1, *[1] * (labels.dim() - 1))
        example = example.expand(labels.shape).reshape(-1)
        if multi_label:
            log_probabilities = torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1).reshape(-1, 2)
        else:
            log_probabilities = F.log_softmax(logits, -1).reshape(-1, logits.shape[-1])
        labels = labels.reshape(-1)
        labelled = labels != UNLABELLED
        labels = torch.where(labelled, labels, 0).long()
        targets = F.one_hot(labels, log_probabilities.shape[-1]).to(log_probabilities.dtype)
        weights = labelled.to(log_probabilities.dtype).unsqueeze(-1).expand_as(targets)
        if sample_weight is not None:
            sample_weight = sample_weight.to(log_probabilities.dtype)[example]
        return cls(log_probabilities, targets, weights, labelled, labels, example, multi_label, sample_weight)


def task_loss(rows: TaskRows) -> Tensor:
    r"""
    $-\frac{1}{N} \sum_n s_n \sum_c w_{nc} \, q_{nc} \log p_{nc}$ over the $N$ labelled rows, with $s_n$ the sample
    weight: the cross-entropy where all weights are 1. An exact zero with a graph where no row is labelled.

    Divided by the number of rows, not by the sum of the weights, so that ranks and accumulation steps add up.

    Example:
        >>> round(task_loss(TaskRows.of(torch.zeros(2, 4), torch.tensor([3, -100]))).item(), 4)  # log 4
        1.3863
    """
    losses = -(rows.weights * rows.targets * rows.log_probabilities).sum(-1)
    if rows.sample_weight is not None:
        losses = losses * rows.sample_weight
    return losses.sum() / rows.labelled.sum().clamp(min=1)
