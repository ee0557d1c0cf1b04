"""Correlation alignment of features (Deep CORAL)."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.domains import mean_over_pairs
from hf_transfer.functional.moments import coral
from hf_transfer.objectives.domain_adaptation.tapped_objective import TappedObjective


class DeepCORAL(TappedObjective):
    r"""
    Correlation alignment (Deep CORAL): make the covariances of the features of the domains equal.

    With the covariances $C_s$ and $C_t$ of the features of two domains, over $n - 1$ rows,

    $$ L = \frac{1}{4 D^2} \lVert C_s - C_t \rVert_F^2 $$

    The means are not compared. More than two domains: the mean over their pairs. Several taps: the sum over them.

    Args:
        taps (`str`, `int` or a sequence of them, *optional*, defaults to `"head"`):
            Where the features are read: `"head"` for the input of the head; a block by number (`-1` or
            `"block.-1"`), `"blocks"` for all; or a module by name. Outputs of blocks are averaged over the tokens that
            count, or over space.
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. The term is in the fourth power of the unit of the features, and
            over $4 D^2$: look at its first values in the log and choose a weight that makes it, at the end of
            training, about as large as the task loss, as the paper does. For wide features of size 1 that is in the
            hundreds.

    Shape:
        - `batch.features`: `(B, D)` float32; `(B, T, D)` of a token classifier is averaged over the tokens of each
          row.
        - `batch.domain`: `(B,)` int64 in `[0, K)`. The domains may have different numbers of rows.
        - returns: scalar float32, in the fourth power of the unit of the features, not negative.

    Degenerate batches:
        A pair of domains with fewer than two rows in either counts nothing; without a pair the term is an exact zero
        that still depends on `features`.

    Deviations from the paper:
        The paper aligns the outputs of the last layer, here it is the input of the head. Programs that take the mean
        of the squared differences have 4 times the term; some add the distance of the means, which is no part of it.

    Raises:
        ValueError: if `taps` or `num_domains` is out of range; at attach time if there is no such tap; at the first
            batch if `domain` is missing or outside `[0, K)`.

    Relations:
        No parameters, no bandwidth and no game: try it first on small target sets. [`CentralMomentDiscrepancy`]
        compares the means and higher moments of each feature, without the correlations; [`MaximumMeanDiscrepancy`]
        whole distributions.

    Example:
        >>> import torch
        >>> from hf_transfer import TransferBatch
        >>> features = torch.tensor([[0.0], [2.0], [5.0], [9.0]])  # variances 2 and 8
        >>> DeepCORAL()(TransferBatch(features=features, domain=torch.tensor([0, 0, 1, 1]))).item()
        9.0

    Paper: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016, https://huggingface.co/papers/1607.01719
    """

    def distance(self, features: Tensor, domain: Tensor, batch: TransferBatch) -> Tensor:
        """The distance of the covariances, or its mean over the pairs of domains."""
        return mean_over_pairs(partial(coral, features), domain, self.num_domains, least=2, dtype=features.dtype)
