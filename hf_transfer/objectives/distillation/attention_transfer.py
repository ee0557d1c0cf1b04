"""Distillation of where hidden states are large (AT)."""

from __future__ import annotations

import os

from torch import Tensor, nn

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.feature_distillation import attention_transfer, energy
from hf_transfer.layer_maps import Layers
from hf_transfer.objectives.distillation.block_objective import BlockObjective, mask_over
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


class AttentionTransfer(BlockObjective):
    r"""
    Attention transfer (AT): hidden states are large at the positions at which the teacher's are.

    With values $a_{pd}$ at position $p$ and channel $d$ of a block, its attention map is $q_p = \frac1D \sum_d
    |a_{pd}|^p$ (the power is the option `p`). With the maps $q_{ij}$ of the student's blocks and $r_{ij}$ of the
    teacher's, the term is

    $$ L = \frac{1}{J} \sum_{j=1}^{J} \frac{1}{B} \sum_{i=1}^{B} \frac{1}{P_i} \left\lVert
    \frac{q_{ij}}{\lVert q_{ij} \rVert_2} - \frac{r_{ij}}{\lVert r_{ij} \rVert_2} \right\rVert_2^2 $$

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher, of any width; nothing is projected.
        layers (`str` or `Mapping`, *optional*, defaults to `"stages"`):
            Which block of the teacher for which of the student, as for [`layer_map`]. `"stages"`: the last of each
            stage, as in the paper.
        p (`float`, *optional*, defaults to 2.0):
            Power of the values, at least 1 (dimensionless); the paper's best.
        weight (`float` or `Schedule`, *optional*, defaults to 1000.0):
            Multiplier of the term in the total loss (dimensionless): the authors' 1000, which stands before a sum
            over pairs.

    Shape:
        - `batch.hidden_states`: `(B, D, H, W)` or `(B, T, D)` by block, and `batch.inputs`, which the teacher sees
          too; its states may have any width and size. Maps of different sizes are averaged to the smaller height and
          width. No labels are read.
        - returns: scalar float32, dimensionless, at most twice the mean of $1 / P_i$; zero when the maps are alike up
          to a factor.

    Degenerate batches:
        One row is enough. A row without tokens counts as zero, and so does a block that the student leaves out in a
        step (LayerDrop). A map of zeros has no direction and takes no gradient. A text of one token is always alike.

    Deviations from the paper:
        The mean over positions and rows, as in the authors' program, where the paper's formula has the norm; the mean
        over pairs instead of their sum. Output of a block after its residual sum. For transformers the positions are
        the tokens that count. Between a convolutional network and a transformer, the tokens before the patches are
        left out. The paper's variant on gradients is not made.

    Raises:
        ValueError: if `p` is below 1; at attach time if a block does not exist; at the first batch if tokens of text
            differ in number, or maps of images have one position.

    Relations:
        [`AttentionDistillation`] compares the maps of attention heads. [`HintDistillation`] compares the values
        themselves and needs a projection. [`SimilarityPreserving`] compares rows instead of positions.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=4, num_attention_heads=2)
        >>> AttentionTransfer(BertForSequenceClassification(config)).weight
        1000.0

    Paper: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, https://huggingface.co/papers/1612.03928
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        layers: Layers = "stages",
        p: float = 2.0,
        weight: float | Schedule = 1000.0,
    ):
        super().__init__(teacher, layers=layers, weight=weight)
        if not p >= 1:
            raise ValueError(
                f"`p={p}` is below 1: the gradient of the map is infinite where a value is zero, as after every ReLU. "
                "Give 1 or more, such as the paper's 2.0."
            )
        self.p = p

    def forward(self, batch: TransferBatch) -> Tensor:
        """The mean squared distance between the directions of the maps."""
        total = (0 * batch.features).sum()
        for number, states, reference in self.states(batch):
            mask = mask_over(states, batch)
            maps = self.on_same_positions(batch, energy(states, self.p, mask), energy(reference, self.p, mask))
            if maps.states.shape[1] == 1 and "pixel_values" in batch.inputs:
                own, other = list(self.pairs.items())[number]
                raise ValueError(
                    f"The maps of `{own}` {tuple(states.shape)} and of `{other}` {tuple(reference.shape)} have one "
                    "position in common: any two such maps are alike, and nothing is learned. Name earlier blocks by "
                    "`layers={...}`, or use `HintDistillation`."
                )
            total = total + attention_transfer(maps)
        return total.float() / len(self.pairs)
