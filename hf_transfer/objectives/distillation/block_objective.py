"""What the objectives on hidden states share: blocks of the student and of the teacher, pair by pair."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.positions import Positions, on_same_positions
from hf_transfer.layer_maps import Layers, check_layers, layer_map
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.teacher.cached_teacher import CachedTeacher


OWN_TOKENS, OWN_MASK = "teacher_input_ids", "teacher_attention_mask"
"""Columns that hold what a teacher with a tokenizer of its own reads."""


class BlockObjective(TeacherObjective):
    """
    An objective on what blocks of the two models return. Subclasses read `self.states(batch)` in `forward`.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher.
        layers (`str` or `Mapping`, *optional*, defaults to `"uniform"`):
            Which block of the teacher for which of the student; as for [`layer_map`].
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).
    """

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        layers: Layers = "uniform",
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, weight=weight)
        check_layers(layers)
        self.layers: Layers = layers
        self.pairs: dict[str, str] = {}

    def build(self, spec: ModelSpec) -> Self:
        """Pair the blocks and have both models return them."""
        assert spec.anatomy is not None  # `attach` gives it
        stored = isinstance(self.teacher, CachedTeacher)
        self.pairs = layer_map(spec.anatomy, None if stored else self.teacher.anatomy, self.layers)
        self.hidden_states = tuple(self.pairs)
        self.teacher.require(hidden_states=self.pairs.values())
        return super().build(spec)

    def states(self, batch: TransferBatch) -> Iterator[tuple[int, Tensor, Tensor]]:
        """
        Number of the pair, the student's hidden states and the teacher's, for the pairs that ran in this step.

        Raises:
            ValueError: if a block never runs, or returns something that is not laid out by row.
        """
        said = self.taught(batch)
        for number, (own, other) in enumerate(self.pairs.items()):
            if own not in batch.hidden_states:
                _require_layer_drop(own, batch.model)
                continue  # dropped in this step
            found = batch.hidden_states[own], said.hidden_states[other]
            for states, name, whose in zip(found, (own, other), ("student", "teacher"), strict=True):
                if len(states) != len(batch.features) or states.dim() not in (2, 3, 4):
                    raise ValueError(
                        f"`{name}` of the {whose} returned a tensor of shape {tuple(states.shape)} for "
                        f"{len(batch.features)} rows: which values belong to which row is unknown. Name another "
                        "module by `layers={...}`, one that returns (B, T, D) or (B, D, H, W)."
                    )
            yield number, *found

    def on_same_positions(self, batch: TransferBatch, states: Tensor, reference: Tensor) -> Positions:
        """The hidden states of a pair over each other, padding left out."""
        pixels = batch.inputs.get("pixel_values")
        aspect = pixels.shape[-2] / pixels.shape[-1] if isinstance(pixels, Tensor) and pixels.dim() >= 4 else 1.0
        text = "input_ids" in batch.inputs or "inputs_embeds" in batch.inputs
        if OWN_TOKENS in batch.columns and reference.dim() == 3:
            raise ValueError(
                f"{self.teacher!r} reads `{OWN_TOKENS}`, other tokens than the student: which of its hidden states "
                "belongs to which of the student's is unknown. Give a teacher with the student's tokenizer, or learn "
                "from what stands for the whole row: `PatientDistillation` or `EmbeddingDistillation`."
            )
        return on_same_positions(states, reference, mask=mask_over(states, batch), text=text, aspect=aspect)


def mask_over(states: Tensor, batch: TransferBatch) -> Tensor | None:
    """The attention mask over the positions of hidden states `(B, T, D)`, if there is one."""
    mask = batch.attention_mask
    if mask is None or mask.dim() != 2 or states.dim() != 3 or mask.shape[1] == states.shape[1]:
        return mask
    # Sound: wav2vec2 and its relatives tell how convolutions shorten samples to frames, under no public name in
    # transformers 5.23.
    for module in () if batch.model is None else batch.model.modules():
        shorten = getattr(module, "_get_feature_vector_attention_mask", None)
        if shorten is not None:
            return shorten(states.shape[1], mask)
    return None


def _require_layer_drop(name: str, model: nn.Module | None) -> None:
    """A block may stay out of a step where the model drops blocks at random; else the term would be zero unnoticed."""
    config: Any = getattr(model, "config", None)
    options = {} if config is None else config.to_dict()
    if not any(value for key, value in options.items() if key.endswith("layerdrop")):
        raise ValueError(
            f"`{name}` of the student returned nothing in this forward: the model does not run it, or calls its "
            "`forward` past the hooks, and there would be nothing to learn from. Name other modules by `layers={...}`."
        )
