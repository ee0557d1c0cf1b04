"""Interpolating between the weights before and after fine-tuning (WiSE-FT)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.weights.low_rank import LowRankPair, check_adapters, low_rank_pairs
from hf_transfer.weights.slots import refuse_wrapped
from hf_transfer.weights.snapshots import WeightSnapshot, movable, restore, snapshot


__all__ = ["WiseFTResult", "interpolate", "score_of", "wise_ft"]


@dataclass(frozen=True)
class WiseFTResult:
    """
    What [`wise_ft`] chose.

    Args:
        alpha (`float`): share of the fine-tuned model in the mixture, in [0, 1].
        scores (`dict[float, float]`): score of each share that was tried.
    """

    alpha: float
    scores: dict[float, float]


def interpolate(model: nn.Module, start: WeightSnapshot, end: WeightSnapshot, alpha: float) -> None:
    r"""
    Set a model to the mixture of two of its states.

    $$ w = (1 - \alpha) w_{start} + \alpha w_{end} $$

    computed in float32 and rounded once; 0 and 1 give the two states bit for bit. Counters (integer buffers) are those
    of the end unless $\alpha = 0$. Of a LoRA layer the weight in effect is interpolated, $W_0 + s B A$: where $B$
    starts from zero, as usual, $A$ is that of the end and $B$ is $\alpha B_{end}$.

    Args:
        model (`nn.Module`): any model; changed in place.
        start (`WeightSnapshot`): its state at $\alpha = 0$.
        end (`WeightSnapshot`): its state at $\alpha = 1$.
        alpha (`float`): share of the end, in [0, 1].

    Raises:
        ValueError: if `alpha` is outside [0, 1]; if a snapshot is of another model; if the model has adapters whose
            weights in effect do not lie on a line. Nothing is changed then.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad(): start = snapshot(layer.requires_grad_().apply(lambda m: m.weight.fill_(1.0)))
        >>> with torch.no_grad(): end = snapshot(layer.apply(lambda m: m.weight.fill_(3.0)))
        >>> interpolate(layer, start, end, 0.25)
        >>> layer.weight.item()
        1.5
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha={alpha} is outside [0, 1]: beyond the two states there is no mixture of them. Give the share of "
            "the fine-tuned weights, such as 0.5."
        )
    refuse_wrapped(model, doing="an interpolation")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    _check_fit(model, tensors, start, end)
    check_adapters(model, doing="interpolation")
    values = dict(start.tensors if alpha == 0 else end.tensors)
    if 0 < alpha < 1:
        pairs = low_rank_pairs(model)
        _check_pairs(pairs, start, end)
        for name, last in end.tensors.items():
            values[name] = _mixture(start.tensors[name], last, alpha, tensors[name].dtype)
        for pair in pairs:
            values.update(_low_rank_mixture(pair, start.tensors, end.tensors, alpha, tensors))
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def wise_ft(
    model: nn.Module,
    start: WeightSnapshot,
    evaluate: Callable[[], float],
    *,
    alphas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    greater_is_better: bool = True,
) -> WiseFTResult:
    r"""
    Weight-space ensemble of a model before and after fine-tuning (WiSE-FT): the mixture that scores best.

    Fine-tuning gains on the target and loses of what the source model knew; on the line between the two there is often
    a model better than both, at the cost of one. The model is left at the best $(1 - \alpha) w_{start} + \alpha w$.

    Args:
        model (`nn.Module`):
            The fine-tuned model, full or under LoRA; changed in place.
        start (`WeightSnapshot`):
            What [`snapshot`] kept before fine-tuning. Its head should already work: take the snapshot after the head
            was trained on the frozen backbone, or start from a zero-shot head.
        evaluate (`Callable[[], float]`):
            Scores the model as it is now on validation data, such as
            `lambda: trainer.evaluate()["eval_accuracy"]`. Called once for each share; the data it reads should be
            neither the training nor the test data. With several ranks call `wise_ft` on all of them, and return the
            same number on each, as `Trainer.evaluate` does.
        alphas (`Sequence[float]`, *optional*, defaults to 0.0, 0.1, ..., 1.0):
            Shares of the fine-tuned model to try, in [0, 1]. Without validation data the paper recommends 0.5.
        greater_is_better (`bool`, *optional*, defaults to `True`):
            `False` for a loss.

    Returns:
        `WiseFTResult`: the share chosen and the score of each.

    Degenerate cases:
        Among equal scores the share nearest to 0.5 wins. A score that is not a number is the worst.

    Deviations from the paper:
        The paper mixes weights of models without BatchNorm. Its running statistics are mixed like weights here, an
        approximation: estimate them anew on the training data where they matter.

    Raises:
        ValueError: if `alphas` is empty or leaves [0, 1]; if no score is a number; if `start` is of another model or
            the adapters do not lie on a line.
        TypeError: if `evaluate` returns no number.

        Whatever is raised, by `evaluate` too, the model has its fine-tuned weights.

    Relations:
        [`greedy_soup`] averages several fine-tuned models. [`L2SP`] holds the weights near the start during training.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad(): start = snapshot(layer.apply(lambda m: m.weight.fill_(0.0)))
        >>> _ = layer.weight.data.fill_(4.0)  # "fine-tuned"
        >>> wise_ft(layer, start, lambda: -abs(layer.weight.item() - 1.0), alphas=(0.0, 0.25, 1.0)).alpha
        0.25

    Paper: Wortsman et al., "Robust Fine-tuning of Zero-shot Models", CVPR 2022, https://huggingface.co/papers/2109.01903
    """
    alphas = list(alphas)
    if not alphas or any(not 0 <= alpha <= 1 for alpha in alphas):
        raise ValueError(
            f"alphas={alphas} has no share, or one outside [0, 1]: there is no mixture to choose. Give shares of the "
            "fine-tuned weights, such as (0.0, 0.25, 0.5, 0.75, 1.0)."
        )
    end = snapshot(model)
    scores: dict[float, float] = {}
    try:
        for alpha in alphas:
            interpolate(model, start, end, alpha)
            scores[alpha] = score_of(evaluate)
        known = [alpha for alpha, score in scores.items() if not math.isnan(score)]
        if not known:
            raise ValueError(
                f"`evaluate` returned NaN for all of {alphas}: no mixture can be chosen. Check the metric and the "
                "validation data."
            )
        sign = 1 if greater_is_better else -1
        best = max(known, key=lambda alpha: (sign * scores[alpha], -abs(alpha - 0.5)))
        interpolate(model, start, end, best)
    except BaseException:
        restore(model, end)
        raise
    return WiseFTResult(best, scores)


