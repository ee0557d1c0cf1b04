"""Optimal transport between the features of the domains along random directions (sliced Wasserstein)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.domains import mean_over_pairs
from hf_transfer.functional.optimal_transport import projections, sliced_wasserstein
from hf_transfer.objectives.domain_adaptation.tapped_objective import TappedObjective
from hf_transfer.schedules import Schedule


class SlicedWasserstein(TappedObjective):
    r"""
    Sliced Wasserstein distance (SWD, optimal transport): move the features of the domains onto each other at the least
    cost.

    With $P$ random directions $\theta_j$ and the quantile functions $F^{-1}$ of the projected rows,

    $$ L = \frac{1}{P} \sum_{j=1}^{P} \int_0^1 \left| F^{-1}_{\theta_j^\top s}(u) - F^{-1}_{\theta_j^\top t}(u)
       \right|^p du $$

    On a line the best transport joins equal quantiles, so it is exact and costs one sorting. More than two domains:
    the mean over their pairs. Several taps: the sum over them.

    Args:
        num_projections (`int`, *optional*, defaults to 128):
            $P$; the paper's value.
        power (`int`, *optional*, defaults to 2):
            $p$: 2 for squared distances, 1 for distances, which outliers move less.
        taps (`str`, `int` or a sequence of them, *optional*, defaults to `"head"`):
            Where the features are read, as in [`MaximumMeanDiscrepancy`].
        num_domains (`int`, *optional*, defaults to 2):
            Number of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. The term is in the unit of the features to the power $p$: look at
            its first values in the log.

    Shape:
        - `batch.features`: `(B, D)` float32; `(B, T, D)` of a token classifier is averaged over the tokens of each
          row.
        - `batch.domain`: `(B,)` int64. The domains may have different numbers of rows.
        - returns: scalar float32, in the unit of the features to the power $p$, not negative. For $p = 2$ a shift of
          one domain by $v$ gives $\lVert v \rVert^2 / D$ on average.

    Degenerate batches:
        One row a domain is enough. With one domain the term is an exact zero that still depends on `features`.

    Deviations from the paper:
        It is the features of the domains that are compared; the paper compares the outputs of two classifiers on the
        target ([`MaximumClassifierDiscrepancy`]). The sizes of the sets may differ. The directions are a function of
        `batch.progress`, new in each step of a trainer, equal on all ranks and in a resumed run, and equal in the
        micro-batches of one step. In a loop of your own, set `Attachment.progress`, or they stay the same.

    Raises:
        ValueError: if an option is out of range; at attach time if there is no such tap; at the first batch if
            `domain` is missing or outside its range.

    Relations:
        Sorting in place of the regularised plan of Sinkhorn: no entropy to choose for each scale of features, no
        iterations that may not converge, and zero exactly where the sets are equal. [`MaximumMeanDiscrepancy`] fades
        for domains that lie far apart with a fixed bandwidth, the transport pulls the more; [`WassersteinDistance`]
        learns a critic for the same in all directions at once.

    Example:
        >>> import torch
        >>> from hf_transfer import TransferBatch
        >>> features = torch.tensor([[0.0], [1.0], [3.0], [4.0]])  # one domain is the other, moved by 3
        >>> SlicedWasserstein()(TransferBatch(features=features, domain=torch.tensor([0, 0, 1, 1]))).item()
        9.0

    Paper: Lee et al., "Sliced Wasserstein Discrepancy for Unsupervised Domain Adaptation", CVPR 2019, https://huggingface.co/papers/1903.04064
    """

    def __init__(
        self,
        *,
        num_projections: int = 128,
        power: Literal[1, 2] = 2,
        taps: str | int | Sequence[str | int] = "head",
        num_domains: int = 2,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(taps=taps, num_domains=num_domains, weight=weight)
        if num_projections < 1:
            raise ValueError(
                f"`num_projections={num_projections}`: without a direction nothing is compared. Give 1 or more, such "
                "as 128."
            )
        if power not in (1, 2):
            raise ValueError(
                f"`power={power}`: the cost is the distance or its square, and nothing else is computed. Give 1 or 2."
            )
        self.num_projections = num_projections
        self.power: Literal[1, 2] = power

    def distance(self, features: Tensor, domain: Tensor, batch: TransferBatch) -> Tensor:
        """The mean transport cost over the directions of this step, and over the pairs of domains."""
        directions = projections(features.shape[1], self.num_projections, batch.progress, like=features)
        cost = partial(sliced_wasserstein, features, directions=directions, power=self.power)
        return mean_over_pairs(cost, domain, self.num_domains, dtype=features.dtype)
