"""`CachedTeacher`: a teacher of which only the stored outputs are left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from torch import nn

from hf_transfer.anatomy import Anatomy
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.teacher.cached_columns import column_names, read_columns
from hf_transfer.teacher.labels import class_order
from hf_transfer.teacher.output import TeacherOutput
from hf_transfer.teacher.teacher import Teacher


__all__ = ["CachedTeacher"]


class CachedTeacher(Teacher):
    """
    A teacher without a model: what it said is in the columns that [`cache_teacher`] added to the data.

    Args:
        labels (`Sequence[str]`, *optional*):
            Names of its classes in the order in which they are stored, `list(teacher.config.id2label.values())`: they
            are matched with the student's by name. Without them the student must have as many classes, in that order.
        hidden_states (`Sequence[str]`, *optional*):
            Modules whose outputs are stored, for objectives that are given their names.

    Raises:
        ValueError: at attach time if the student has a class that is not stored; at the first batch if it has no
            columns of a teacher, or lacks what an objective reads.

    Relations:
        A [`Teacher`] with a model reads the same columns, and runs where there are none.

    Example:
        >>> import torch
        >>> batch = TransferBatch(features=torch.zeros(1, 4), columns={"teacher_logits": torch.tensor([[1.0, 2.0]])})
        >>> CachedTeacher()(batch).logits
        tensor([[1., 2.]])
    """

    def __init__(self, *, labels: Sequence[str] | None = None, hidden_states: Sequence[str] = ()):
        self._begin("name")  # no `super().__init__`, which makes the model
        self._names = None if labels is None else [str(name) for name in labels]
        self._hidden_states |= set(hidden_states)

    @property
    def anatomy(self) -> Anatomy:
        """It has none."""
        return self._refuse("its modules")

    @property
    def model(self) -> nn.Module:
        """It has none."""
        return self._refuse("its model")

    @property
    def class_names(self) -> list[str] | None:
        """The names of its classes, in the order in which they are stored."""
        return self._names

    @property
    def num_labels(self) -> int:
        """Number of its classes, where their names were given."""
        return self._refuse("the number of its classes") if self._names is None else len(self._names)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold what it said."""
        return column_names(self._hidden_states)

    def require(self, *, hidden_states: Iterable[str] = (), attentions: Iterable[str] = ()) -> None:
        """Note which stored hidden states are read; attention maps are never stored."""
        if set(attentions):
            self._refuse("its attention maps")
        super().require(hidden_states=hidden_states)

    def bind(self, spec: ModelSpec, *, logits: bool) -> None:
        """Match the classes by name, if the names were given."""
        self._last = None
        if logits and self._names is not None:
            self._order = class_order(self._names, len(self._names), spec, "name", teacher=repr(self))

    def read_ahead(self, batch: TransferBatch) -> None:
        """Nothing: there is no model to run."""

    def _answer(self, batch: TransferBatch) -> TeacherOutput:
        classes = None if self._names is None else len(self._names)
        found = read_columns(batch, align=self._aligned, num_classes=classes)
        if found is None:
            raise ValueError(
                f"The batch has {', '.join(sorted(batch.columns)) or 'no extra columns'}, and {self!r} knows only "
                "what is stored in the columns `teacher_*`: there is nothing to learn from. Train on the data set "
                "that `cache_teacher` returned (outside `TransferTrainer` with `remove_unused_columns=False`), or "
                "give the objective the teacher itself."
            )
        return cast(TeacherOutput, found)

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Nothing: there is no model to run."""

    def description(self) -> dict[str, Any]:
        """What is known of it, for a model card."""
        return {"class": type(self).__name__, "classes": self._names}

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"{self!r} was asked for {what}, and only stored outputs are left of it: there is no model to look at. "
            "Give the objective the teacher itself, which reads the stored columns too where the data has them; name "
            "stored hidden states by module."
        )

    def __repr__(self) -> str:
        return "CachedTeacher()"
