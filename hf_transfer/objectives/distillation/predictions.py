"""What objectives on predictions share: student and teacher side by side, and which rows count."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.language_models import is_language_model, predicts_next_token
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.schedules import Schedule
from hf_transfer.series_models import predicts_values
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher


__all__ = ["ChosenRows", "PredictionObjective", "Predictions", "check_choice", "check_temperature"]

ChosenRows: TypeAlias = Literal["all", "labelled", "unlabelled"]


class Predictions(NamedTuple):
    """
    Predictions of student and teacher for the same rows: `(...)` is `(B,)`, or `(B, T)` where they are per token.

    Attributes:
        student: `(..., C)` float32 logits.
        teacher: `(..., C)` float32 logits, constant.
        labels: `(...)` int64, 0 where there is none.
        labelled: `(...)` bool, which rows have a label.
        counted: `(...)` bool, which rows the objective is to look at.
        multi_label: whether each class is a yes or no of its own.
        regression: whether the logits are values and no classes.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor
    labelled: Tensor
    counted: Tensor
    multi_label: bool
    regression: bool


class PredictionObjective(TeacherObjective):
    """
    An objective that compares predictions. Subclasses read `self.predictions(batch)` in `forward`.

    Args:
        teacher (`Teacher`, `Source`, `nn.Module`, `str` or path):
            As for [`TeacherObjective`].
        rows (`"all"`, `"labelled"` or `"unlabelled"`, *optional*, defaults to `"all"`):
            Which rows count. Of a token classifier or a language model, `"all"` is every token with `attention_mask`,
            `"labelled"` those with a label, and `"unlabelled"` all tokens of the examples without any label.
        domains (`Sequence[int]`, *optional*):
            Only rows of these domains count; reads column `domain`.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Strength (dimensionless).
    """

    reads_teacher_logits = True
    least_classes: ClassVar[int] = 1
    """Fewest classes for which the term is defined; from 2 on it also needs classes that exclude each other."""

    def __init__(
        self,
        teacher: Teacher | Source | nn.Module | str | os.PathLike[str],
        *,
        rows: ChosenRows = "all",
        domains: Sequence[int] | None = None,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(teacher, weight=weight)
        check_choice("rows", rows, ("all", "labelled", "unlabelled"))
        if domains is not None and (not domains or any(domain < 0 for domain in domains)):
            raise ValueError(
                f"`domains={domains}` names no domain: the term would be zero for ever. Give numbers of the column "
                "`domain`, such as `(1,)` for the target, or leave it out."
            )
        self.rows = rows
        self.domains = None if domains is None else tuple(domains)
        self._problem: str | None = None
        self._num_labels = 0
        self._per_token = self._next_token = self._values = False

    def build(self, spec: ModelSpec) -> Self:
        """Learn what kind of predictions the student makes, and introduce it to the teacher."""
        config: Any = getattr(spec.model, "config", None)
        self._num_labels = spec.num_labels
        self._per_token = spec.model is not None and is_language_model(spec.model)
        self._next_token = spec.model is not None and predicts_next_token(spec.model)
        if self._per_token and getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(self).__name__} on a language model with an encoder and a decoder: its decoder reads the "
                "labels, which a teacher is not shown. Distil a causal language model or a classifier."
            )
        self._problem = None if self._per_token else getattr(config, "problem_type", None)
        self._values = predicts_values(spec.model)
        if self._problem is None and (spec.num_labels == 1 or self._values):
            self._problem = "regression"
        # What a single value is called matters less than that it is one.
        if self._problem == "single_label_classification" and spec.num_labels == 1:
            self._problem = "regression"
        self._check_classes(self._problem)
        return super().build(spec)

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """What the teacher reads, and the domain where only some count."""
        return (*super().optional_columns, *(("domain",) if self.domains is not None else ()))

    def predictions(self, batch: TransferBatch) -> Predictions:
        """Student and teacher on the rows of a batch."""
        assert batch.logits is not None  # `attach` gives them
        teacher, student = self.taught(batch).logits.detach(), batch.logits
        if student.shape != teacher.shape:
            raise ValueError(
                f"The teacher's predictions are of shape {tuple(teacher.shape)}, the student's of shape "
                f"{tuple(student.shape)}: there is no prediction of the one for each of the other. Give a teacher for "
                "the same task and classes, and for tokens one whose tokenizer splits the text alike."
            )
        if self._values:  # all values of a forecast belong to one row
            student, teacher = student.flatten(1), teacher.flatten(1)
        problem = self._problem_of(batch)
        labels, labelled, counted, unlabelled = self._rows_of(batch, student)
        counted = {"all": counted, "labelled": labelled, "unlabelled": unlabelled}[self.rows]
        return Predictions(
            student=student,
            teacher=teacher,
            labels=labels,
            labelled=labelled,
            counted=self._in_domains(counted, batch),
            multi_label=problem == "multi_label_classification",
            regression=problem == "regression",
        )

    def _problem_of(self, batch: TransferBatch) -> str | None:
        """The kind of the task; where the model does not say it, told by its labels, as transformers does."""
        labels, logits = batch.labels, batch.logits
        assert logits is not None
        if self._problem is not None or self._per_token or labels is None or labels.shape != logits.shape:
            return self._problem
        self._check_classes("multi_label_classification")
        return "multi_label_classification"

    def _rows_of(self, batch: TransferBatch, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Labels, and masks of the rows that have one, that are no padding, and whose example has no label at all."""
        shape = logits.shape[:-1]
        labels = batch.labels
        if self._values and labels is not None:
            labels = labels.flatten(1).nan_to_num(nan=UNLABELLED)
        if labels is None:
            labels = torch.full(shape, UNLABELLED, device=logits.device)
        if labels.numel() == shape.numel():
            labels = labels.reshape(shape)
            labelled = labels != UNLABELLED
            labels = torch.where(labelled, labels, 0).long()
        else:  # several values a row
            labelled = (labels != UNLABELLED).flatten(1).any(1)
            labels = torch.zeros_like(labelled, dtype=torch.long)
        mask = batch.attention_mask
        counted = mask != 0 if mask is not None and mask.shape == shape else torch.ones_like(labelled)
        if len(shape) == 1:
            counted = torch.ones_like(labelled)
            return labels, labelled, counted, ~labelled
        if self._next_token:  # what is predicted has to be there too
            counted = counted & F.pad(counted[:, 1:], (0, 1), value=False)
        return labels, labelled, counted, counted & ~labelled.any(1, keepdim=True)

    def _in_domains(self, counted: Tensor, batch: TransferBatch) -> Tensor:
        if self.domains is None:
            return counted
        if batch.domain is None:
            raise ValueError(
                f"{type(self).__name__} with `domains={self.domains}` needs column `domain`, and the batch has none: "
                "it cannot tell which rows to look at. Build the data set with `mix_domains(source, target)`, or "
                "leave `domains` out."
            )
        inside = torch.zeros_like(batch.domain, dtype=torch.bool)
        for domain in self.domains:
            inside = inside | (batch.domain == domain)
        return counted & inside.reshape(-1, *[1] * (counted.dim() - 1))

    def _check_classes(self, problem: str | None) -> None:
        name, classes = type(self).__name__, self._num_labels
        if self.least_classes < 2:
            return
        if problem in ("regression", "multi_label_classification"):
            kind = "a regression" if problem == "regression" else "several labels a row"
            raise ValueError(
                f"{name} on {kind}: it compares distributions over classes of which one is right, and there is none. "
                "Use `LogitDistillation`, which takes any kind of prediction."
            )
        if classes < self.least_classes:
            raise ValueError(
                f"{name} on {classes} classes: it needs {self.least_classes}, with fewer no gradient would reach the "
                "student. Use `LogitDistillation`."
            )


def check_temperature(temperature: float) -> float:
    """`temperature`, if logits can be divided by it."""
    if not temperature > 0:
        raise ValueError(
            f"`temperature={temperature}` is not positive: logits are divided by it. Give a positive number; 1 leaves "
            "the distributions as they are, more makes them softer."
        )
    return temperature


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is none of the `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{argument}={value!r}` is no choice: it is not known what to compute. Give one of "
            f"{', '.join(repr(choice) for choice in choices)}."
        )
