"""Minimum class confusion (MCC)."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.entropy import class_confusion, prediction_entropies
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.schedules import Schedule


class MinimumClassConfusion(Objective):
    r"""
    Minimum class confusion (MCC): keep predictions on unlabelled rows from hesitating between the same two classes.

    With the predictions $P = \operatorname{softmax}(Z / T)$ of the $n$ unlabelled rows and the weights of certain rows
    $w_i = n (1 + e^{-H(P_i)}) / \sum_l (1 + e^{-H(P_l)})$, without a gradient, the correlation of two classes is
    $C_{jk} = \sum_i w_i P_{ij} P_{ik}$, and the term

    $$ L = \frac{1}{C} \sum_{j=1}^{C} \sum_{k \ne j} \frac{C_{jk}}{\sum_l C_{jl}} $$

    Args:
        temperature (`float`, *optional*, defaults to 2.5):
            $T$ (dimensionless): above 1 it softens predictions, which are surer than they are right. The paper's value
            for most of its data.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless); the paper's value.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification, where every token counts that
          `attention_mask` counts, in rows that have no label at all.
        - `batch.labels`: -100 marks unlabelled rows, as `mix_domains` does; no `domain` is needed.
        - returns: scalar float32, dimensionless, in [0, 1]: 0 where every row is certain and every class predicted,
          $(C - 1) / C$ where no row prefers a class.

    Degenerate batches:
        Without an unlabelled row the term is an exact zero that still depends on the logits. A class that no row
        predicts adds $1 / C$, the limit of the formula, and a finite gradient also where its probability is zero in
        float32: it is no 0 / 0. So a batch of few rows has a floor above zero, which moves nothing.

    Deviations from the paper:
        None in the value. It is computed from log-probabilities, as a softmax over the rows of each class.

    Raises:
        ValueError: if `temperature` is not positive; at attach time if the model is a regression or has several labels
            a row.

    Relations:
        Has no parameters, aligns nothing, and works alone or beside alignment such as [`ConditionalAdversarial`] or
        [`DeepCORAL`]; it also works where the target lacks classes of the source. Depends on the micro-batch, which
        should hold several unlabelled rows for each class. `minimum_class_confusion_entropy` and
        `minimum_class_confusion_diversity` in the logs are those of the predictions at temperature 1.

    Example:
        >>> import torch
        >>> batch = TransferBatch(
        ...     features=torch.zeros(2, 4), logits=torch.zeros(2, 4), labels=torch.tensor([-100, -100])
        ... )
        >>> MinimumClassConfusion()(batch).item()
        0.75

    Paper: Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020, https://huggingface.co/papers/1912.03699
    """

    needs_classes = True

    def __init__(self, *, temperature: float = 2.5, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        if not temperature > 0:
            raise ValueError(
                f"`temperature={temperature}` does not soften the predictions but divides by zero or turns them "
                "round. Give a positive number, such as the paper's 2.5."
            )
        self.temperature = temperature

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The confusion between classes in the predictions of the unlabelled rows."""
        rows = batch.rows
        self.diagnostics = prediction_entropies(rows.logits, rows.unlabelled)
        return class_confusion(rows.logits, rows.unlabelled, temperature=self.temperature)
