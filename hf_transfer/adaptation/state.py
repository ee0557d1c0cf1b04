"""What both adaptations share: the model's own state put back, what they refuse, and the sign of a collapse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_transfer.attach import CHILD
from hf_transfer.modes import modes_put_back


logger = logging.get_logger(__name__)

__all__ = [
    "class_shares",
    "counted_rows",
    "has_collapsed",
    "logits_of",
    "own_parameters",
    "refuse_without_classes",
    "restored",
    "warn_of_collapse",
]


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put back, whatever happens, which parameters train and which modules are in training mode."""
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with modes_put_back(model):
        try:
            yield
        finally:
            for parameter, requires_grad in trained.items():
                parameter.requires_grad_(requires_grad)


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by name, without those of attached objectives."""
    return {name: p for name, p in model.named_parameters() if not name.startswith(f"{CHILD}.")}


def refuse_without_classes(model: nn.Module, who: str) -> None:
    """
    Refuse a model whose outputs are not one distribution over classes per row.

    Raises:
        ValueError: if the model is a regression or has several labels a row.
    """
    config = getattr(model, "config", None)
    problem, classes = getattr(config, "problem_type", None), getattr(config, "num_labels", 2)
    if problem in ("regression", "multi_label_classification") or classes < 2:
        kind = "several labels a row" if problem == "multi_label_classification" else "a regression"
        raise ValueError(
            f"{who} on a model with {kind}: it makes predictions certain, and these outputs are no distribution over "
            "classes. Take `adapt_batch_norm`, which asks nothing of the outputs."
        )


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output, also where it is a tuple."""
    return output["logits"] if isinstance(output, Mapping) else output[0]


def counted_rows(values: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, list[int]]:
    """
    One row for each example, or for each token that counts, and how many each example has.

    Args:
        values (`Tensor`): `(B, D)` or `(B, T, D)`.
        inputs (`Mapping`): of the forward; `attention_mask` `(B, T)` tells which tokens count.

    Shape:
        - returns: `(N, D)`.

    Example:
        >>> counted_rows(torch.zeros(2, 3, 5), {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])})[1]
        [2, 1]
    """
    if values.dim() == 2:
        return values, [1] * len(values)
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.shape != values.shape[:2]:
        return values.flatten(0, 1), [values.shape[1]] * len(values)
    return values[mask.bool()], mask.bool().sum(1).tolist()


def class_shares(logits: Tensor) -> Tensor:
    """
    How often each class is predicted, `(C,)`, of `(N, C)` logits.

    Example:
        >>> class_shares(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [4.0, 0.0]])).tolist()
        [0.75, 0.25]
    """
    return torch.bincount(logits.argmax(-1), minlength=logits.shape[-1]) / max(len(logits), 1)


def has_collapsed(before: Tensor, after: Tensor) -> bool:
    """
    Whether nearly all rows (95%) are now given one class, and were not before.

    Example:
        >>> has_collapsed(torch.tensor([0.6, 0.4]), torch.tensor([0.97, 0.03]))
        True
        >>> has_collapsed(torch.tensor([0.96, 0.04]), torch.tensor([0.97, 0.03]))
        False
    """
    most = after.max().item()
    return most >= 0.95 and most - before.max().item() > 0.1


def warn_of_collapse(who: str, before: Tensor, after: Tensor, advice: str) -> bool:
    """Warn where [`has_collapsed`]; the answer."""
    collapsed = has_collapsed(before, after)
    if collapsed:
        logger.warning(
            f"{who} has collapsed: class {int(after.argmax())} is predicted for {after.max().item():.0%} of the rows, "
            f"{before[int(after.argmax())].item():.0%} before. Certain predictions of one class are the easy way to a "
            f"low entropy. {advice}"
        )
    return collapsed
