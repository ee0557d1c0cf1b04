"""Distillation of hidden states through a learned projection (FitNets)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.feature_distillation import Distance, vector_distance
from hf_transfer.layer_maps import Layers
from hf_transfer.objectives.distillation.projections import ProjectedBlocks, ProjectionMode, check_distance
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class HintDistillation(ProjectedBlocks):
    r"""
    Hints (FitNets): hidden states of the student, through a learned projection, are those of the teacher.

    With the student's $s_{jp}$ at position $p$ of its block $j$, the teacher's $t_{jp}$ of the block it is paired
    with, and a linear layer $r_j$ for each pair, the term is

    $$ L = \frac{1}{J} \sum_{j=1}^{J} \frac{1}{B} \sum_{i=1}^{B} \frac{1}{P_i} \sum_{p=1}^{P_i} \frac{1}{E_j}
    \lVert r_j(s_{ijp}) - t_{ijp} \rVert_2^2 $$

    or $1 - \cos(r_j(s_{ijp}), t_{ijp})$ in place of the mean square. Positions are the tokens that count, or the
    patches or pixels of the smaller of the two maps, to which the other is averaged.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher, of any width and depth.
        layers (`str` or `Mapping`, *optional*, defaults to `"uniform"`):
            Which block of the teacher for which of the student: a rule or the pairs, as for [`layer_map`].
        distance (`str`, *optional*, defaults to `"mse"`):
            `"mse"`, in squared units of the teacher's states, or `"cosine"`, of their directions alone.
        normalize (`bool`, *optional*, defaults to `False`):
            Whether the values of each state, on both sides, are brought to mean 0 and variance 1 first, so that the
            weight means the same whatever the scale of the teacher: unrelated states are 2 apart.
        projection (`str`, *optional*, defaults to `"auto"`):
            `"auto"`: where the widths differ; `"always"`, as in the paper; `"none"`: such models are refused.
        widths (`Mapping[str, tuple[int, int]]`, *optional*):
            Widths of student and teacher by name of the student's module, where they cannot be read off the modules.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless).

    Shape:
        - `batch.hidden_states`: `(B, T, D)` or `(B, D, H, W)` by block, and `batch.inputs`, which the teacher sees
          too; its states `(B, T, E)` or `(B, E, H, W)`. No labels are read.
        - returns: scalar float32; zero when the projected states are the teacher's.

    Degenerate batches:
        One row is enough. A row without tokens counts as zero, and so does a block that the student leaves out in a
        step (LayerDrop).

    Deviations from the paper:
        The term is added to the task loss of one training where the paper trains up to the hint first; give `weight`
        a schedule that falls to zero for that. Several layers, by their mean, and means over positions and values
        where the paper has half the sum. One linear layer at every position (a 1x1 convolution) where the paper's is
        as large as the two maps differ; maps of different sizes are averaged to the smaller height and width.
        Between a convolutional network and a transformer, the tokens before the patches are left out; where the
        patches form no grid, both sides become their mean over positions. Equal widths have no projection by default.

    Raises:
        ValueError: if an option is unknown; at attach time if a block does not exist or the widths differ without a
            projection; at the first batch if tokens of text differ in number, or a width is not the one read.

    Relations:
        [`PatientDistillation`] compares one vector a row. [`AttentionTransfer`] compares where states are large and
        needs no projection. [`EmbeddingDistillation`] is the same at the input of the head. A projection is dropped
        on export: whatever it learned the student cannot keep.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=4, num_attention_heads=2)
        >>> objective = HintDistillation(BertForSequenceClassification(config), layers={0: 1, 1: 3})
        >>> objective.distance, objective.projection
        ('mse', 'auto')

    Paper: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, https://huggingface.co/papers/1412.6550
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        layers: Layers = "uniform",
        distance: Distance = "mse",
        normalize: bool = False,
        projection: ProjectionMode = "auto",
        widths: Mapping[str, tuple[int, int]] | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, layers=layers, projection=projection, widths=widths, weight=weight)
        check_distance(distance)
        self.distance: Distance = distance
        self.normalize = normalize

    def forward(self, batch: TransferBatch) -> Tensor:
        """The mean distance of the projected states from the teacher's."""
        total, ran = (0 * batch.features).sum(), set()
        for number, states, reference in self.states(batch):
            laid = self.on_same_positions(batch, states, reference)
            vectors = self.project(number, laid.states, laid.reference)
            total = total + vector_distance(
                vectors, laid.reference, laid.counted, distance=self.distance, normalize=self.normalize
            )
            ran.add(number)
        return (total + self.idle(ran)).float() / len(self.pairs)
