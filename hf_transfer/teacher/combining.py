"""What several teachers say together: their weighted mean, or for each row the one that knows best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.task_loss import UNLABELLED


__all__ = ["best_teacher", "mean_logits", "pick"]


def mean_logits(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    r"""
    $\sum_m w_m z^{(m)}$ for weights that sum to 1.

    The softmax of it is the weighted geometric mean of the teachers' distributions, up to normalisation, and that at
    every temperature: $\operatorname{softmax}(\sum_m w_m z^{(m)} / T) \propto \prod_m p_m(T)^{w_m}$. Hinton et al.
    (2015, section 2) allow it beside the arithmetic mean, which has no logits that hold at several temperatures.

    Args:
        logits (`Sequence[Tensor]`): of each teacher, all of one shape.
        weights (`Sequence[float]`): of each teacher (dimensionless).

    Example:
        >>> mean_logits([torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])], [0.5, 0.5])
        tensor([1., 2.])
    """
    return torch.stack([weight * values for values, weight in zip(logits, weights, strict=True)]).sum(0)


def best_teacher(logits: Sequence[Tensor], labels: Tensor | None, problem: str | None) -> Tensor:
    r"""
    For each row the number of the teacher with the lowest loss on its label; without a label that of the most certain
    one, by the entropy of its prediction. Of equals the first.

    For several labels a row both are means over its labels, and a regression compares squared errors; where a
    regression has no label there is no certainty to go by, and the number is -1.

    Args:
        logits (`Sequence[Tensor]`): of each teacher, `(B, C)` or `(B, T, C)`, the classes in the order of the labels.
        labels (`Tensor`, *optional*): `(B,)`, `(B, T)`, or `(B, C)` for several labels or values a row; -100 where
            there is none.
        problem (`str`, *optional*): the `problem_type`.

    Shape:
        - returns int64 `(B,)` or `(B, T)`.

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> best_teacher([sure, unsure], torch.tensor([1]), None), best_teacher([sure, unsure], None, None)
        (tensor([1]), tensor([0]))
    """
    stacked = torch.stack(list(logits)).float()
    if problem in ("regression", "multi_label_classification"):
        if labels is None:
            labels = torch.full_like(stacked[0], UNLABELLED)
        given = labels.reshape(stacked[0].shape).float()
        labelled = given != UNLABELLED
        if problem == "regression":
            errors = (stacked - torch.where(labelled, given, 0.0)).square()
            uncertainty = torch.zeros_like(errors)
        else:
            targets = torch.where(labelled, given, 0.0).expand_as(stacked)
            errors = F.binary_cross_entropy_with_logits(stacked, targets, reduction="none")
            uncertainty = F.binary_cross_entropy_with_logits(stacked, stacked.sigmoid(), reduction="none")
        any_labelled = labelled.any(-1)
        error = (errors * labelled).sum(-1) / labelled.sum(-1).clamp(min=1)
        chosen = torch.where(any_labelled, error, uncertainty.mean(-1)).argmin(0)
        return torch.where(any_labelled, chosen, -1) if problem == "regression" else chosen
    log_p = F.log_softmax(stacked, -1)
    score = -(log_p.exp() * log_p).sum(-1)
    if labels is not None:
        labelled = labels != UNLABELLED
        index = torch.where(labelled, labels, 0).long().expand(score.shape).unsqueeze(-1)
        score = torch.where(labelled, -log_p.gather(-1, index).squeeze(-1), score)
    return score.argmin(0)


def pick(logits: Sequence[Tensor], chosen: Tensor, otherwise: Tensor) -> Tensor:
    """
    Row by row the logits of the chosen teacher; where the number is -1, those of `otherwise`.

    Args:
        logits (`Sequence[Tensor]`): of each teacher, `(B, C)` or `(B, T, C)`.
        chosen (`Tensor`): `(B,)` or `(B, T)`, as [`best_teacher`] returns it.
        otherwise (`Tensor`): of the shape of the logits.

    Example:
        >>> pick([torch.tensor([[1.0]]), torch.tensor([[2.0]])], torch.tensor([1]), torch.tensor([[5.0]]))
        tensor([[2.]])
    """
    stacked = torch.stack(list(logits))
    index = chosen.clamp(min=0).reshape(1, *chosen.shape, 1).expand(1, *stacked.shape[1:])
    return torch.where(chosen.unsqueeze(-1) < 0, otherwise, stacked.gather(0, index).squeeze(0))
