"""`SeveralTeachers`: what `Teacher([first, second])` makes, several teachers that speak with one voice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn

from torch import nn

from hf_transfer.anatomy import Anatomy
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.teacher.cached_columns import column_names, is_cached, read_columns
from hf_transfer.teacher.combining import best_teacher, mean_logits, pick
from hf_transfer.teacher.labels import class_order, kind_of_task
from hf_transfer.teacher.output import TeacherOutput
from hf_transfer.teacher.teacher import Member, Teacher


__all__ = ["SeveralTeachers"]


class SeveralTeachers(Teacher):
    """
    Several teachers whose predictions are combined; made by `Teacher([first, second])`, which see.

    Before it meets a student its classes are those of the first.

    Args:
        models (`Sequence`):
            The teachers, or what `Teacher` takes.
        weights (`Sequence[float]`, *optional*):
            What each counts in the mean (dimensionless).
        combine (`"mean"` or `"best"`, *optional*, defaults to `"mean"`):
            How they are combined.
        **options:
            As for [`Teacher`], for those that are not one yet.

    Raises:
        ValueError: if there are fewer than two, weights do not fit, or `combine` is another word; at attach time if an
            objective reads more than predictions.
    """

    def __init__(
        self,
        models: Sequence[Member | Teacher],
        *,
        weights: Sequence[float] | None = None,
        combine: Literal["mean", "best"] = "mean",
        **options: Any,
    ):
        self._begin(options.get("labels", "name"))
        if len(models) < 2:
            raise ValueError(
                f"A list of {len(models)} teachers: there is nothing to combine. Give at least two, or the model "
                "itself without a list."
            )
        if combine not in ("mean", "best"):
            raise ValueError(
                f"`combine={combine!r}` is no way to combine teachers: what they say together is not defined. Give "
                '"mean" or "best".'
            )
        self.combine = combine
        self.weights = _normalised(weights, len(models), combine)
        self._members = tuple(model if isinstance(model, Teacher) else Teacher(model, **options) for model in models)
        self._spec: ModelSpec | None = None

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers, in order."""
        return self._members

    @property
    def source(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There is no single one."""
        return self._refuse("a single model")

    @property
    def model(self) -> nn.Module:
        """There is no single one."""
        return self._refuse("a single model")

    @property
    def anatomy(self) -> Anatomy:
        """There is no single one."""
        return self._refuse("the layers of a single model")

    @property
    def num_labels(self) -> int:
        """Number of classes before it meets a student: those of the first."""
        return self.members[0].num_labels

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes of the first."""
        return self.members[0].class_names

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hold what they said together, or what each is to read."""
        return tuple(dict.fromkeys((*column_names(), *(name for one in self.members for name in one.columns))))

    def require(self, *, hidden_states: Iterable[str] = (), attentions: Iterable[str] = ()) -> None:
        """Refuse: hidden states of several models cannot be combined."""
        if set(hidden_states) or set(attentions):
            self._refuse("hidden states or attention maps")

    def bind(self, spec: ModelSpec, *, logits: bool) -> None:
        """
        Let each of them meet the student.

        Raises:
            ValueError: if the objective does not read their predictions; as for one teacher.
        """
        if not logits:
            self._refuse("features, hidden states or attention maps")
        for member in self.members:
            member.bind(spec, logits=True)
        names = self.members[0].class_names
        # of what a cache holds of them, which knew no student
        self._order = class_order(names, self.num_labels, spec, self.members[0].labels, teacher=repr(self.members[0]))
        self._spec, self._last = spec, None

    def read_ahead(self, batch: TransferBatch) -> None:
        """Let each of them run on the inputs of a batch that the student is about to read."""
        if not any(map(is_cached, batch.columns)):
            for member in self.members:
                member.read_ahead(batch)

    def _answer(self, batch: TransferBatch) -> TeacherOutput:
        stored: Any = read_columns(
            batch, align=self._aligned, num_classes=self.num_labels, run=lambda: self._online(batch)
        )
        return self._online(batch) if stored is None else stored

    def _online(self, batch: TransferBatch) -> TeacherOutput:
        """What they say together, in the student's order of classes."""
        return self._combined([member._online(batch) for member in self.members], batch)

    def _run(self, batch: TransferBatch) -> TeacherOutput:
        """What they say together, in the order of the classes of the first."""
        if self.combine == "best":
            raise ValueError(
                "The best of several teachers is chosen by the labels of the student, which are not known here: what "
                'is stored would not be what is learnt. Cache the teachers with `combine="mean"`, or run them in '
                "training."
            )
        first = self.members[0]
        spec = ModelSpec(feature_dim=first.anatomy.feature_dim, num_labels=first.num_labels, model=first.model)
        outputs = []
        for member in self.members:
            output = member._run(batch)
            order = class_order(member.class_names, member.num_labels, spec, "name", teacher=repr(member))
            outputs.append(output if order is None else output._replace(logits=output.logits[..., order]))
        return self._combined(outputs, batch)

    def _combined(self, outputs: Sequence[TeacherOutput], batch: TransferBatch) -> TeacherOutput:
        logits = [output.logits for output in outputs]
        shapes = {tuple(values.shape) for values in logits}
        if len(shapes) > 1:
            raise ValueError(
                f"The teachers' predictions have shapes {', '.join(map(str, sorted(shapes)))}: rows of one are not "
                "those of the other. Give teachers for the same kind of task that read the same tokens."
            )
        together = mean_logits(logits, self.weights)
        if self.combine == "best":
            config = getattr(None if self._spec is None else self._spec.model, "config", None)
            chosen = best_teacher(logits, batch.labels, kind_of_task(config, together.shape[-1]))
            together = pick(logits, chosen, together)
        return TeacherOutput(together, _Unreadable(), {}, {})  # pyright: ignore[reportArgumentType]

    def description(self) -> dict[str, Any]:
        """What they are, for a model card: all of it can be written as JSON."""
        weights = {"weights": list(self.weights)} if self.combine == "mean" else {}
        return {"combine": self.combine, **weights, "teachers": [member.description() for member in self.members]}

    def __repr__(self) -> str:
        return f"Teacher([{', '.join(map(repr, self.members))}], combine={self.combine!r})"

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"Several teachers were asked for {what}, and only their predictions can be combined: each has a space of "
            "its own. Give the objective one of them, `Teacher(first)`, beside an objective on the predictions of "
            "all."
        )


class _Unreadable:
    """In place of the features of several teachers."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(
            "Several teachers have no common features, only predictions: each has a space of its own. Give the "
            "objective one of them."
        )


def _normalised(weights: Sequence[float] | None, count: int, combine: str) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    if combine != "mean":
        raise ValueError(
            f'`weights={list(weights)}` with `combine="best"`: the best one counts alone, and they have no effect. '
            'Leave them out, or choose `combine="mean"`.'
        )
    finite = all(math.isfinite(weight) and weight >= 0 for weight in weights)
    if len(weights) != count or not finite or sum(weights) <= 0:
        raise ValueError(
            f"`weights={list(weights)}` for {count} teachers: each needs what it counts in the mean, not negative and "
            "not all zero. Give one number for each, such as `weights=[0.7, 0.3]`."
        )
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
