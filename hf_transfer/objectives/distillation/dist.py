"""Distillation by correlation: the order of classes in a row, and of rows in a class (DIST)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor, nn
from transformers.utils import logging
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.correlation import inter_class, intra_class
from hf_transfer.functional.distillation import log_distribution
from hf_transfer.objectives.distillation.predictions import ChosenRows, PredictionObjective, check_temperature
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


logger = logging.get_logger(__name__)


class DIST(PredictionObjective):
    r"""
    Distillation from a stronger teacher (DIST): agree with the teacher up to shift and scale, by row and by class.

    With softened probabilities $p_{ic}$ of the student and $q_{ic}$ of the teacher, and Pearson's correlation $\rho$,

    $$ L = T^2 \Big[ \frac{\beta}{B} \sum_{i=1}^{B} \big(1 - \rho(p_{i \cdot}, q_{i \cdot})\big) + \frac{\gamma}{C}
    \sum_{c=1}^{C} \big(1 - \rho(p_{\cdot c}, q_{\cdot c})\big) \Big] $$

    The first part is about the classes of one row, the second about the rows of one class: which examples of the batch
    look most like it.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            As for [`LogitDistillation`].
        beta (`float`, *optional*, defaults to 1.0):
            Weight of the part between classes (dimensionless). The default of the paper's code; its experiments take
            2.
        gamma (`float`, *optional*, defaults to 1.0):
            Weight of the part within a class (dimensionless); likewise.
        temperature (`float`, *optional*, defaults to 1.0):
            $T$, dimensionless; the paper's for ImageNet, and 4 for CIFAR-100.
        rows (`"all"`, `"labelled"` or `"unlabelled"`, *optional*, defaults to `"all"`):
            Which rows count, as for [`LogitDistillation`].
        domains (`Sequence[int]`, *optional*):
            Only rows of these domains count. Reads column `domain`.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for tokens, which are one large batch of rows; float32;
          `batch.inputs`, which the teacher sees as well.
        - returns: scalar float32, dimensionless, between 0 and $2 T^2 (\beta + \gamma)$.

    Degenerate batches:
        A row or class that is constant on either side has no correlation and adds an exact zero with a graph: so does
        the second part for one row. With two classes the correlation of a row is 1 or -1 whatever the logits: only the
        second part teaches, and a warning says so. Where no row counts the term is an exact zero that still depends on
        `logits`.

    Deviations from the paper:
        Correlations over classes whose spread is within rounding are left out, where the paper's code adds a small
        number to the denominator: a student with all logits equal gets no gradient here until the task loss moves it.
        The second part is computed per micro-batch and rank: it needs a batch with several rows a class.

    Raises:
        ValueError: if the temperature is not positive, `beta` or `gamma` is negative or both are zero, `rows` is no
            choice or `domains` is empty; at attach time for a regression, fewer than two classes, two classes with
            `gamma` of zero, or an encoder-decoder language model; at the first batch for several labels a row, if the
            predictions differ in shape, or `domain` is missing.

    Relations:
        [`LogitStandardization`] frees the scale of each row and keeps a divergence. [`LogitDistillation`] also teaches
        how sure to be. [`SimilarityPreserving`] compares rows by their features.

    Example:
        >>> import torch
        >>> from hf_transfer import ModelSpec
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=3
        ... )
        >>> teacher = BertForSequenceClassification(config)
        >>> objective = DIST(teacher).build(ModelSpec(feature_dim=8, num_labels=3))
        >>> inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
        >>> with torch.no_grad():
        ...     logits = teacher.eval()(**inputs).logits
        >>> objective(TransferBatch(features=torch.zeros(2, 8), logits=logits, inputs=inputs)).item()
        0.0

    Paper: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, https://huggingface.co/papers/2205.10536
    """

    needs_classes = True
    least_classes = 2

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        rows: ChosenRows = "all",
        domains: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, rows=rows, domains=domains, weight=weight)
        if beta < 0 or gamma < 0 or beta == gamma == 0:
            raise ValueError(
                f"`beta={beta}` and `gamma={gamma}` leave nothing to learn, or reward disagreement: they weigh two "
                "distances. Give numbers that are not negative, such as 1.0 and 1.0."
            )
        self.beta = beta
        self.gamma = gamma
        self.temperature = check_temperature(temperature)

    def build(self, spec: ModelSpec) -> Self:
        """Refuse what has no correlation."""
        super().build(spec)
        if spec.num_labels == 2 and self.gamma == 0:
            raise ValueError(
                "DIST on two classes with `gamma=0`: the correlation over two classes is 1 or -1 whatever the logits, "
                "and no gradient would reach the student. Give a positive `gamma`, or use `LogitDistillation`."
            )
        if spec.num_labels == 2 and self.beta > 0:
            logger.warning_once(
                "DIST on two classes: the correlation over two classes is 1 or -1 whatever the logits, so that only "
                "the part within each class (`gamma`) teaches. `LogitDistillation` uses both."
            )
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The weighed distances of the two correlations."""
        found = self.predictions(batch)
        student, teacher = (
            log_distribution(logits, self.temperature).exp().flatten(0, -2)
            for logits in (found.student, found.teacher)
        )
        counted = found.counted.flatten()
        total = 0 * student.sum()
        if self.beta > 0:
            total = total + self.beta * inter_class(student, teacher, counted)
        if self.gamma > 0:
            total = total + self.gamma * intra_class(student, teacher, counted)
        return self.temperature**2 * total
