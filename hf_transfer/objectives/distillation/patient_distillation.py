"""Distillation of one vector a row from intermediate blocks (PKD)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.feature_distillation import direction
from hf_transfer.functional.positions import summary
from hf_transfer.layer_maps import Layers
from hf_transfer.objectives.distillation.block_objective import OWN_MASK, mask_over
from hf_transfer.objectives.distillation.projections import ProjectedBlocks, ProjectionMode
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.cached_teacher import CachedTeacher


Position = Literal["first", "last", "mean"]


class PatientDistillation(ProjectedBlocks):
    r"""
    Patient knowledge distillation (PKD): what stands for the whole row in intermediate blocks points as the teacher's.

    With the vector $s_{ij}$ of row $i$ after the student's block $j$, through a learned projection where the widths
    differ, and the teacher's $t_{ij}$ after the block it is paired with, the term is

    $$ L = \frac{1}{J} \sum_{j=1}^{J} \frac{1}{B} \sum_{i=1}^{B} \left\lVert \frac{s_{ij}}{\lVert s_{ij} \rVert_2} -
    \frac{t_{ij}}{\lVert t_{ij} \rVert_2} \right\rVert_2^2 $$

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher.
        layers (`str` or `Mapping`, *optional*, defaults to `"skip"`):
            `"skip"`: every k-th block of the teacher, the last blocks left out (PKD-Skip, which the paper found
            better); `"before_last"`: its last ones but the very last (PKD-Last); or as for [`layer_map`].
        position (`str`, *optional*, defaults to `"auto"`):
            The vector that stands for a row: `"first"` token that counts, `"last"`, or the `"mean"`. `"auto"` decides
            for each model: of text the first, or the last where attention looks back only; of images the class token,
            else the mean; of sound the mean. Of maps it is always the mean.
        projection (`str`, *optional*, defaults to `"auto"`):
            `"auto"`: where the widths differ; `"always"`; or `"none"`, as in the paper.
        widths (`Mapping[str, tuple[int, int]]`, *optional*):
            Widths of student and teacher by name of the student's module, where they cannot be read off the modules.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless). The authors' 10 to 1000 stand before a mean over
            the 768 values: here 0.01 to 1.3.

    Shape:
        - `batch.hidden_states`: `(B, T, D)` or `(B, D, H, W)` by block, and `batch.inputs`, which the teacher sees
          too; its states `(B, T, E)` or `(B, E, H, W)`. No labels are read.
        - returns: scalar float32 in [0, 4], dimensionless; zero when all vectors point as the teacher's.

    Degenerate batches:
        One row is enough. A row without tokens counts as zero, and so does a block that the student leaves out in a
        step (LayerDrop). A vector of zeros has no direction and takes no gradient.

    Deviations from the paper:
        Means over rows and pairs instead of sums. Widths may differ. Other models than BERT, by what stands for a row
        there.

    Raises:
        ValueError: if an option is unknown; at attach time if a block does not exist, if no pair is left without the
            last blocks, or the widths differ without a projection; at the first batch if a width is not the one read.

    Relations:
        [`HintDistillation`] compares every token and also lengths. Add [`LogitDistillation`], as the paper does: the
        last blocks are left to it.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=4, num_attention_heads=2)
        >>> PatientDistillation(BertForSequenceClassification(config)).layers
        'skip'

    Paper: Sun et al., "Patient Knowledge Distillation for BERT Model Compression", EMNLP 2019, https://huggingface.co/papers/1908.09355
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        layers: Layers = "skip",
        position: Literal["auto"] | Position = "auto",
        projection: ProjectionMode = "auto",
        widths: Mapping[str, tuple[int, int]] | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, layers=layers, projection=projection, widths=widths, weight=weight)
        if position not in ("auto", "first", "last", "mean"):
            raise ValueError(
                f'`position="{position}"` is unknown: it says which vector stands for a row. Give "first", "last", '
                '"mean" or "auto".'
            )
        self.position: Literal["auto"] | Position = position

    def build(self, spec: ModelSpec) -> Self:
        """Find out which vector stands for a row in each of the models."""
        super().build(spec)
        own, other = list(self.pairs.items())[-1]
        chosen: Position | None = None if self.position == "auto" else self.position
        self._position: Position = chosen or usual_position(spec.model, own)
        self._teacher_position: Position = self._position
        if chosen is None and not isinstance(self.teacher, CachedTeacher):  # of which there is no model to look at
            self._teacher_position = usual_position(self.teacher.model, other)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The mean squared distance between the directions of the vectors."""
        total, ran = (0 * batch.features).sum(), set()
        for number, states, reference in self.states(batch):
            mask = mask_over(states, batch)
            vectors = summary(states, self._position, mask)
            target = summary(reference, self._teacher_position, batch.columns.get(OWN_MASK, mask))
            distances = direction(self.project(number, vectors, target)) - direction(target)
            distances = distances.square().sum(-1)
            if mask is not None and states.dim() == 3 and mask.shape == states.shape[:2]:
                distances = distances * (mask != 0).any(1)  # without a token there is only a bias to compare
            total = total + distances.mean()
            ran.add(number)
        return (total + self.idle(ran)).float() / len(self.pairs)


def usual_position(model: Any, block: str) -> Position:
    """
    The vector that stands for a row in a model, as far as its modules tell.

    Args:
        model (`nn.Module`): the model.
        block (`str`): name of one of its last blocks, which tells whether attention looks back only.
    """
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        names = (name.rpartition(".")[2] for name, _ in model.named_parameters())
        return "first" if any(name in ("cls_token", "class_embedding", "class_token") for name in names) else "mean"
    # the attention layers of transformers say which they are, for the fused kernels
    causal = any(getattr(module, "is_causal", False) is True for module in model.get_submodule(block).modules())
    return "last" if causal else "first"
