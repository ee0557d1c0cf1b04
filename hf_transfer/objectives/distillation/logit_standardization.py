"""Distillation of logits up to shift and scale: standardised in each row before they are compared (LSKD)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.distillation import standardized
from hf_transfer.objectives.distillation.logit_distillation import Divergence, LogitDistillation
from hf_transfer.objectives.distillation.predictions import ChosenRows, Predictions
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class LogitStandardization(LogitDistillation):
    r"""
    Logit standardization (LSKD): distil how the classes stand to each other, and leave the student its own scale.

    With $\zeta(z) = (z - \bar z) / \sigma(z)$, mean and standard deviation over the $C$ classes of a row, the term is

    $$ L = \frac{T^2}{B} \sum_{i=1}^{B} \operatorname{KL}\big(\operatorname{softmax}(\zeta(t_i) / T) \,\Vert\,
    \operatorname{softmax}(\zeta(z_i) / T)\big) $$

    A small student cannot reach the spread of a large teacher's logits, and need not: the order and the relative
    distances of the classes are what it learns.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            As for [`LogitDistillation`].
        temperature (`float`, *optional*, defaults to 2.0):
            $T$, dimensionless, in standard deviations; the base temperature of the paper's code.
        divergence (`"kl"`, `"mse"` or `"jsd"`, *optional*, defaults to `"kl"`):
            As for [`LogitDistillation`], on standardised logits; `"kl"` as in the paper.
        beta (`float`, *optional*, defaults to 0.5):
            Of `"jsd"`, as for [`LogitDistillation`].
        rows (`"all"`, `"labelled"` or `"unlabelled"`, *optional*, defaults to `"all"`):
            Which rows count, as for [`LogitDistillation`].
        domains (`Sequence[int]`, *optional*):
            Only rows of these domains count. Reads column `domain`.
        weight (`float` or `Schedule`, *optional*, defaults to 9.0):
            Strength (dimensionless); the factor of this term in the paper's code.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for tokens, float32; `batch.inputs`, which the teacher sees as well.
        - returns: scalar float32, in nats per row; zero where the student's logits are the teacher's but for a shift
          and a positive factor.

    Degenerate batches:
        Constant logits have no spread: they become zero, a uniform prediction. A student all of whose logits are equal
        gets no gradient from such a row; the task loss moves it away. Where no row counts the term is an exact zero
        that still depends on `logits`.

    Deviations from the paper:
        The standard deviation is divided by $C$ as in the paper; its code divides by $C - 1$, the same as a
        temperature $\sqrt{(C - 1) / C}$ times ours. The code gives the cross-entropy a factor of 0.1 beside the 9 of
        this term, on CIFAR-100; here the task loss counts 1, so `weight=90.0` with a tenth of the learning rate is the
        same. Rows whose spread is within rounding count as constant.

    Raises:
        ValueError: as [`LogitDistillation`]; at attach time for a regression, and for fewer than three classes, whose
            two standardised logits are always 1 and -1; at the first batch for several labels a row.

    Relations:
        [`LogitDistillation`] also teaches how sure to be: use it where calibration matters, and for two classes.
        [`DIST`] is blind to scale too, and compares rows with each other besides.

    Example:
        >>> import torch
        >>> from hf_transfer import ModelSpec
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> teacher = BertForSequenceClassification(config)
        >>> objective = LogitStandardization(teacher).build(ModelSpec(feature_dim=8, num_labels=3))
        >>> inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
        >>> with torch.no_grad():
        ...     logits = 10 * teacher.eval()(**inputs).logits + 1
        >>> bool(objective(TransferBatch(features=torch.zeros(2, 8), logits=logits, inputs=inputs)) < 1e-5)
        True

    Paper: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, https://huggingface.co/papers/2403.01427
    """

    needs_classes = True
    least_classes = 3

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        temperature: float = 2.0,
        divergence: Divergence = "kl",
        beta: float = 0.5,
        rows: ChosenRows = "all",
        domains: Sequence[int] | None = None,
        weight: float | Schedule = 9.0,
    ):
        super().__init__(
            teacher,
            temperature=temperature,
            divergence=divergence,
            beta=beta,
            rows=rows,
            domains=domains,
            weight=weight,
        )

    def predictions(self, batch: TransferBatch) -> Predictions:
        """Student and teacher on the rows of a batch, each row standardised."""
        found = super().predictions(batch)
        return found._replace(student=standardized(found.student), teacher=standardized(found.teacher))
