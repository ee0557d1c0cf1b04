"""Maximum mean discrepancy within each class (DSAN)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.mmd import local_maximum_mean_discrepancy
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.kernel_options import check_kernels
from hf_transfer.schedules import Schedule, warmup


class LocalMaximumMeanDiscrepancy(Objective):
    r"""
    Local maximum mean discrepancy (LMMD, the term of DSAN): make the features of each class one distribution.

    Labelled rows $s_i$ are the source, unlabelled rows $t_j$ the target. With weights
    $w^s_{ic} = y_{ic} / \sum_j y_{jc}$ from the one-hot labels and $w^t_{jc} = p_{jc} / \sum_i p_{ic}$ from the
    softmax of the logits, taken as constants, and the classes $P$ that both sides have,

    $$ L = \frac{1}{|P|} \sum_{c \in P} \Big( \sum_{i, j} w^s_{ic} w^s_{jc} k(s_i, s_j)
       + \sum_{i, j} w^t_{ic} w^t_{jc} k(t_i, t_j) - 2 \sum_{i, j} w^s_{ic} w^t_{jc} k(s_i, t_j) \Big) $$

    with the mean $k$ of several Gaussian kernels, as in [`MaximumMeanDiscrepancy`].

    Args:
        num_kernels (`int`, *optional*, defaults to 5):
            How many Gaussians.
        factor (`float`, *optional*, defaults to 2.0):
            Ratio of their neighbouring bandwidths (dimensionless).
        bandwidth (`float`, *optional*):
            A fixed bandwidth of the middle one, in squared units of the features. By default the mean squared distance
            between different rows of both sides, a constant for the gradient.
        weight (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0)`):
            Multiplier of the term (dimensionless). It grows with the progress as in the paper, since the first
            predictions for the target are guesses. Programs that add the 5 kernels up have 5 times the term.

    Shape:
        - `batch.rows`: features, logits and labels of each row, or of each token that counts of a token classifier. A
          row with a label is source, a row of an example without any label is target; no `domain` column is read. The
          kernel is `(N, N)` of all rows.
        - returns: scalar float32, dimensionless, not negative, at most 2.

    Degenerate batches:
        Without labelled or without unlabelled rows, or where no class is on both sides, the term is an exact zero that
        still depends on the features. A class counts on the side of the target if it is the likeliest of some row:
        what little softmax leaves to the others is not blown up to a whole.

    Deviations from the paper:
        The mean is over the classes that both sides of the batch have, not over all $C$: a batch with few of them does
        not weigh less. The mean of the kernels instead of their sum. As in the paper, the statistic is the biased one.

    Raises:
        ValueError: if an option is out of range; at attach time for a regression or several labels a row.

    Relations:
        [`MaximumMeanDiscrepancy`] aligns whole domains. Here classes are aligned, by the predictions for the target:
        where those are wrong, the error is made firm. Batches need several rows a class: 32 and more for ten classes.

    Example:
        >>> import torch
        >>> from hf_transfer import TransferBatch
        >>> features, labels = torch.tensor([[0.0], [1.0], [0.0], [1.0]]), torch.tensor([0, 1, -100, -100])
        >>> right = torch.tensor([[99.0, 0.0], [0.0, 99.0], [99.0, 0.0], [0.0, 99.0]])
        >>> objective = LocalMaximumMeanDiscrepancy()
        >>> round(objective(TransferBatch(features, right, labels)).item(), 4)
        0.0
        >>> objective(TransferBatch(features, right.flip(1), labels)).item() > 1
        True

    Paper: Zhu et al., "Deep Subdomain Adaptation Network for Image Classification", TNNLS 2020, https://huggingface.co/papers/2106.09388
    """

    needs_classes = True

    def __init__(
        self,
        *,
        num_kernels: int = 5,
        factor: float = 2.0,
        bandwidth: float | None = None,
        weight: float | Schedule = warmup(gamma=10.0),  # noqa: B008  (schedules are immutable)
    ):
        super().__init__(weight=weight)
        check_kernels(self, num_kernels, factor, bandwidth=bandwidth)
        self.num_kernels = num_kernels
        self.factor = factor
        self.bandwidth = bandwidth

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return super().build(spec)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The mean discrepancy within the classes that labelled and unlabelled rows have."""
        rows = batch.rows
        one_hot = F.one_hot(rows.labels.clamp(min=0), rows.logits.shape[-1])
        probabilities = torch.softmax(rows.logits.detach(), -1)
        return local_maximum_mean_discrepancy(
            rows.features,
            one_hot * rows.labelled.unsqueeze(1),
            torch.where(rows.unlabelled.unsqueeze(1), probabilities, 0.0),
            num_kernels=self.num_kernels,
            factor=self.factor,
            bandwidth=self.bandwidth,
        )
