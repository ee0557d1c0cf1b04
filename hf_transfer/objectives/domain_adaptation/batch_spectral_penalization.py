"""Batch spectral penalisation (BSP)."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.domains import domain_masks
from hf_transfer.functional.spectral import largest_squared_singular_values
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from hf_transfer.schedules import Schedule


class BatchSpectralPenalization(DomainObjective):
    r"""
    Batch spectral penalisation (BSP): keep the strongest directions of the features from drowning the others.

    With the singular values $\sigma_{d,1} \ge \sigma_{d,2} \ge \dots$ of the features of the rows of domain $d$ the
    term is

    $$ L = \sum_{d=0}^{K-1} \sum_{i=1}^{k} \sigma_{d,i}^2 $$

    Args:
        k (`int`, *optional*, defaults to 1):
            How many of the largest singular values of each domain are penalised; the paper's value.
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 0.0001):
            $\beta$, the multiplier of the term (in inverse squared units of the features); the paper's value.

    Shape:
        - `batch.features`: `(B, D)` float32; `(B, T, D)` of a token classifier is averaged over the tokens of each
          row.
        - `batch.domain`: `(B,)` int64 in `[0, K)`; column `domain` of the dataset.
        - returns: scalar float32, in squared units of the features; a sum over singular values, not a mean over rows.

    Degenerate batches:
        If all rows share one domain the term is an exact zero that still depends on the features: it is a
        counterweight to an adversary, which rests on such a batch. A domain with fewer than $k$ rows is penalised in
        all it has. Where singular values are equal or zero (constant features) value and gradient are finite.

    Deviations from the paper:
        Any number of domains. The sum over them is kept: for two it is the paper's, and as the rows of a batch are
        shared among the domains it stays of the same size when there are more; a mean would not.

    Raises:
        ValueError: if `k` is below 1 or `num_domains` below 2; at the first batch if `domain` is missing or outside
            `[0, K)`.

    Relations:
        Made to go beside [`DomainAdversarial`] or [`ConditionalAdversarial`], which favour the strongest directions;
        alone it aligns nothing. [`BatchSpectralShrinkage`] penalises the smallest singular values instead, for
        fine-tuning on few rows. The value grows with the squared norm of the features and the rows of the batch: if
        `loss_batch_spectral_penalization` times `weight` is far above the task loss, lower the weight.

    Example:
        >>> import torch
        >>> batch = TransferBatch(
        ...     features=torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), domain=torch.tensor([0, 0, 1])
        ... )
        >>> BatchSpectralPenalization()(batch).item()  # 9 + 4
        13.0

    Paper: Chen et al., "Transferability vs. Discriminability: Batch Spectral Penalization...", ICML 2019, https://proceedings.mlr.press/v97/chen19i.html
    """

    def __init__(self, *, k: int = 1, num_domains: int = 2, weight: float | Schedule = 1e-4):
        super().__init__(num_domains=num_domains, weight=weight)
        if k < 1:
            raise ValueError(
                f"`k={k}` penalises no singular value, and the term is always zero. Give the number of largest "
                "singular values to penalise, such as the paper's 1."
            )
        self.k = k

    def forward(self, batch: TransferBatch) -> Tensor:
        """The sum of the largest squared singular values of every domain."""
        domain = self.check_domain(batch.domain)
        features = batch.example_features
        masks = domain_masks(domain, self.num_domains, features.dtype)
        # the rows of other domains are zeros, which change no singular value
        penalties = largest_squared_singular_values(masks.unsqueeze(-1) * features, self.k)
        return penalties.sum() * (domain != domain[:1]).any()
