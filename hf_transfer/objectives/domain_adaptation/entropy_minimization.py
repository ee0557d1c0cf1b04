"""Entropy minimisation on unlabelled rows."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.entropy import mean_entropy, prediction_entropies
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.schedules import Schedule


class EntropyMinimization(Objective):
    r"""
    Entropy minimisation: make predictions on unlabelled rows certain, so that classes part where data are sparse.

    With the predictions $p_i = \operatorname{softmax}(z_i)$ of the $n$ unlabelled rows the term is

    $$ L = -\frac{1}{n} \sum_{i=1}^{n} \sum_{c=1}^{C} p_{ic} \log p_{ic} $$

    Args:
        weight (`float` or `Schedule`, *optional*, defaults to 0.1):
            $\lambda$, the multiplier of the term (dimensionless). The paper chooses it by validation; 0.1 is what
            domain adaptation commonly adds to another method.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification, where every token counts that
          `attention_mask` counts, in rows that have no label at all.
        - `batch.labels`: -100 marks unlabelled rows, as `mix_domains` does; no `domain` is needed.
        - returns: scalar float32, in nats per row; 0 where every prediction is certain, $\log C$ where none prefers a
          class.

    Degenerate batches:
        Without an unlabelled row the term is an exact zero that still depends on the logits.

    Deviations from the paper:
        A mean over the unlabelled rows, where the paper has a sum, so that the weight does not depend on their number.

    Raises:
        ValueError: at attach time if the model is a regression or has several labels a row.

    Relations:
        Certain is not right: the minimum is also met by one class for every row. `entropy_minimization_diversity` in
        the logs, the entropy of the mean prediction, falls towards 0 then. [`InformationMaximization`] has that term
        in the loss, [`BatchNuclearNorm`] and [`MinimumClassConfusion`] resist in other ways. Warm the weight up
        (`weight=warmup(gamma=10.0)`): the predictions of an untrained head are not worth sharpening. Pluggable beside
        alignment such as [`AdaptiveFeatureNorm`] or [`DomainAdversarial`].

    Example:
        >>> import torch
        >>> batch = TransferBatch(
        ...     features=torch.zeros(2, 4), logits=torch.zeros(2, 3), labels=torch.tensor([1, -100])
        ... )
        >>> round(EntropyMinimization()(batch).item(), 4)  # log 3
        1.0986

    Paper: Grandvalet and Bengio, "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004, https://papers.nips.cc/paper/2004/hash/96f2b50b5d3613adf9c27049b2a888c7-Abstract.html
    """

    needs_classes = True

    def __init__(self, *, weight: float | Schedule = 0.1):
        super().__init__(weight=weight)

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The mean entropy of the unlabelled rows."""
        rows = batch.rows
        self.diagnostics = {"diversity": prediction_entropies(rows.logits, rows.unlabelled)["diversity"]}
        return mean_entropy(rows.logits, rows.unlabelled)
