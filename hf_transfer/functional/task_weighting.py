"""How much each of several tasks counts: weights as functions of their losses and gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = [
    "adam_step",
    "dynamic_average_weights",
    "famo_gradient",
    "famo_weights",
    "gradient_norm_step",
    "running_mean",
    "softmax_weights",
    "sum_to_count",
    "tchebycheff_weights",
    "uncertainty_loss",
    "uncertainty_weights",
]

TINY = 1e-12


def sum_to_count(raw: Tensor, known: Tensor) -> Tensor:
    r"""
    Weights in the proportions of `raw` whose mean over the known tasks is 1; a task that is not known yet has 1.

    Args:
        raw (`Tensor`): `(K,)`, positive in the known tasks.
        known (`Tensor`): `(K,)` bool.

    Returns:
        `Tensor`: `(K,)`; their sum is $K$.

    Example:
        >>> sum_to_count(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([True, True, False])).tolist()
        [1.5, 0.5, 1.0]
    """
    total = torch.where(known, raw, 0).sum()
    return torch.where(known, raw * known.sum() / total.clamp(min=torch.finfo(raw.dtype).tiny), 1.0)


def softmax_weights(logits: Tensor) -> Tensor:
    r"""
    $K \operatorname{softmax}(x)$.

    Example:
        >>> softmax_weights(torch.zeros(3)).tolist()
        [1.0, 1.0, 1.0]
    """
    return len(logits) * F.softmax(logits, 0)


def running_mean(mean: Tensor, seen: Tensor, new: Tensor, observed: Tensor, window: int) -> tuple[Tensor, Tensor]:
    r"""
    A mean over about the last `window` observations: the plain mean of the first ones, then exponentially forgetting.

    Args:
        mean (`Tensor`): `(K,)`, as it stands.
        seen (`Tensor`): `(K,)` int64, how many observations there were.
        new (`Tensor`): `(K,)`, the next.
        observed (`Tensor`): `(K,)` bool, which of them are there.
        window (`int`): their number $n$; each new one counts $1 / n$ from the $n$-th on.

    Returns:
        `tuple[Tensor, Tensor]`: mean and number of observations.

    Example:
        >>> mean, seen = torch.tensor([4.0, 4.0]), torch.tensor([1, 1])
        >>> running_mean(mean, seen, torch.tensor([2.0, 9.0]), torch.tensor([True, False]), 10)[0].tolist()
        [3.0, 4.0]
    """
    seen = seen + observed
    rate = 1 / seen.clamp(min=1, max=window).to(mean.dtype)
    return torch.where(observed, mean + rate * (new - mean), mean), seen


def uncertainty_loss(losses: Tensor, log_variances: Tensor, regression: Tensor) -> Tensor:
    r"""
    The losses of uncertainty weighting, $\frac{1}{2} e^{-s_k} L_k + \frac{1}{2} s_k$ for a regression and
    $e^{-s_k} L_k + \frac{1}{2} s_k$ for classes, with $s_k = \log \sigma_k^2$.

    Args:
        losses (`Tensor`): `(K,)`: mean squared errors, or cross-entropies in nats.
        log_variances (`Tensor`): `(K,)`, $s$ (dimensionless).
        regression (`Tensor`): `(K,)` bool.

    Example:
        >>> uncertainty_loss(torch.ones(2), torch.zeros(2), torch.tensor([True, False])).tolist()
        [0.5, 1.0]
    """
    return uncertainty_weights(log_variances, regression).to(losses.dtype) * losses + log_variances / 2


def uncertainty_weights(log_variances: Tensor, regression: Tensor) -> Tensor:
    r"""
    What the tasks count in [`uncertainty_loss`]: $e^{-s_k}$, half of it for a regression; at most $e^{10}$, which a
    task whose loss is zero would pass some day.

    Example:
        >>> uncertainty_weights(torch.zeros(3), torch.tensor([True, True, False])).tolist()
        [0.5, 0.5, 1.0]
    """
    factor = torch.where(regression, 0.5, 1.0).to(log_variances.dtype)
    return factor * torch.exp(-log_variances.clamp(min=-10))


def dynamic_average_weights(last: Tensor, before: Tensor, known: Tensor, temperature: float) -> Tensor:
    r"""
    $K \operatorname{softmax}(r / T)$ with $r_k$ the mean loss of the last period divided by that of the period before.

    Args:
        last (`Tensor`): `(K,)`, mean losses of the last period.
        before (`Tensor`): `(K,)`, of the one before.
        known (`Tensor`): `(K,)` bool; for other tasks the ratio is 1.
        temperature (`float`): $T$ (dimensionless); the larger, the more equal the weights.

    Example:
        >>> falling, stalled = dynamic_average_weights(
        ...     torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]), torch.tensor([True, True]), 2.0
        ... ).tolist()
        >>> round(falling, 3), round(stalled, 3)
        (0.876, 1.124)
    """
    ratio = torch.where(known & (before > TINY), last / before.clamp(min=TINY), 1.0)
    return softmax_weights(ratio / temperature)


def gradient_norm_step(
    log_weights: Tensor, norms: Tensor, progress: Tensor, known: Tensor, *, alpha: float, rate: float
) -> Tensor:
    r"""
    One step of GradNorm: gradient descent in $\log w$ on

    $$ \frac{1}{\bar G} \sum_k \left| w_k n_k - \bar G \, r_k^\alpha \right| $$

    where $\bar G$, the mean of the $w_k n_k$, and the relative losses $r_k$ are constants.

    Args:
        log_weights (`Tensor`): `(K,)`, $\log w$.
        norms (`Tensor`): `(K,)`, $n_k$, norm of the gradient of each loss.
        progress (`Tensor`): `(K,)`, $L_k / L_k(0)$ (dimensionless); divided by their mean they are the $r_k$.
        known (`Tensor`): `(K,)` bool; other tasks stay as they are.
        alpha (`float`): how much more the tasks that lag behind are to count (dimensionless).
        rate (`float`): length of the step (dimensionless).

    Returns:
        `Tensor`: `(K,)`, the next $\log w$, of weights with the sum $K$.

    Example:
        >>> options = {"known": torch.tensor([True, True]), "alpha": 1.5, "rate": 0.1}
        >>> log_weights = gradient_norm_step(torch.zeros(2), torch.tensor([4.0, 1.0]), torch.ones(2), **options)
        >>> [round(weight, 3) for weight in log_weights.exp().tolist()]
        [0.9, 1.1]
    """
    number = known.sum().clamp(min=1)
    weighted = torch.where(known, log_weights.exp() * norms, 0)
    mean = weighted.sum() / number
    relative = progress / (torch.where(known, progress, 0).sum() / number).clamp(min=TINY)
    target = mean * relative.clamp(min=0) ** alpha
    slope = torch.where(known, (weighted - target).sign() * weighted / mean.clamp(min=TINY), 0)
    return F.log_softmax(log_weights - rate * slope, 0) + math.log(len(norms))


def tchebycheff_weights(losses: Tensor, reference: Tensor, known: Tensor, smoothing: float) -> Tensor:
    r"""
    The gradient of the smooth maximum $\mu \log \sum_k e^{x_k / \mu}$ of the relative losses $x_k = L_k / L_k(0)$ with
    respect to the $L_k$, scaled to the sum $K$.

    Args:
        losses (`Tensor`): `(K,)`, $L$.
        reference (`Tensor`): `(K,)`, $L(0)$.
        known (`Tensor`): `(K,)` bool; other tasks have the weight 1.
        smoothing (`float`): $\mu$ (dimensionless): near 0 the worst task alone counts.

    Example:
        >>> ahead, behind = tchebycheff_weights(
        ...     torch.tensor([0.5, 1.0]), torch.ones(2), torch.tensor([True, True]), 0.5
        ... ).tolist()
        >>> round(ahead, 3), round(behind, 3)
        (0.538, 1.462)
    """
    reference = reference.clamp(min=TINY)
    # softmax of a sum of logarithms: nothing overflows, however small the scale of a loss
    logits = losses / reference / smoothing - reference.log()
    return sum_to_count(F.softmax(torch.where(known, logits, -1e30), 0), known)


def famo_weights(logits: Tensor, losses: Tensor, known: Tensor) -> Tensor:
    r"""
    The gradient of $\sum_k z_k \log L_k$ with $z = \operatorname{softmax}(\xi)$ with respect to the $L_k$,
    $z_k / L_k$, scaled to the sum $K$.

    Args:
        logits (`Tensor`): `(K,)`, $\xi$.
        losses (`Tensor`): `(K,)`, positive.
        known (`Tensor`): `(K,)` bool; other tasks have the weight 1.

    Example:
        >>> weights = famo_weights(torch.zeros(2), torch.tensor([1.0, 3.0]), torch.tensor([True, True]))
        >>> [round(weight, 3) for weight in weights.tolist()]
        [1.5, 0.5]
    """
    relative = logits - losses.clamp(min=TINY).log()
    return sum_to_count(F.softmax(torch.where(known, relative, -1e30), 0), known)


def famo_gradient(logits: Tensor, improvement: Tensor, known: Tensor, decay: float) -> Tensor:
    r"""
    The gradient of the logits of FAMO, $J^\top \delta + \gamma \xi$, with the Jacobian $J$ of the softmax: a task that
    improved more than the others is to count less.

    Args:
        logits (`Tensor`): `(K,)`, $\xi$.
        improvement (`Tensor`): `(K,)`, $\delta_k = \log L_k - \log L_k'$ of a step.
        known (`Tensor`): `(K,)` bool; other tasks count as improved like the rest.
        decay (`float`): $\gamma$ (dimensionless).

    Example:
        >>> gradient = famo_gradient(torch.zeros(2), torch.tensor([0.2, 0.0]), torch.tensor([True, True]), 0.0)
        >>> [round(value, 3) for value in gradient.tolist()]
        [0.05, -0.05]
    """
    shares = F.softmax(logits, 0)
    mean = torch.where(known, shares * improvement, 0).sum() / torch.where(known, shares, 0).sum().clamp(min=TINY)
    return torch.where(known, shares * (improvement - mean), 0) + decay * logits


def adam_step(
    moments: Tensor, gradient: Tensor, step: Tensor, *, rate: float, betas: tuple[float, float] = (0.9, 0.999)
) -> tuple[Tensor, Tensor]:
    r"""
    The moments and the change of Adam for one gradient.

    Args:
        moments (`Tensor`): `(2, K)`, first and second.
        gradient (`Tensor`): `(K,)`.
        step (`Tensor`): scalar, the how many-th step this is, from 1.
        rate (`float`): the learning rate.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`): what the moments keep.

    Returns:
        `tuple[Tensor, Tensor]`: the next moments, and what is to be added to the parameters.

    Example:
        >>> _, change = adam_step(torch.zeros(2, 1), torch.tensor([5.0]), torch.tensor(1), rate=0.1)
        >>> round(change.item(), 4)
        -0.1
    """
    (first, second), (keep_first, keep_second) = moments, betas
    first = keep_first * first + (1 - keep_first) * gradient
    second = keep_second * second + (1 - keep_second) * gradient.square()
    step = step.to(moments.dtype)
    mean, square = first / (1 - keep_first**step), second / (1 - keep_second**step)
    return torch.stack([first, second]), -rate * mean / (square.sqrt() + 1e-8)
