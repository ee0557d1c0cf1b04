"""Mathematics of conditional adversaries: features and predictions as one input, and what a row counts."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_transfer.functional.domains import domain_masks


__all__ = ["entropy_weights", "multilinear_map", "random_maps", "randomized_multilinear_map"]


def multilinear_map(features: Tensor, probabilities: Tensor) -> Tensor:
    r"""
    $f \otimes g$: every product of a feature with the probability of a class, class by class.

    Args:
        features (`Tensor`): `(N, D)`.
        probabilities (`Tensor`): `(N, C)`.

    Shape:
        - returns: `(N, C * D)`; entry `c * D + k` is `probabilities[:, c] * features[:, k]`.

    Example:
        >>> multilinear_map(torch.tensor([[2.0, 3.0]]), torch.tensor([[0.25, 0.75]])).tolist()
        [[0.5, 0.75, 1.5, 2.25]]

    Paper: Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, https://huggingface.co/papers/1705.10667
    """
    return (probabilities.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)


def random_maps(feature_dim: int, num_labels: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""
    The fixed matrices $R_f$ `(D, size)` and $R_g$ `(C, size)` of [`randomized_multilinear_map`]: independent standard
    normal numbers. They depend on the arguments alone, so that every rank and every restart has the same ones.

    Example:
        >>> first, second = random_maps(4, 3, 5)
        >>> first.shape, second.shape
        (torch.Size([4, 5]), torch.Size([3, 5]))
    """
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(feature_dim, size, generator=generator, device="cpu", dtype=torch.float32),
        torch.randn(num_labels, size, generator=generator, device="cpu", dtype=torch.float32),
    )


def randomized_multilinear_map(features: Tensor, probabilities: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
    r"""
    $(R_f f) \odot (R_g g) / \sqrt{d}$: in expectation over the random maps, inner products of these $d$ numbers are
    those of the multilinear map, $\langle f, f' \rangle \langle g, g' \rangle$.

    Args:
        features (`Tensor`): `(N, D)`.
        probabilities (`Tensor`): `(N, C)`.
        maps (`tuple[Tensor, Tensor]`): `(D, d)` and `(C, d)`, entries with mean 0 and variance 1.

    Shape:
        - returns: `(N, d)`.

    Example:
        >>> maps = torch.ones(2, 4), torch.ones(2, 4)
        >>> randomized_multilinear_map(torch.tensor([[2.0, 3.0]]), torch.tensor([[0.25, 0.75]]), maps).tolist()
        [[2.5, 2.5, 2.5, 2.5]]

    Paper: Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, https://huggingface.co/papers/1705.10667
    """
    of_features, of_classes = maps
    return (features @ of_features) * (probabilities @ of_classes) / of_features.shape[1] ** 0.5


def entropy_weights(logits: Tensor, domain: Tensor, counted: Tensor, num_domains: int) -> Tensor:
    r"""
    $1 + e^{-H(g_i)}$ of the predicted distribution, divided by its mean over the counted rows of the same domain:
    what a row counts when certain predictions are to be trusted more.

    By domain, so that every domain keeps the share that its rows have. With one mean over all rows the domain with
    the more certain predictions, mostly the source, would count more, and a discriminator that names it would be
    right more often without looking at a feature.

    Args:
        logits (`Tensor`): `(N, C)`. No gradient goes into them.
        domain (`Tensor`): `(N,)` int64 in `[0, K)`.
        counted (`Tensor`): `(N,)` bool.
        num_domains (`int`): `K`.

    Shape:
        - returns: `(N,)`, mean 1 over the counted rows of each domain, 0 where a row is not counted.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [9e9, 0.0], [1.0, 1.0]])  # entropies log 2, 0, log 2
        >>> entropy_weights(logits, torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.bool), 2)
        tensor([0.8571, 1.1429, 1.0000])

    Paper: Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, https://huggingface.co/papers/1705.10667
    """
    entropy = torch.special.entr(logits.detach().softmax(-1)).sum(-1)
    weights = (1 + torch.exp(-entropy)) * counted
    masks = domain_masks(domain, num_domains, weights.dtype) * counted  # (K, N)
    means = masks @ weights / masks.sum(1).clamp(min=1)
    # Each row of a counted domain has a weight above 1, so only domains without rows have a mean below it.
    return weights / (means.clamp(min=1) @ masks).clamp(min=1)
