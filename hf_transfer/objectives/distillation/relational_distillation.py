"""Relational knowledge distillation (RKD)."""

from __future__ import annotations

import os

from torch import Tensor, nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.relations import angle_differences, distance_differences
from hf_transfer.objectives.distillation.taught_rows import teacher_rows
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class RelationalDistillation(TeacherObjective):
    r"""
    Relational knowledge distillation (RKD): rows are as far apart, and at the same angles, as they are to the teacher.

    With features $s_i$ of the student, $t_i$ of the teacher, $\mu$ the mean positive distance of each and $\ell$ the
    smooth L1 loss, the term is

    $$ L = \frac{\lambda_d}{B (B - 1)} \sum_{i \ne j} \ell\!\left(\frac{\lVert s_i - s_j \rVert}{\mu_s},
    \frac{\lVert t_i - t_j \rVert}{\mu_t}\right) + \frac{\lambda_a}{B (B - 1) (B - 2)} \sum_{i \ne j \ne k \ne i}
    \ell\big(\cos \angle s_i s_j s_k, \cos \angle t_i t_j t_k\big) $$

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher; its features may be of any width.
        distance_weight (`float`, *optional*, defaults to 1.0):
            $\lambda_d$, dimensionless; the paper's value. Zero leaves distances out.
        angle_weight (`float`, *optional*, defaults to 2.0):
            $\lambda_a$, dimensionless; the paper's value. Zero leaves angles out.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of both in the total loss (dimensionless). Small beside a task loss: other programs train with
            25 or 50.

    Shape:
        - `batch.features`: `(B, D)`; of a token classifier, of either model, the mean over the tokens that count.
        - the teacher's features: `(B, E)`. No labels are read, and there is nothing to project.
        - returns: scalar float32, dimensionless; zero when the student's features are the teacher's, moved, turned
          and scaled.

    Degenerate batches:
        Distances need two rows, angles three; with fewer they are an exact zero that still depends on `features`.
        Equal rows have no direction: their distance and the angles at them have a gradient of zero.

    Deviations from the paper:
        Means over the pairs and triples of different rows instead of sums, so that the batch size does not change the
        weight; the authors' program divides by $B^2$ and $B^3$, rows paired with themselves included.

    Raises:
        ValueError: if a weight is negative or both are zero.

    Relations:
        [`SimilarityPreserving`] compares inner products, also of hidden states. [`EmbeddingDistillation`] asks for the
        features themselves and needs a projection where the widths differ. There are $B^3$ angles, 4 MiB a copy at
        100 rows; where they or what they are made of exceed 64 MiB a copy (256 rows at most) they are computed a few
        anchors at a time, and again in the backward. Their time is that of $B^3 (D + E)$ multiplications.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> sorted(RelationalDistillation(teacher, weight=25.0).config())
        ['angle_weight', 'distance_weight', 'teacher', 'weight']

    Paper: Park et al., "Relational Knowledge Distillation", CVPR 2019, https://huggingface.co/papers/1904.05068
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        distance_weight: float = 1.0,
        angle_weight: float = 2.0,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, weight=weight)
        for name, value in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if not value >= 0:
                raise ValueError(
                    f"`{name}={value}`: the student would be driven away from what the teacher relates. Give zero or "
                    f"a positive number, such as the paper's {1.0 if name == 'distance_weight' else 2.0}."
                )
        if not distance_weight and not angle_weight:
            raise ValueError(
                "`distance_weight` and `angle_weight` are both zero: the term would always be zero. Give one of them "
                "a positive number, such as the paper's 1.0 and 2.0, or leave the objective out."
            )
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, batch: TransferBatch) -> Tensor:
        """The weighted differences of distances and of angles."""
        rows = batch.example_features
        reference = teacher_rows(self.taught(batch).features, batch)
        total = (0 * rows).sum()
        if self.distance_weight:
            total = total + self.distance_weight * distance_differences(rows, reference)
        if self.angle_weight:
            total = total + self.angle_weight * angle_differences(rows, reference)
        return total
