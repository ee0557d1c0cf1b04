"""Batch spectral shrinkage (BSS)."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.spectral import smallest_squared_singular_values
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule


class BatchSpectralShrinkage(Objective):
    r"""
    Batch spectral shrinkage (BSS): suppress the weakest directions of the features, which do not transfer.

    With the singular values $\sigma_1 \ge \dots \ge \sigma_r$ of the `(B, D)` features of a micro-batch the term is

    $$ L = \sum_{i=1}^{k} \sigma_{-i}^2 $$

    Args:
        k (`int`, *optional*, defaults to 1):
            How many of the smallest singular values are penalised; the paper's value.
        weight (`float` or `Schedule`, *optional*, defaults to 0.001):
            $\eta$, the strength (in inverse squared units of the features); the paper's value.

    Shape:
        - `batch.features`: `(B, D)` float32; `(B, T, D)` of a token classifier is averaged over the tokens of
          each row.
        - returns: scalar float32, in squared units of the features; a sum over singular values, not a mean over rows.

    Degenerate batches:
        The largest singular value is never penalised: a batch of $B$ rows has at most $B - 1$ small ones. With a
        single row the term is an exact zero that still depends on the features. Where singular values are equal or
        zero (the same row several times) value and gradient are finite.

    Deviations from the paper:
        A batch with fewer than $k + 1$ singular values is penalised in fewer.

    Raises:
        ValueError: if `k` is below 1.

    Relations:
        Pluggable beside [`L2SP`] and `DELTA`, as in the paper: those keep what the source model knew, this drops what
        of it does not help. Depends on the micro-batch: accumulating four batches of 4 is not one of 16. In batches
        wider than the features the smallest singular values are those of the features; in small batches, of the rows.
        Labels are not read: unlabelled rows count.

    Example:
        >>> import torch
        >>> BatchSpectralShrinkage()(TransferBatch(features=torch.diag(torch.tensor([3.0, 2.0, 0.5])))).item()
        0.25

    Paper: Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage...", NeurIPS 2019, https://papers.nips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html
    """

    def __init__(self, *, k: int = 1, weight: float | Schedule = 1e-3):
        super().__init__(weight=weight)
        if k < 1:
            raise ValueError(
                f"`k={k}` penalises no singular value, and the term is always zero. Give the number of smallest "
                "singular values to suppress, such as the paper's 1."
            )
        self.k = k

    def forward(self, batch: TransferBatch) -> Tensor:
        """The sum of the smallest squared singular values."""
        return smallest_squared_singular_values(batch.example_features, self.k)
