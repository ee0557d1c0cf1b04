"""Joint maximum mean discrepancy of features and predictions (JAN)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.mmd import joint_maximum_mean_discrepancy
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from hf_transfer.objectives.domain_adaptation.kernel_options import check_kernels
from hf_transfer.schedules import Schedule


class JointMaximumMeanDiscrepancy(DomainObjective):
    r"""
    Joint maximum mean discrepancy (JMMD, the term of JAN): make features and predictions together one distribution.

    The maximum mean discrepancy of [`MaximumMeanDiscrepancy`] with the product of two kernels,

    $$ k\big((f, p), (f', p')\big) = \frac{1}{U} \sum_{u=0}^{U-1} \exp \left( -\frac{\lVert f - f' \rVert^2}
       {\gamma 2^{u - \lfloor U / 2 \rfloor}} \right) \cdot \exp \left( -\frac{\lVert p - p' \rVert^2}{\gamma_p}
       \right) $$

    on the input $f$ of the head and the softmax $p$ of the logits: two rows are alike only if both are. More than two
    domains: the mean over their pairs.

    Args:
        num_kernels (`int`, *optional*, defaults to 5):
            $U$, how many Gaussians on the features.
        factor (`float`, *optional*, defaults to 2.0):
            Ratio of their neighbouring bandwidths (dimensionless).
        bandwidth (`float`, *optional*):
            A fixed $\gamma$, in squared units of the features. By default the mean squared distance between different
            rows of the two domains, a constant for the gradient.
        prediction_bandwidth (`float`, *optional*, defaults to 1.68):
            $\gamma_p$, of the one kernel on the probabilities (dimensionless), as in the paper's program; squared
            distances of probabilities are at most 2. `None` takes the mean of the batch.
        biased (`bool`, *optional*, defaults to `False`):
            Whether to use the V-statistic, see [`MaximumMeanDiscrepancy`].
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless). Programs that add the kernels up have $U$ times
            the term.

    Shape:
        - `batch.rows`: features and logits of each row, or of each token that counts of a token classifier. The
          kernel is `(N, N)` of all rows: a batch of 2,048 tokens takes some 16 MiB for each of a dozen matrices.
        - `batch.domain`: `(B,)` int64 in `[0, K)`.
        - returns: scalar float32, dimensionless, at most 2. **It may be negative**, as the estimate is unbiased.

    Degenerate batches:
        Needs no labels. A pair of domains with fewer than two rows in either counts nothing (fewer than one for the
        biased); without a pair the term is an exact zero that still depends on the features.

    Deviations from the paper:
        The sum over all pairs in place of the linear-time one. Two layers, the features and the predictions, as in its
        experiments with one bottleneck; the mean of the kernels instead of their sum.

    Raises:
        ValueError: if an option is out of range; at attach time for a regression or several labels a row; at the first
            batch if `domain` is missing or outside `[0, K)`.

    Relations:
        [`MaximumMeanDiscrepancy`] aligns the features alone. [`LocalMaximumMeanDiscrepancy`] takes the labels of the
        source instead of its predictions. [`ConditionalAdversarial`] is the adversary on the same pair.

    Example:
        >>> import torch
        >>> from hf_transfer import TransferBatch
        >>> logits = torch.tensor([[99.0, 0.0], [99.0, 0.0], [0.0, 99.0], [0.0, 99.0]])
        >>> labels, domain = torch.tensor([0, 0, -100, -100]), torch.tensor([0, 0, 1, 1])
        >>> batch = TransferBatch(torch.zeros(4, 2), logits, labels, domain)
        >>> round(JointMaximumMeanDiscrepancy()(batch).item(), 4)  # 2 - 2 exp(-2 / 1.68)
        1.3918

    Paper: Long et al., "Deep Transfer Learning with Joint Adaptation Networks", ICML 2017, https://huggingface.co/papers/1605.06636
    """

    needs_classes = True

    def __init__(
        self,
        *,
        num_kernels: int = 5,
        factor: float = 2.0,
        bandwidth: float | None = None,
        prediction_bandwidth: float | None = 1.68,
        biased: bool = False,
        num_domains: int = 2,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(num_domains=num_domains, weight=weight)
        check_kernels(self, num_kernels, factor, bandwidth=bandwidth, prediction_bandwidth=prediction_bandwidth)
        self.num_kernels = num_kernels
        self.factor = factor
        self.bandwidth = bandwidth
        self.prediction_bandwidth = prediction_bandwidth
        self.biased = biased

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return super().build(spec)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The discrepancy between the domains, or the mean over their pairs."""
        self.check_domain(batch.domain)
        rows = batch.rows
        assert rows.domain is not None  # as the batch has it
        return joint_maximum_mean_discrepancy(
            [rows.features, torch.softmax(rows.logits, -1)],
            torch.where(rows.counted, rows.domain, -1),
            bandwidths=[self.bandwidth, self.prediction_bandwidth],
            num_kernels=[self.num_kernels, 1],
            num_domains=self.num_domains,
            factor=self.factor,
            biased=self.biased,
        )
