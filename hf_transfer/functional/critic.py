"""Mathematics of a critic: the dual of the Wasserstein-1 distance, and the slope of a ReLU network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.adversarial import masked_mean


__all__ = ["gradient_penalty", "input_gradient", "interpolate", "wasserstein_dual"]

Layers = Sequence[tuple[Tensor, Tensor | None]]
"""Weight and bias of each linear layer; ReLU between two of them."""


def wasserstein_dual(scores: Tensor, source: Tensor, target: Tensor) -> Tensor:
    r"""
    $\frac{1}{n_s} \sum_s c(f_s) - \frac{1}{n_t} \sum_t c(f_t)$; its largest value over critics $c$ of slope at most 1
    is the Wasserstein-1 distance. An exact zero with a graph where one side has no row.

    Args:
        scores (`Tensor`): `(N,)`, of the critic.
        source (`Tensor`): `(N,)`, bool or 0 and 1.
        target (`Tensor`): the same.

    Example:
        >>> sides = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        >>> wasserstein_dual(torch.tensor([1.0, 3.0, -1.0]), *sides).item()
        3.0

    Paper: Shen et al., "Wasserstein Distance Guided Representation Learning for Domain Adaptation", AAAI 2018, https://huggingface.co/papers/1707.01217
    """
    return (masked_mean(scores, source) - masked_mean(scores, target)) * (source.any() & target.any())


def interpolate(features: Tensor, source: Tensor, target: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """
    Points between rows of the source and rows of the target: each row of the larger side once, those of the smaller
    in turn. Shapes do not depend on how many there are, and nothing waits for the device.

    Args:
        features (`Tensor`): `(N, D)`.
        source (`Tensor`): `(N,)`, bool or 0 and 1.
        target (`Tensor`): the same.
        share (`Tensor`): `(N, 1)` in [0, 1], how far each point is on the way from source to target.

    Shape:
        - returns: `(N, D)`, the points, and `(N,)` bool, which of them count.

    Example:
        >>> features = torch.tensor([[0.0], [10.0], [20.0]])
        >>> sides = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
        >>> points, counted = interpolate(features, *sides, torch.full((3, 1), 0.5))
        >>> points.flatten().tolist(), counted.tolist()
        ([5.0, 10.0, 5.0], [True, True, False])
    """
    place = torch.arange(len(features), device=features.device)
    ends, counts = [], []
    for side in (source, target):
        rows = torch.argsort(side.int(), descending=True, stable=True)  # those of this side first
        count = side.int().sum()
        ends.append(features[rows[place % count.clamp(min=1)]])
        counts.append(count)
    counted = (place < torch.maximum(*counts)) & (torch.minimum(*counts) > 0)
    return torch.lerp(ends[0], ends[1], share), counted


def input_gradient(inputs: Tensor, layers: Layers) -> Tensor:
    r"""
    Gradient of a ReLU network with one output by its inputs, $W_1^\top (m_1 \odot W_2^\top (m_2 \odot \dots))$ with
    $m$ the units that are on, as an expression in the weights: they can be trained on it with a single backward.

    `torch.autograd.grad(..., create_graph=True)` gives the same, but asks for a second derivative of the network,
    which `torch.compile` does not have.

    Args:
        inputs (`Tensor`): `(N, D)`.
        layers (`Sequence[tuple[Tensor, Tensor | None]]`): weight and bias of each layer; the last has one output.

    Shape:
        - returns: `(N, D)`.

    Example:
        >>> layers = [(torch.tensor([[2.0], [-1.0]]), None), (torch.tensor([[3.0, 5.0]]), None)]
        >>> input_gradient(torch.tensor([[1.0], [-1.0]]), layers).tolist()
        [[6.0], [-5.0]]
    """
    hidden, units_on = inputs, []
    for weight, bias in layers[:-1]:
        hidden = F.linear(hidden, weight, bias)
        units_on.append(hidden > 0)
        hidden = hidden.relu()
    gradient = layers[-1][0].expand(len(inputs), -1)
    for on, (weight, _) in zip(reversed(units_on), reversed(layers[:-1]), strict=True):
        gradient = (gradient * on) @ weight
    return gradient


def gradient_penalty(inputs: Tensor, counted: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
    r"""
    $(\Vert \nabla c \Vert_2 - 1)^2$ of a ReLU network $c$, two-sided, as a mean over points; and the mean slope.

    Args:
        inputs (`Tensor`): `(N, D)`. Detached ones: the penalty is for the critic, not for what made the features.
        counted (`Tensor`): `(N,)`, bool or 0 and 1: points that count.
        layers (`Sequence[tuple[Tensor, Tensor | None]]`): as [`input_gradient`] takes them.

    Shape:
        - returns: two scalars, exact zeros with a graph where no point counts. Dimensionless for the penalty; the
          slope is in units of the score per unit of the features.

    Example:
        >>> penalty, slope = gradient_penalty(torch.ones(1, 2), torch.ones(1), [(torch.tensor([[3.0, 4.0]]), None)])
        >>> penalty.item(), slope.item()
        (16.0, 5.0)

    Paper: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, https://huggingface.co/papers/1704.00028
    """
    # Its derivative at zero is zero, where that of a square root would be infinite.
    slopes = torch.linalg.vector_norm(input_gradient(inputs, layers), dim=-1)
    return masked_mean((slopes - 1).square(), counted), masked_mean(slopes, counted)
