"""Learned projections from the student's width to the teacher's: parameters of the objective, gone on export."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, cast

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec
from hf_transfer.layer_maps import Layers
from hf_transfer.objectives.distillation.block_objective import BlockObjective
from hf_transfer.schedules import Schedule
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher
from hf_transfer.widths import output_width


ProjectionMode = Literal["auto", "always", "none"]
"""Whether there is a projection: where the widths differ, always, or never."""

MODES: tuple[ProjectionMode, ...] = ("auto", "always", "none")

__all__ = ["MODES", "ProjectedBlocks", "ProjectionMode", "check_distance", "check_projection", "project", "projection"]


def check_projection(mode: str) -> None:
    """Refuse an unknown mode."""
    if mode not in MODES:
        raise ValueError(
            f'`projection="{mode}"` is unknown: it says whether the student\'s values pass a learned layer before '
            'they are compared. Give "auto" (where the widths differ), "always" or "none".'
        )


def check_distance(distance: str) -> None:
    """Refuse an unknown distance."""
    if distance not in ("mse", "cosine"):
        raise ValueError(
            f'`distance="{distance}"` is unknown: it says how vectors are compared. Give "mse" or "cosine".'
        )


def projection(width: int, teacher_width: int, mode: ProjectionMode = "auto") -> nn.Module:
    """
    A linear layer from one width to the other, or the identity. Between equal widths it starts as the identity.

    On maps it is applied at every position, as a 1x1 convolution is.

    Args:
        width (`int`): of the student's values.
        teacher_width (`int`): of the teacher's.
        mode (`str`, *optional*, defaults to `"auto"`): `"auto"`, `"always"` or `"none"`.

    Raises:
        ValueError: if the widths differ and there is to be none.

    Example:
        >>> projection(4, 6), projection(4, 4)
        (Linear(in_features=4, out_features=6, bias=True), Identity())
    """
    if width != teacher_width and mode == "none":
        raise ValueError(
            f'The student is {width} wide and the teacher {teacher_width}, and `projection="none"`: there is no '
            'value for each value. Give `projection="auto"`, or use `AttentionTransfer` or `RelationalDistillation`, '
            "which need no equal widths."
        )
    if width == teacher_width and mode != "always":
        return nn.Identity()
    layer = nn.Linear(width, teacher_width)
    if width == teacher_width:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def project(layer: nn.Module, values: Tensor) -> Tensor:
    """`values` `(..., D)` through the layer, in its float type."""
    return layer(values.to(layer.weight.dtype)) if isinstance(layer, nn.Linear) else layer(values)


class ProjectedBlocks(BlockObjective):
    """
    Blocks in pairs with a projection each. Subclasses call `self.project(number, states, reference)` in `forward`.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            The teacher.
        layers (`str` or `Mapping`, *optional*, defaults to `"uniform"`):
            As for [`layer_map`].
        projection (`str`, *optional*, defaults to `"auto"`):
            `"auto"`, `"always"` or `"none"`.
        widths (`Mapping[str, tuple[int, int]]`, *optional*):
            Widths of the student's and of the teacher's hidden states by name of the student's module, where they are
            not what is read off the modules.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).
    """

    projections: nn.ModuleList

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        layers: Layers = "uniform",
        projection: ProjectionMode = "auto",
        widths: Mapping[str, tuple[int, int]] | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, layers=layers, weight=weight)
        check_projection(projection)
        self.projection: ProjectionMode = projection
        self.widths = widths

    def build(self, spec: ModelSpec) -> Self:
        """Make the projections from the widths of the blocks."""
        super().build(spec)
        given = self.widths or {}
        unknown = sorted(given.keys() - self.pairs.keys())
        if unknown:
            raise ValueError(
                f"`widths` names {', '.join(unknown)}, which the student does not learn through: the widths would be "
                f"read by nobody. Name some of {', '.join(self.pairs)}."
            )
        assert spec.model is not None  # `attach` gives it
        self.projections = nn.ModuleList()
        for own, other in self.pairs.items():
            width, teacher_width = given.get(own) or (
                output_width(_module(spec.model, own, "student")),
                output_width(_module(self.teacher.model, other, "teacher")),
            )
            self.projections.append(projection(width, teacher_width, self.projection))
        return self

    def project(self, number: int, states: Tensor, reference: Tensor) -> Tensor:
        """
        The student's values `(..., D)` of a pair at the width of the teacher's `(..., E)`.

        Raises:
            ValueError: if they have not the widths that the projection was made for.
        """
        layer = self.projections[number]
        seen = states.shape[-1], reference.shape[-1]
        made = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (seen[1], seen[1])
        if seen != made:
            own, other = list(self.pairs.items())[number]
            raise ValueError(
                f"`{own}` of the student returned hidden states {seen[0]} wide and `{other}` of the teacher {seen[1]} "
                "wide, which is not what was read off their parameters: the projection does not fit. Give the widths "
                f"by hand: {type(self).__name__}(..., widths={{{own!r}: {seen}}})."
            )
        return project(layer, states)

    def idle(self, ran: set[int]) -> Tensor | float:
        """Zero that depends on the projections of the pairs that did not run, so that every rank has a gradient."""
        zero = 0.0
        for number, layer in enumerate(self.projections):
            if number not in ran and isinstance(layer, nn.Linear):
                zero = zero + 0 * project(layer, layer.weight.new_zeros(1, layer.in_features)).sum()
        return zero


def _module(model: nn.Module, name: str, whose: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules:
        raise ValueError(
            f"`layers` names `{name}`, which is no module of the {whose}: it has no hidden state. Give a name as in "
            "model.named_modules(), or the number of a block."
        )
    return cast(nn.Module, modules[name])
