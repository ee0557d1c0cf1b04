"""Logistic regressions of many episodes at once, by Newton's method with conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from hf_transfer.functional.few_shot import one_hot


_NEWTON_STEPS = 50
_HALVINGS = 12

__all__ = ["fit_logistic_episodes", "logistic"]


def logistic(
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    n_way: int,
    *,
    strength: float = 1.0,
    normalised: bool = True,
) -> Tensor:
    r"""
    Logistic regression on the support of each episode: $W x + b$ with the minimum of
    [`fit_logistic_episodes`], on features of length one.

    Args:
        support (`Tensor`): `(E, S, D)` features of `E` episodes.
        labels (`Tensor`): `(E, S)`, classes of the support, 0 to `n_way - 1`.
        query (`Tensor`): `(E, Q, D)` features.
        n_way (`int`): number `n` of classes.
        strength (`float`, *optional*, defaults to 1): $C$, what the labels weigh (scikit-learn's default).
        normalised (`bool`, *optional*, defaults to `True`): whether features are scaled to length one, as in the
            paper; a fixed $C$ suits no other scale.

    Shape:
        returns `(E, Q, n)`.

    Example:
        >>> support, query = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[9.0, 1.0]]])
        >>> logistic(support, torch.tensor([[0, 1]]), query, 2).argmax(-1)
        tensor([[0]])

    Paper: Rethinking Few-Shot Image Classification, https://huggingface.co/papers/2003.11539
    """
    if normalised:
        support, query = normalize(support, dim=-1), normalize(query, dim=-1)
    weight, bias = fit_logistic_episodes(support, labels, n_way, strength=strength)
    return query @ weight.mT + bias.unsqueeze(1)


def fit_logistic_episodes(
    support: Tensor, labels: Tensor, n_way: int, *, strength: float = 1.0, tolerance: float = 1e-8
) -> tuple[Tensor, Tensor]:
    r"""
    Weights and biases of each episode that minimise

    $$ \frac{1}{2} \lVert W \rVert^2 + C \sum_{i \in S} -\log \operatorname{softmax}(W x_i + b)_{y_i} $$

    the problem of scikit-learn's `LogisticRegression`, which for two classes has one vector where there are two here
    (its $C$ is then twice this one). $W$ is a combination of the support rows, so the problem has their number of
    dimensions, however wide they are. Double precision inside.

    Args:
        support (`Tensor`): `(E, S, D)`.
        labels (`Tensor`): `(E, S)`, 0 to `n_way - 1`.
        n_way (`int`): number `n` of classes.
        strength (`float`, *optional*, defaults to 1): $C > 0$.
        tolerance (`float`, *optional*, defaults to 1e-8): largest entry of the gradient, relative to $C$.

    Shape:
        returns `(E, n, D)` and `(E, n)`, of the type of `support`; the biases of an episode sum to zero.
    """
    inputs, targets = support.double(), one_hot(labels, n_way, like=support.double())
    if inputs.shape[1] < inputs.shape[2]:  # rows with the same products, in as many dimensions as there are rows
        inputs = _isometric(inputs)
    inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], -1)
    decay = inputs.new_ones(inputs.shape[-1], 1)
    decay[-1] = 0
    theta = inputs.new_zeros(len(inputs), inputs.shape[-1], n_way)

    def objective(theta: Tensor) -> Tensor:
        losses = (inputs @ theta).log_softmax(-1).mul(targets).sum((1, 2))
        return (decay * theta.square()).sum((1, 2)) / 2 - strength * losses

    value = objective(theta)
    for _ in range(_NEWTON_STEPS):
        soft = (inputs @ theta).softmax(-1)
        gradient = decay * theta + strength * inputs.mT @ (soft - targets)
        # a number added to all biases changes nothing: rounding must not send a step there
        gradient = gradient - gradient.mean(-1, keepdim=True)
        if gradient.abs().max() <= tolerance * strength:
            break
        step = _newton_step(inputs, soft, gradient, decay, strength, 0.1 * tolerance * strength)
        theta, value = _descend(objective, theta, value, step, gradient)
    soft = (inputs @ theta).softmax(-1)
    # at the minimum W = C sum_i (y_i - p_i) x_i, with the rows as they came
    weight = strength * (targets - soft).mT @ support.double()
    return weight.to(support.dtype), (theta[:, -1] - theta[:, -1].mean(-1, keepdim=True)).to(support.dtype)


def _isometric(rows: Tensor) -> Tensor:
    """`(E, S, S)` rows with the scalar products of `rows`, up to rounding."""
    gram = rows @ rows.mT
    scale = gram.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-30)
    jitter = 1e-10 * scale[:, None, None] * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return torch.linalg.cholesky(gram + jitter)


def _newton_step(
    inputs: Tensor, soft: Tensor, gradient: Tensor, decay: Tensor, strength: float, floor: float
) -> Tensor:
    """
    Minus the inverse Hessian times the gradient, by conjugate gradients in all episodes at once, to 1e-8 of the
    gradient or to the length `floor`.
    """
    step, residual = torch.zeros_like(gradient), -gradient
    direction = residual
    square = residual.square().sum((1, 2), keepdim=True)
    goal = (1e-16 * square).clamp(min=floor**2)
    for _ in range(2 * inputs.shape[-1] * soft.shape[-1]):
        through = soft * (inputs @ direction)
        through = through - soft * through.sum(-1, keepdim=True)
        image = decay * direction + strength * inputs.mT @ through
        curvature = (direction * image).sum((1, 2), keepdim=True)
        # an episode that has arrived stands still
        length = torch.where((square > goal) & (curvature > 0), square / curvature.clamp(min=1e-300), 0.0)
        step, residual = step + length * direction, residual - length * image
        new = residual.square().sum((1, 2), keepdim=True)
        if (new <= goal).all():
            break
        direction = residual + torch.where(square > goal, new / square.clamp(min=1e-300), 0.0) * direction
        square = new
    return step


def _descend(
    objective: Callable[[Tensor], Tensor], theta: Tensor, value: Tensor, step: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """A step in each episode, halved until it lowers the objective enough; none where no length does."""
    slope = (gradient * step).sum((1, 2))
    length, good = torch.ones_like(value), torch.ones_like(value, dtype=torch.bool)
    for _ in range(_HALVINGS):
        new = objective(theta + length[:, None, None] * step)
        # rounding of the objective itself is no failure
        good = new <= value + 1e-4 * length * slope + 1e-12 * value.abs()
        if good.all():
            break
        length = torch.where(good, length, length / 2)
    length = torch.where(good, length, 0.0)[:, None, None]
    theta = theta + length * step
    return theta, objective(theta)