def score_of(evaluate: Callable[[], float]) -> float:
    """What `evaluate` returns, as a float."""
    score: Any = evaluate()
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`evaluate` returned a {type(score).__name__}: mixtures are ranked by one number. Return it, such as "
            '`lambda: trainer.evaluate()["eval_accuracy"]`.'
        ) from error


def _check_fit(model: nn.Module, tensors: dict[str, Tensor], start: WeightSnapshot, end: WeightSnapshot) -> None:
    now = {name for name, tensor in movable(model).items() if isinstance(tensor, nn.Parameter)}
    odd = sorted((start.tensors.keys() ^ end.tensors.keys()) | (now - start.parameters))
    odd = odd or sorted(
        name
        for name, value in (*start.tensors.items(), *end.tensors.items())
        if name not in tensors or tensors[name].shape != value.shape
    )
    if odd:
        raise ValueError(
            f"The snapshots do not fit {type(model).__name__}; they differ in {', '.join(odd[:3])}: a part of the "
            "model would not be mixed. Take both from this model, `start` before training, "
            "with the same parameters trainable."
        )


def _mixture(first: Tensor, last: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    if not last.is_floating_point():
        return last
    wide = torch.promote_types(dtype, torch.float32)
    return torch.lerp(first.to(wide), last.to(wide), alpha).to(dtype)


def _check_pairs(pairs: list[LowRankPair], start: WeightSnapshot, end: WeightSnapshot) -> None:
    for pair in pairs:
        if pair.down not in start.tensors or pair.up not in start.tensors:
            continue  # one factor does not train: the product is linear in the other
        names = (pair.down, pair.up)
        moved = [not torch.equal(start.tensors[name].double(), end.tensors[name].double()) for name in names]
        if all(moved) and all(start.tensors[name].any() for name in names):
            raise ValueError(
                f"Both factors of `{pair.layer}` moved from a start that is not zero: no factors of this rank hold "
                "the mixture of the two products. Start LoRA from B = 0 (`init_lora_weights=True`), or merge and "
                "interpolate the full models."
            )


def _low_rank_mixture(
    pair: LowRankPair, start: dict[str, Tensor], end: dict[str, Tensor], alpha: float, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The factors whose product is the mixture of the two products."""
    if pair.down not in start or pair.up not in start:
        return {}
    for zero, other in ((pair.up, pair.down), (pair.down, pair.up)):
        if not start[zero].any():
            return {
                other: end[other],
                zero: _mixture(torch.zeros_like(start[zero]), end[zero], alpha, tensors[zero].dtype),
            }
    return {}  # one factor did not move: linear in the other
