"""Distillation of the features, the input of the head."""

from __future__ import annotations

import os

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.feature_distillation import Distance, vector_distance
from hf_transfer.objectives.distillation.projections import (
    ProjectionMode,
    check_distance,
    check_projection,
    project,
    projection,
)
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class EmbeddingDistillation(TeacherObjective):
    r"""
    Embedding distillation: the features of the student, through a learned projection, are those of the teacher.

    With features $s_i$ of the student and $t_i$ of the teacher, and a linear layer $r$ where their widths differ, the
    term is

    $$ L = \frac{1}{B} \sum_{i=1}^{B} \big(1 - \cos(r(s_i), t_i)\big) \qquad \text{or} \qquad
    L = \frac{1}{B} \sum_{i=1}^{B} \frac{1}{E} \lVert r(s_i) - t_i \rVert_2^2 $$

    For token classifiers $s_i$ are the tokens of a row that count, and their distances are averaged first.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher; it may be a model without a head, such as a sentence encoder.
        distance (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"`, of directions alone, or `"mse"`, in squared units of the teacher's features.
        projection (`str`, *optional*, defaults to `"auto"`):
            `"auto"`: where the widths differ; `"always"`; or `"none"`.
        teacher_width (`int`, *optional*):
            Width of the teacher's features, where it cannot be read off the teacher.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless).

    Shape:
        - `batch.features`: `(B, D)`, the teacher's `(B, E)`; or `(B, T, D)` and `(B, T, E)` for token classification.
          No labels are read.
        - returns: scalar float32, dimensionless in [0, 2] for `"cosine"`; zero when the projected features are the
          teacher's.

    Degenerate batches:
        One row is enough. A row without tokens counts as zero. Features of zeros have no direction: their cosine
        distance is 1/2 and has no gradient.

    Deviations from the paper:
        The paper teaches a student sentences in other languages by the mean squared error at equal widths; widths may
        differ here, and the cosine is the default, for the features of two architectures have different scales.

    Raises:
        ValueError: if an option is unknown; at attach time if the widths differ without a projection; at the first
            batch if the teacher's features have another width than was read, or only one of the models has features
            per token.

    Relations:
        [`LogitDistillation`] compares what the heads make of the features; the two go well together.
        [`HintDistillation`] reaches earlier blocks. [`RelationalDistillation`] keeps only how rows relate and needs no
        projection.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> objective = EmbeddingDistillation(BertForSequenceClassification(config))
        >>> objective.build(ModelSpec(feature_dim=4, num_labels=2)).feature_projection
        Linear(in_features=4, out_features=8, bias=True)

    Paper: Reimers and Gurevych, "Making Monolingual Sentence Embeddings Multilingual...", EMNLP 2020, https://huggingface.co/papers/2004.09813
    """

    feature_projection: nn.Module

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        distance: Distance = "cosine",
        projection: ProjectionMode = "auto",
        teacher_width: int | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, weight=weight)
        check_distance(distance)
        check_projection(projection)
        self.distance: Distance = distance
        self.projection: ProjectionMode = projection
        self.teacher_width = teacher_width

    def build(self, spec: ModelSpec) -> Self:
        """Make the projection from the widths of the features."""
        super().build(spec)
        width = self.teacher_width or self.teacher.anatomy.feature_dim
        self.feature_projection = projection(spec.feature_dim, width, self.projection)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The mean distance of the projected features from the teacher's."""
        target = self.taught(batch).features
        features = project(self.feature_projection, batch.features)
        if features.shape[:-1] != target.shape[:-1]:
            raise ValueError(
                f"The features of {self.teacher!r} have the shape {tuple(target.shape)}, those of the student "
                f"{tuple(batch.features.shape)}: one has them per token and the other per row, or they read different "
                "tokens. Give a teacher for the same kind of task, with the same tokenizer."
            )
        if features.shape[-1] != target.shape[-1]:
            raise ValueError(
                f"The features of {self.teacher!r} are {target.shape[-1]} wide and {features.shape[-1]} was read off "
                "it: the projection does not fit. Give the width by hand: "
                f"EmbeddingDistillation(..., teacher_width={target.shape[-1]})."
            )
        if features.dim() == 2:
            return vector_distance(features.unsqueeze(1), target.unsqueeze(1), distance=self.distance)
        counted = batch.rows.counted.view(features.shape[:2])
        vectors = _without_padding(features, counted), _without_padding(target, counted)
        return vector_distance(*vectors, counted, distance=self.distance)


def _without_padding(features: Tensor, counted: Tensor) -> Tensor:
    # no product and no selection: padding may hold anything, and shapes do not depend on the mask
    return features.masked_fill(~counted.unsqueeze(-1), 0.0)
