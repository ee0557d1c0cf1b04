"""Maximum mean discrepancy with several kernels (DAN)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.mmd import maximum_mean_discrepancy
from hf_transfer.objectives.domain_adaptation.kernel_options import check_kernels
from hf_transfer.objectives.domain_adaptation.tapped_objective import TappedObjective
from hf_transfer.schedules import Schedule


class MaximumMeanDiscrepancy(TappedObjective):
    r"""
    Maximum mean discrepancy with several kernels (MK-MMD, the term of DAN): make the features of the domains one
    distribution, without a discriminator.

    With $n$ rows $s_i$ of one domain, $m$ rows $t_i$ of the other and the mean $k$ of $U$ Gaussian kernels,

    $$ L = \frac{1}{n (n - 1)} \sum_{i \neq j} k(s_i, s_j) + \frac{1}{m (m - 1)} \sum_{i \neq j} k(t_i, t_j)
       - \frac{2}{n m} \sum_{i, j} k(s_i, t_j), \qquad
       k(x, y) = \frac{1}{U} \sum_{u=0}^{U-1} \exp \left( -\frac{\lVert x - y \rVert^2}
       {\gamma f^{u - \lfloor U / 2 \rfloor}} \right) $$

    where $\gamma$ is the mean of the squared distances between different rows of the two domains, a constant for the
    gradient. More than two domains: the mean over their pairs. Several taps: the sum over them.

    Args:
        taps (`str`, `int` or a sequence of them, *optional*, defaults to `"head"`):
            Where the features are read: `"head"` for the input of the head; a block by number (`-1` or
            `"block.-1"`), `"blocks"` for all; or a module by name. Outputs of blocks are averaged over the tokens that
            count, or over space.
        num_kernels (`int`, *optional*, defaults to 5):
            $U$, as in the paper's program.
        factor (`float`, *optional*, defaults to 2.0):
            $f$, the ratio of neighbouring bandwidths (dimensionless).
        bandwidth (`float`, *optional*):
            A fixed $\gamma$, in squared units of the features, in place of the mean of each batch.
        biased (`bool`, *optional*, defaults to `False`):
            Whether to take the pairs $i = j$ in, over $n^2$ and $m^2$ (the V-statistic). It is never negative, but
            positive for two samples of one distribution, the more so the fewer they are.
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless). Programs that add the 5 kernels up instead of
            averaging them have 5 times the term: their weight of 1 is 5 here.

    Shape:
        - `batch.features`: `(B, D)` float32; `(B, T, D)` of a token classifier is averaged over the tokens of each
          row.
        - `batch.domain`: `(B,)` int64 in `[0, K)`. The domains may have different numbers of rows.
        - returns: scalar float32, dimensionless, at most 2 for each tap. **It may be negative**: the estimate is
          unbiased, so it is as often below as above zero where the distributions are equal. That is no fault, and
          the minimum of the term is not zero.

    Degenerate batches:
        A pair of domains with fewer than two rows in either counts nothing (fewer than one for the biased); without a
        pair the term is an exact zero that still depends on `features`. Constant features give zero, and a gradient
        of zero.

    Deviations from the paper:
        The sum over all pairs in place of the linear-time one, which looks at each row once; it has far less variance
        and costs nothing beside the model. The kernels have equal shares, where the paper finds the shares that tell
        the domains apart best by a quadratic program.

    Raises:
        ValueError: if an option is out of range; at attach time if there is no such tap; at the first batch if
            `domain` is missing or outside `[0, K)`.

    Relations:
        [`JointMaximumMeanDiscrepancy`] compares the predictions as well, [`LocalMaximumMeanDiscrepancy`] class by
        class: both help where whole domains match with the classes crossed. [`DeepCORAL`] compares covariances only.
        The proportions of the classes should be alike in the domains, or aligning them mixes classes. It takes some
        rows of each domain to be worth anything: 16 or more. With the bandwidth of the batch the scale of the features
        does not matter, so the gradient is large where they hardly vary: keep `max_grad_norm`.

    Example:
        >>> import torch
        >>> from hf_transfer import TransferBatch
        >>> objective = MaximumMeanDiscrepancy(bandwidth=1.0)
        >>> features, domain = torch.tensor([[0.0], [0.0], [0.0], [900.0], [900.0]]), torch.tensor([0, 0, 0, 1, 1])
        >>> objective(TransferBatch(features=features, domain=domain)).item()
        2.0

    Paper: Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, https://huggingface.co/papers/1502.02791
    """

    def __init__(
        self,
        *,
        taps: str | int | Sequence[str | int] = "head",
        num_kernels: int = 5,
        factor: float = 2.0,
        bandwidth: float | None = None,
        biased: bool = False,
        num_domains: int = 2,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(taps=taps, num_domains=num_domains, weight=weight)
        check_kernels(self, num_kernels, factor, bandwidth=bandwidth)
        self.num_kernels = num_kernels
        self.factor = factor
        self.bandwidth = bandwidth
        self.biased = biased

    def distance(self, features: Tensor, domain: Tensor, batch: TransferBatch) -> Tensor:
        """The discrepancy between the domains, or the mean over their pairs."""
        return maximum_mean_discrepancy(
            features,
            domain,
            num_domains=self.num_domains,
            num_kernels=self.num_kernels,
            factor=self.factor,
            bandwidth=self.bandwidth,
            biased=self.biased,
        )
