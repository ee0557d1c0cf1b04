"""Adaptive feature norm (AFN)."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.feature_norm import hard_feature_norm, mean_feature_norm, stepwise_feature_norm
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule


class AdaptiveFeatureNorm(Objective):
    r"""
    Adaptive feature norm (AFN): let features of all rows grow, as those of the target are small and transfer badly.

    Stepwise (SAFN), the default, the norm of each of the $n$ rows is to be $r$ above where it is, where
    $\operatorname{sg}$ lets no gradient through:

    $$ L = \frac{1}{n} \sum_{i=1}^{n} \big( \lVert f_i \rVert_2 - \operatorname{sg}(\lVert f_i \rVert_2) - r \big)^2 $$

    Hard (HAFN), the mean norm of the labelled rows $s$ and that of the unlabelled rows $t$ are to be $r$ themselves:

    $$ L = \Big( \frac{1}{n_s} \sum_{i \in s} \lVert f_i \rVert_2 - r \Big)^2
         + \Big( \frac{1}{n_t} \sum_{i \in t} \lVert f_i \rVert_2 - r \Big)^2 $$

    Args:
        hard (`bool`, *optional*, defaults to `False`):
            Whether norms have a fixed target instead of one that moves ahead of them.
        radius (`float`, *optional*):
            $r$, in units of the features. By default 1.0, how far the moving target is ahead; 25.0 with `hard`. The
            paper's values; it takes a step of 0.3 for its largest data set.
        weight (`float` or `Schedule`, *optional*, defaults to 0.05):
            $\lambda$, the multiplier of the term (in inverse squared units of the features); the paper's value.

    Shape:
        - `batch.features`: `(B, D)` float32; of `(B, T, D)` of a token classifier every token is a row that
          `attention_mask` counts.
        - `batch.labels`: read with `hard` only, where -100 marks unlabelled rows; no `domain` is needed.
        - returns: scalar float32, in squared units of the features. Stepwise its value is $r^2$ at every step, and
          only the gradient means something: look at `adaptive_feature_norm_norm` in the logs, the mean norm.

    Degenerate batches:
        Stepwise, labels do not matter: with any rows the term is defined. With `hard` a side without a row adds
        nothing. Features of zero have no direction to grow in, and a gradient of zero.

    Deviations from the paper:
        The dropout of the model is left as it is; the paper scales dropout to keep the norm instead of the mean. There
        is no bottleneck: features are the input of the head.

    Raises:
        ValueError: if `radius` is not positive.

    Relations:
        Has no parameters and aligns nothing; the paper adds [`EntropyMinimization`] at a weight of 0.1. Features that
        are bounded can grow only so far: those of BERT's pooler, after a tanh, to $\sqrt D$, and those after a
        LayerNorm through its weights alone. Weight decay works against it. `hard` needs a radius above the norms at
        the start, which the logs show. Takes regressions and models with several labels a row.

    Example:
        >>> import torch
        >>> objective = AdaptiveFeatureNorm()
        >>> features = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> batch = TransferBatch(features=features, logits=torch.zeros(1, 2), labels=torch.tensor([0]))
        >>> objective(batch).item(), objective.diagnostics["norm"].item()
        (1.0, 5.0)

    Paper: Xu et al., "Larger Norm More Transferable: An Adaptive Feature Norm Approach...", ICCV 2019, https://huggingface.co/papers/1811.07456
    """

    def __init__(self, *, hard: bool = False, radius: float | None = None, weight: float | Schedule = 0.05):
        super().__init__(weight=weight)
        if radius is None:
            radius = 25.0 if hard else 1.0
        if not radius > 0:
            raise ValueError(
                f"`radius={radius}` does not let the features grow: they would stay or shrink, and small features are "
                "what the method is against. Give a positive number, such as the paper's 1.0, or 25.0 with "
                "`hard=True`."
            )
        self.hard = hard
        self.radius = radius

    def forward(self, batch: TransferBatch) -> Tensor:
        """How far the norms are from their target."""
        rows = batch.rows
        # several labels a row make several masks of it
        counted, labelled = (mask.reshape(len(rows.features), -1).any(1) for mask in (rows.counted, rows.labelled))
        with torch.no_grad():
            self.diagnostics = {"norm": mean_feature_norm(rows.features, counted)}
        if not self.hard:
            return stepwise_feature_norm(rows.features, counted, radius=self.radius)
        unlabelled = rows.unlabelled.reshape(len(rows.features), -1).all(1)
        return hard_feature_norm(rows.features, torch.stack([labelled, unlabelled]), radius=self.radius)
