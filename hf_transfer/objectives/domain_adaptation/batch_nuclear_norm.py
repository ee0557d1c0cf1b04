"""Batch nuclear-norm maximisation (BNM)."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.entropy import prediction_entropies
from hf_transfer.functional.spectral import batch_nuclear_norm
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.schedules import Schedule


class BatchNuclearNorm(Objective):
    r"""
    Batch nuclear-norm maximisation (BNM): certain and varied predictions, as a large sum of singular values.

    With the predictions $P = \operatorname{softmax}(Z)$ of the $n$ unlabelled rows the term is

    $$ L = -\frac{1}{n} \lVert P \rVert_* = -\frac{1}{n} \sum_i \sigma_i(P) $$

    The Frobenius norm of $P$ grows with the certainty of its rows, its rank with the number of classes among them; the
    nuclear norm grows with both.

    Args:
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless); the paper's value.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification, where every token counts that
          `attention_mask` counts, in rows that have no label at all.
        - `batch.labels`: -100 marks unlabelled rows, as `mix_domains` does; no `domain` is needed.
        - returns: scalar float32, dimensionless, and negative: $-\sqrt{\min(n, C) / n}$ where rows are certain and
          classes equally frequent, $-1 / \sqrt n$ where all rows are certain of one class, $-1 / \sqrt{n C}$ where no
          row prefers a class.

    Degenerate batches:
        Without an unlabelled row the term is an exact zero that still depends on the logits. Rows that do not count
        are rows of zeros, which leave the singular values as they are. Where singular values are equal or zero (the
        same prediction several times) the gradient is finite: those within rounding error of zero have none.

    Deviations from the paper:
        None. Its value is kept although it is negative, so that figures can be compared.

    Raises:
        ValueError: at attach time if the model is a regression or has several labels a row.

    Relations:
        Unlike [`EntropyMinimization`] it does not push the row of a rare class to a frequent one, and unlike
        [`InformationMaximization`] it does not ask for equal frequencies. It decomposes a matrix of rows by classes:
        for token classification with thousands of tokens a batch that is slow. Depends on the micro-batch. A collapse
        to one class is `batch_nuclear_norm_diversity` near 0 in the logs.

    Example:
        >>> import torch
        >>> batch = TransferBatch(
        ...     features=torch.zeros(3, 4), logits=1e4 * torch.eye(3), labels=torch.tensor([-100, -100, -100])
        ... )
        >>> round(BatchNuclearNorm()(batch).item(), 4)
        -1.0

    Paper: Cui et al., "Towards Discriminability and Diversity: Batch Nuclear-norm Maximization...", CVPR 2020, https://huggingface.co/papers/2003.12237
    """

    needs_classes = True

    def __init__(self, *, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The negative nuclear norm of the predictions, per unlabelled row."""
        rows = batch.rows
        self.diagnostics = prediction_entropies(rows.logits, rows.unlabelled)
        return batch_nuclear_norm(rows.logits, rows.unlabelled)
