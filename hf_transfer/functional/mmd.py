"""Maximum mean discrepancy: the distance of two distributions by the means of their rows in the space of a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_transfer.functional.domains import mean_over_pairs
from hf_transfer.functional.kernels import gaussian_kernels, mean_distance, squared_distances


__all__ = [
    "class_conditional_discrepancy",
    "joint_maximum_mean_discrepancy",
    "local_maximum_mean_discrepancy",
    "maximum_mean_discrepancy",
    "mean_discrepancy",
]


def mean_discrepancy(kernel: Tensor, source: Tensor, target: Tensor, *, biased: bool = False) -> Tensor:
    r"""
    The squared maximum mean discrepancy of two sets of rows from the kernel between all rows.

    $$ \frac{1}{n (n - 1)} \sum_{i \neq j} k(s_i, s_j) + \frac{1}{m (m - 1)} \sum_{i \neq j} k(t_i, t_j)
       - \frac{2}{n m} \sum_{i, j} k(s_i, t_j) $$

    This U-statistic is 0 on average for two samples of one distribution, hence negative for about half of them. The
    biased V-statistic takes the pairs $i = j$ in, over $n^2$ and $m^2$: a squared norm, never negative, and positive
    for two samples of one distribution.

    Args:
        kernel (`Tensor`): `(N, N)`.
        source (`Tensor`): `(N,)`, 1 for the $n$ rows of one set and 0 for others.
        target (`Tensor`): `(N,)`, the same for the $m$ rows of the other.
        biased (`bool`, *optional*, defaults to `False`): which statistic.

    Shape:
        - returns: scalar, dimensionless. Finite, but of no meaning, where a set has no row, or only one for the
          U-statistic.

    Example:
        >>> kernel = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
        >>> mean_discrepancy(kernel, torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])).item()
        2.0
    """
    sets = torch.stack([source, target]).to(kernel.dtype)
    number = sets.sum(1)
    sums = sets @ kernel @ sets.T
    within, pairs = sums.diagonal(), number * number
    if not biased:
        within, pairs = within - sets @ kernel.diagonal(), pairs - number
    return (within / pairs.clamp(min=1)).sum() - 2 * sums[0, 1] / number.prod().clamp(min=1)


def maximum_mean_discrepancy(
    features: Tensor,
    domain: Tensor,
    *,
    num_domains: int = 2,
    num_kernels: int = 5,
    factor: float = 2.0,
    bandwidth: float | None = None,
    biased: bool = False,
) -> Tensor:
    """
    The squared maximum mean discrepancy of features between domains, with the mean of several Gaussian kernels.

    Args:
        features (`Tensor`): `(N, D)`.
        domain (`Tensor`): `(N,)` int64; rows outside `[0, num_domains)` do not count.
        num_domains (`int`, *optional*, defaults to 2): more than two give the mean over their pairs.
        num_kernels (`int`, *optional*, defaults to 5): how many Gaussians, see [`gaussian_kernels`].
        factor (`float`, *optional*, defaults to 2.0): ratio of their bandwidths.
        bandwidth (`float`, *optional*): the middle one, in squared units of the features. By default the mean squared
            distance between different rows of the two domains that are compared, taken as a constant.
        biased (`bool`, *optional*, defaults to `False`): whether to use the V-statistic, see [`mean_discrepancy`].

    Shape:
        - returns: scalar, dimensionless; between two far points it is 2. An exact zero with a graph where no two
          domains have the rows that the statistic needs: two each, one for the biased.

    Example:
        >>> x, domain = torch.tensor([[0.0], [0.0], [1e6], [1e6]]), torch.tensor([0, 0, 1, 1])
        >>> maximum_mean_discrepancy(x, domain, bandwidth=1.0).item()
        2.0
    """
    return joint_maximum_mean_discrepancy(
        [features],
        domain,
        bandwidths=[bandwidth],
        num_domains=num_domains,
        num_kernels=[num_kernels],
        factor=factor,
        biased=biased,
    )


def joint_maximum_mean_discrepancy(
    variables: Sequence[Tensor],
    domain: Tensor,
    *,
    bandwidths: Sequence[float | None],
    num_kernels: Sequence[int],
    num_domains: int = 2,
    factor: float = 2.0,
    biased: bool = False,
) -> Tensor:
    """
    The squared maximum mean discrepancy of the joint distribution of several variables, by the product of a kernel on
    each.

    Args:
        variables (`Sequence[Tensor]`): each `(N, D)` of a width of its own, of the same rows.
        domain (`Tensor`): `(N,)` int64; rows outside `[0, num_domains)` do not count.
        bandwidths (`Sequence[float | None]`): of the middle kernel by variable, as in [`maximum_mean_discrepancy`].
        num_kernels (`Sequence[int]`): how many Gaussians by variable.
        num_domains (`int`, *optional*, defaults to 2): more than two give the mean over their pairs.
        factor (`float`, *optional*, defaults to 2.0): ratio of neighbouring bandwidths.
        biased (`bool`, *optional*, defaults to `False`): whether to use the V-statistic.

    Shape:
        - returns: scalar, dimensionless; zero with a graph as in [`maximum_mean_discrepancy`].

    Example:
        >>> x, y = torch.tensor([[0.0], [9.0], [0.0], [9.0]]), torch.tensor([[0.0], [9.0], [9.0], [0.0]])
        >>> options = {"bandwidths": [1.0, 1.0], "num_kernels": [1, 1]}
        >>> domain = torch.tensor([0, 0, 1, 1])  # alike in each variable, not in both
        >>> joint_maximum_mean_discrepancy([x, y], domain, biased=True, **options).item()
        1.0
    """
    distances = [squared_distances(variable) for variable in variables]

    def distance(source: Tensor, target: Tensor) -> Tensor:
        kernel = None
        for squared, variable, fixed, count in zip(distances, variables, bandwidths, num_kernels, strict=True):
            middle = mean_distance(squared, source + target, variable) if fixed is None else fixed
            factored = gaussian_kernels(squared, middle, count, factor)
            kernel = factored if kernel is None else kernel * factored
        assert kernel is not None
        return mean_discrepancy(kernel, source, target, biased=biased)

    least = 1 if biased else 2
    return mean_over_pairs(distance, domain, num_domains, least=least, dtype=distances[0].dtype)


def class_conditional_discrepancy(kernel: Tensor, source: Tensor, target: Tensor) -> Tensor:
    r"""
    The squared maximum mean discrepancy within each class, and the mean over the classes that both sides have:
    $\frac{1}{|P|} \sum_{c \in P} \sum_{i, j} (w^s_{ic} - w^t_{ic}) \, k_{ij} \, (w^s_{jc} - w^t_{jc})$ with weights
    $w_{ic} = y_{ic} / \sum_j y_{jc}$.

    Args:
        kernel (`Tensor`): `(N, N)`.
        source (`Tensor`): `(N, C)`, what each row counts in each class; rows of zeros for those that are no source.
        target (`Tensor`): `(N, C)`, the same for the target.

    Shape:
        - returns: scalar, dimensionless, not negative; an exact zero with a graph where no class is on both sides. A
          class is on the side of the source if it has a weight there, on that of the target if it is the likeliest
          of some row.

    Example:
        >>> one_hot = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> class_conditional_discrepancy(torch.eye(2), one_hot, one_hot.flip(0)).item()
        2.0
    """
    source, target = source.to(kernel.dtype), target.to(kernel.dtype)
    # Softmax leaves every class a little. What is normalised to 1 must be more than that.
    likeliest = target == target.amax(1, keepdim=True)
    present = (source.sum(0) > 0) & (likeliest & (target > 0)).any(0)
    tiny = torch.finfo(kernel.dtype).tiny
    weights = source / source.sum(0).clamp(min=tiny) - target / target.sum(0).clamp(min=tiny)
    weights = torch.where(present, weights, 0.0)
    return (weights * (kernel @ weights)).sum() / present.sum().clamp(min=1)


def local_maximum_mean_discrepancy(
    features: Tensor,
    source: Tensor,
    target: Tensor,
    *,
    num_kernels: int = 5,
    factor: float = 2.0,
    bandwidth: float | None = None,
) -> Tensor:
    """
    The squared maximum mean discrepancy of features within each class, with the mean of several Gaussian kernels.

    Args:
        features (`Tensor`): `(N, D)`.
        source (`Tensor`): `(N, C)`, one-hot labels of the source rows, zeros in the others.
        target (`Tensor`): `(N, C)`, probabilities of the target rows, zeros in the others.
        num_kernels (`int`, *optional*, defaults to 5): as in [`maximum_mean_discrepancy`].
        factor (`float`, *optional*, defaults to 2.0): as there.
        bandwidth (`float`, *optional*): as there, over the rows of both sides.

    Shape:
        - returns: scalar, dimensionless; see [`class_conditional_discrepancy`].

    Example:
        >>> x, labels = torch.tensor([[0.0], [1.0], [0.0], [1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> none = torch.zeros(2, 2)
        >>> local_maximum_mean_discrepancy(x, torch.cat([labels, none]), torch.cat([none, labels])).item()
        0.0
    """
    distances = squared_distances(features)
    middle = bandwidth
    if middle is None:
        counted = (source.sum(1) > 0) | (target.sum(1) > 0)
        middle = mean_distance(distances, counted, features)
    return class_conditional_discrepancy(gaussian_kernels(distances, middle, num_kernels, factor), source, target)
