"""`Teacher`: what the student learns from, frozen and outside its module tree, asked once per batch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.source import Source


__all__ = ["Teacher", "TeacherOutput"]


class TeacherOutput(NamedTuple):
    """
    What the teacher says of a batch.

    Attributes:
        logits: `(B, C)`, or `(B, T, C)` for tokens; the classes in the student's order; float32.
        features: `(B, D)` or `(B, T, D)`, the input of its head, pooled as it pools; float32.
        hidden_states: the outputs of the modules asked for, by their name in the teacher.
        attentions: `(B, H, T, T)`, the maps of the attention layers asked for, by their name in the teacher.
    """

    logits: Tensor
    features: Tensor
    hidden_states: dict[str, Tensor]
    attentions: dict[str, Tensor]


class Teacher:
    """
    The model that a student learns from: frozen, in evaluation mode, and no module of anything.

    Args:
        model (`Source`, `nn.Module`, `str` or path):
            As for [`Source`].
        head (`str`, *optional*):
            Name of its classification head, where it cannot be told from the model.
        dtype (`torch.dtype`, *optional*):
            Float type to keep it in; by default its own.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the model's repository.
    """

    def __init__(
        self,
        model: Source | nn.Module | str | os.PathLike[str],
        *,
        head: str | None = None,
        dtype: torch.dtype | None = None,
        revision: str = "main",
        trust_remote_code: bool = False,
    ):
        options = {"head": head, "dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
        self.source = model if isinstance(model, Source) else Source(model, **options)  # pyright: ignore
        self._hidden_states: set[str] = set()
        self._attentions: set[str] = set()
        self._last: tuple[weakref.ref[TransferBatch], TeacherOutput] | None = None

    @classmethod
    def of(cls, model: Teacher | Source | nn.Module | str | os.PathLike[str]) -> Teacher:
        """`model` as a `Teacher`; one that is, as it is."""
        return model if isinstance(model, Teacher) else cls(model)

    @property
    def anatomy(self) -> Anatomy:
        """Anatomy of its model."""
        return self.source.anatomy

    @property
    def model(self) -> nn.Module:
        """Its model."""
        return self.source.model

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that hold what the teacher said, or what it is to read, where the data has them."""
        return ()

    def require(self, *, hidden_states: Iterable[str] = (), attentions: Iterable[str] = ()) -> None:
        """
        Have these outputs read in every forward from now on.

        Args:
            hidden_states (`Iterable[str]`): names of modules of the teacher.
            attentions (`Iterable[str]`): names of attention layers of the teacher.
        """
        self._hidden_states |= set(hidden_states)
        self._attentions |= set(attentions)

    def bind(self, spec: ModelSpec, *, logits: bool) -> None:
        """
        Meet the student: called by every objective when it is attached.

        Args:
            spec (`ModelSpec`): of the student.
            logits (`bool`): whether the objective reads the teacher's logits.
        """

    def __call__(self, batch: TransferBatch) -> TeacherOutput:
        """What it says of a batch; one forward, however many objectives ask."""
        if self._last is not None and self._last[0]() is batch:
            return self._last[1]
        hidden_states, attentions = sorted(self._hidden_states), sorted(self._attentions)
        output = TeacherOutput(*self.source(batch.inputs, hidden_states=hidden_states, attentions=attentions))
        self._last = (weakref.ref(batch), output)
        return output

    def __repr__(self) -> str:
        return repr(self.source).replace("Source", "Teacher")
