"""Similarity-preserving knowledge distillation (SP)."""

from __future__ import annotations

import os

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.relations import example_rows, similarity_differences
from hf_transfer.layer_maps import Layers, check_layers, layer_map
from hf_transfer.objectives.distillation.block_objective import mask_over
from hf_transfer.objectives.distillation.taught_rows import teacher_mask, teacher_rows
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class SimilarityPreserving(TeacherObjective):
    r"""
    Similarity-preserving distillation (SP): rows that are alike to the teacher are alike to the student.

    With the activations $A$ of a batch, a row per example, the term is, summed over the layers compared,

    $$ L = \frac{1}{B^2} \lVert G_s - G_t \rVert_F^2, \qquad G = \operatorname{rows}_2(A A^\top) $$

    where $\operatorname{rows}_2$ divides each row of the matrix by its length.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher, of any architecture and width.
        layers (`str` or `Mapping`, *optional*):
            Which hidden states are compared, as in [`layer_map`]: `"last"`, `"uniform"`, `"stages"` or pairs such as
            `{0: 2, 1: 5}`. By default the features, which are what enters the head.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless). The paper's is 3000 for networks of convolutions.

    Shape:
        - `batch.features`: `(B, D)`; of tokens, the mean over those that count. Or `batch.hidden_states` of the
          layers: maps `(B, D, H, W)` are taken as one row of `D H W` values, tokens `(B, T, D)` as their mean over
          those that count.
        - returns: scalar float32, dimensionless, at most 4 / B for each layer.

    Degenerate batches:
        Needs no labels. One row is an exact zero that still depends on `features`; a row of zeros is similar to none
        and gets no gradient. A layer left out of a step (LayerDrop) is left out here.

    Deviations from the paper:
        Tokens are averaged, not put in a line: one place in two texts holds words that have nothing to do with each
        other, and padding then has no influence. The default is the features, for the paper's layer, the last
        convolution, is what they are pooled from.

    Raises:
        ValueError, TypeError: if `layers` is no layer map; at attach time if it names blocks that a model lacks.

    Relations:
        [`RelationalDistillation`] compares distances and angles, which do not change with the origin.
        [`AttentionTransfer`] compares maps place by place. Memory and time beside the teacher's forward: two
        `(B, B)` matrices a layer.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
        >>> teacher = BertForSequenceClassification(config)
        >>> SimilarityPreserving(teacher, layers="last", weight=100.0).layers
        'last'

    Paper: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, https://huggingface.co/papers/1907.09682
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        layers: Layers | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, weight=weight)
        if layers is not None:
            check_layers(layers)
        self.layers: Layers | None = layers
        self._pairs: dict[str, str] = {}

    def build(self, spec: ModelSpec) -> Self:
        """Find the layers that are compared."""
        super().build(spec)
        if self.layers is not None:
            assert spec.anatomy is not None  # `attach` gives it
            self._pairs = layer_map(spec.anatomy, self.teacher.anatomy, self.layers)
            self.hidden_states = tuple(self._pairs)
            self.teacher.require(hidden_states=self._pairs.values())
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The squared differences of the similarities, summed over the layers."""
        taught = self.taught(batch)
        if self.layers is None:
            return similarity_differences(batch.example_features, teacher_rows(taught.features, batch))
        total = (0 * batch.features).sum()
        for own, theirs in self._pairs.items():
            if own in batch.hidden_states:
                states, reference = batch.hidden_states[own], taught.hidden_states[theirs]
                mask = mask_over(reference, batch) if (given := teacher_mask(batch)) is None else given
                rows = example_rows(states, mask_over(states, batch))
                total = total + similarity_differences(rows, example_rows(reference, mask))
        return total
