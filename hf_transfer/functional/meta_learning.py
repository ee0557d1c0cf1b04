"""The inner loop of meta-learning: a few steps of gradient descent as a differentiable function of where it began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor


Parameters = dict[str, Tensor]
InnerLoss = Callable[[Parameters, int], Tensor]

__all__ = ["InnerLoss", "Parameters", "inner_loop", "pseudo_gradient", "stable_rate"]


def inner_loop(
    loss: InnerLoss,
    parameters: Mapping[str, Tensor],
    rates: float | Mapping[str, Tensor | float],
    *,
    steps: int,
    first_order: bool = False,
) -> tuple[Parameters, Tensor]:
    r"""
    Adapt parameters to one task by plain gradient descent.

    $$ \theta_{j+1} = \theta_j - \alpha \odot \nabla L_j(\theta_j), \qquad j = 0, \dots, k - 1 $$

    The result is differentiable with respect to the start and the rates: through the gradients, so that a derivative
    of what comes after holds the Hessians of $L_j$, or with `first_order` as if $\theta_k - \theta_0$ were a constant.
    It works within `torch.func.vmap`, and first order keeps no graph of the steps.

    Args:
        loss (`Callable[[dict[str, Tensor], int], Tensor]`):
            $L_j(\theta)$, a scalar, of the parameters and the number $j$ of the step.
        parameters (`Mapping[str, Tensor]`):
            $\theta_0$ by name; all of them are adapted.
        rates (`float` or `Mapping[str, Tensor | float]`):
            $\alpha$: one for all, or for each name a number or a tensor of the parameter's shape.
        steps (`int`):
            $k$, at least 1.
        first_order (`bool`, *optional*, defaults to `False`):
            Leave the Hessians out (FOMAML). Rates that are tensors then get no gradient.

    Returns:
        `tuple[dict[str, Tensor], Tensor]`: $\theta_k$, and `(k,)` the detached losses $L_j(\theta_j)$ of each step.

    Raises:
        ValueError: if there is no step.

    Example:
        >>> start = torch.tensor(1.0, requires_grad=True)
        >>> adapted, losses = inner_loop(lambda p, step: p["w"] ** 2, {"w": start}, 0.1, steps=2)
        >>> round(adapted["w"].item(), 2), [round(value, 2) for value in losses.tolist()]
        (0.64, [1.0, 0.64])
        >>> round(torch.autograd.grad(adapted["w"], start)[0].item(), 2)  # (1 - 2 * 0.1) ** 2
        0.64

    Paper: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
    https://huggingface.co/papers/1703.03400
    """
    if steps < 1:
        raise ValueError(
            f"`steps={steps}`: without a step nothing is adapted, and every task would see the same model. Pass 1 or "
            "more."
        )
    if not first_order:
        return _descend(loss, dict(parameters), rates, steps)
    with torch.no_grad():
        adapted, losses = _descend(loss, {name: value.detach() for name, value in parameters.items()}, rates, steps)
    return {name: value + (adapted[name] - value).detach() for name, value in parameters.items()}, losses


def pseudo_gradient(start: Mapping[str, Tensor], adapted: Mapping[str, Tensor]) -> Parameters:
    r"""
    Reptile's update as a gradient, $\theta - \frac{1}{E} \sum_e \theta_k^{(e)}$: plain SGD of rate $\epsilon$ on it
    gives $\theta + \epsilon (\bar\theta_k - \theta)$.

    Args:
        start (`Mapping[str, Tensor]`): $\theta$ by name.
        adapted (`Mapping[str, Tensor]`): $\theta_k$ by name, with a first dimension over the $E$ tasks.

    Example:
        >>> pseudo_gradient({"w": torch.tensor([1.0])}, {"w": torch.tensor([[0.8], [0.6]])})["w"]
        tensor([0.3000])

    Paper: Nichol et al., "On First-Order Meta-Learning Algorithms", 2018, https://huggingface.co/papers/1803.02999
    """
    return {name: value.detach() - adapted[name].detach().mean(0) for name, value in start.items()}


def stable_rate(features: Tensor) -> Tensor:
    r"""
    A rate at which gradient descent on a linear softmax head cannot diverge, whatever the scale of its features:

    $$ \alpha = \frac{4}{\frac{1}{S} \sum_{i=1}^{S} (\lVert x_i \rVert^2 + 1)} $$

    The Hessian of the mean cross-entropy with respect to weights and bias is at most half the mean of
    $\lVert x \rVert^2 + 1$, because that of a softmax with respect to its logits is at most one half, and descent is
    stable below two over the largest curvature.

    Args:
        features (`Tensor`): `(S, D)` what the head is given, of any scale; no gradient passes.

    Returns:
        `Tensor`: scalar, dimensionless for features without a unit.

    Example:
        >>> stable_rate(torch.tensor([[0.0, 1.0], [3.0, 0.0]])).item()  # 4 / mean(2, 10)
        0.6666666865348816
    """
    return 4 / (features.detach().square().sum(-1) + 1).mean()


def _descend(
    loss: InnerLoss, current: Parameters, rates: float | Mapping[str, Tensor | float], steps: int
) -> tuple[Parameters, Tensor]:
    losses = []
    for step in range(steps):
        gradients, value = torch.func.grad_and_value(partial(_at, loss=loss, step=step))(current)
        losses.append(value.detach())
        current = {
            name: parameter - (rates if isinstance(rates, float | int) else rates[name]) * gradients[name]
            for name, parameter in current.items()
        }
    return current, torch.stack(losses)


def _at(parameters: Parameters, *, loss: InnerLoss, step: int) -> Tensor:
    return loss(parameters, step)
