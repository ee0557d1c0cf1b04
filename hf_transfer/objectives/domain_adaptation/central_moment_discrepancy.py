"""Central moment discrepancy of features (CMD)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.domains import mean_over_pairs
from hf_transfer.functional.moments import central_moment_discrepancy
from hf_transfer.objectives.domain_adaptation.tapped_objective import TappedObjective
from hf_transfer.schedules import Schedule


SQUASHES = {"tanh": (torch.tanh, 2.0), "sigmoid": (torch.sigmoid, 1.0)}


class CentralMomentDiscrepancy(TappedObjective):
    r"""
    Central moment discrepancy (CMD): make the means and the central moments of each feature equal in the domains.

    With features squashed into $[a, b]$, their means $\bar s$, $\bar t$ in two domains and the central moments
    $c_k(x) = \frac{1}{n} \sum_i (x_i - \bar x)^k$, feature by feature,

    $$ L = \frac{1}{b - a} \lVert \bar s - \bar t \rVert_2
       + \sum_{k=2}^{K} \frac{1}{(b - a)^k} \lVert c_k(s) - c_k(t) \rVert_2 $$

    More than two domains: the mean over their pairs. Several taps: the sum over them.

    Args:
        moments (`int`, *optional*, defaults to 5):
            $K$, the order of the highest moment; the paper's value. 1 compares the means alone.
        squash (`"tanh"` or `"sigmoid"`, *optional*, defaults to `"tanh"`):
            What brings the features into $[-1, 1]$ or $[0, 1]$. Features far above 1 in size saturate, and get little
            gradient: tap a normalised layer.
        taps (`str`, `int` or a sequence of them, *optional*, defaults to `"head"`):
            Where the features are read, as in [`MaximumMeanDiscrepancy`].
        num_domains (`int`, *optional*, defaults to 2):
            Number of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless); the paper's value.

    Shape:
        - `batch.features`: `(B, D)` float32; `(B, T, D)` of a token classifier is averaged over the tokens of each
          row.
        - `batch.domain`: `(B,)` int64. The domains may have different numbers of rows.
        - returns: scalar float32, dimensionless, not negative, at most $K \sqrt D$ for each tap.

    Degenerate batches:
        A domain of one row has no spread: of that pair the means alone count. With one domain the term is an exact
        zero that still depends on `features`. Where moments are equal the gradient of their norm is zero.

    Deviations from the paper:
        Its features come out of a sigmoid and are bounded. Those of pretrained models are not, so they are squashed
        here, for this term only; the head sees them as they are.

    Raises:
        ValueError: if `moments` is below 1, or another option is out of range; at attach time if there is no such tap;
            at the first batch if `domain` is missing or outside its range.

    Relations:
        Linear in the rows and the features. [`DeepCORAL`] compares correlations between features, and no means;
        [`MaximumMeanDiscrepancy`] whole distributions by distances of rows.

    Example:
        >>> import torch
        >>> from hf_transfer import TransferBatch
        >>> features = torch.tensor([[-99.0], [99.0], [0.0], [0.0]])  # second moments 1 and 0, the means equal
        >>> objective = CentralMomentDiscrepancy(moments=2)
        >>> objective(TransferBatch(features=features, domain=torch.tensor([0, 0, 1, 1]))).item()
        0.25

    Paper: Zellinger et al., "Central Moment Discrepancy (CMD) for Domain-Invariant...", ICLR 2017, https://huggingface.co/papers/1702.08811
    """

    def __init__(
        self,
        *,
        moments: int = 5,
        squash: Literal["tanh", "sigmoid"] = "tanh",
        taps: str | int | Sequence[str | int] = "head",
        num_domains: int = 2,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(taps=taps, num_domains=num_domains, weight=weight)
        if moments < 1:
            raise ValueError(
                f"`moments={moments}`: the first moment is the mean, and nothing would be compared. Give 1 or more, "
                "such as the paper's 5."
            )
        if squash not in SQUASHES:
            raise ValueError(
                f"`squash={squash!r}` is no way to bound features here, and moments of unbounded ones cannot be "
                'weighed against each other. Give "tanh" or "sigmoid".'
            )
        self.moments = moments
        self.squash = squash

    def distance(self, features: Tensor, domain: Tensor, batch: TransferBatch) -> Tensor:
        """The discrepancy of the squashed features, or its mean over the pairs of domains."""
        function, span = SQUASHES[self.squash]
        discrepancy = partial(central_moment_discrepancy, function(features), moments=self.moments, span=span)
        return mean_over_pairs(discrepancy, domain, self.num_domains, dtype=features.dtype)
