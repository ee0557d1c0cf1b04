"""`Teacher`: what the student learns from, frozen and outside its module tree, asked once per batch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy
from hf_transfer.base_model import base_anatomy
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.language_models import pretrained_part
from hf_transfer.source import Source, to_device
from hf_transfer.teacher.cached_columns import column_names, is_cached, read_columns
from hf_transfer.teacher.checks import refuse_student, require_head
from hf_transfer.teacher.description import describe
from hf_transfer.teacher.inputs import TeacherInputs
from hf_transfer.teacher.inspection import inspect_teacher
from hf_transfer.teacher.labels import LabelRule, check_kinds, check_rule, class_names, class_order
from hf_transfer.teacher.output import TeacherOutput


__all__ = ["Teacher", "TeacherOutput"]

Member = Source | nn.Module | str | os.PathLike[str]
Method = TypeVar("Method", bound=Callable[..., Any])


def _eager(method: Method) -> Method:
    return cast(Method, torch.compiler.disable(method))


class Teacher:
    r"""
    The model that a student learns from: frozen, in evaluation mode, and no module of anything.

    It is in no parameters, checkpoint or upload of the student, and neither DDP nor FSDP sees it. It runs once per
    batch, however many objectives ask, without gradient, in its own precision whatever the student's autocast, and
    returns float32 on the student's device. Columns of a cache ([`cache_teacher`]) are read instead, where there are.

    Several, `Teacher([a, b])`, are aligned with the student one by one, and their predictions are combined; objectives
    on features, hidden states or attention refuse them.

    Args:
        model (`Source`, `nn.Module`, `str`, path, or a list of these and of `Teacher`s):
            A model, of which a copy is kept as it is now; or a Hub id, a folder or an embedded model such as
            `embedded:text`, loaded by the class that its config names.
        labels (`"name"`, `"position"` or `Mapping[str, str]`, *optional*, defaults to `"name"`):
            How its classes are matched with the student's. By name, read off `config.id2label` of both, in whatever
            order; by number where neither has names. A mapping goes from its names to the student's. Classes that the
            student lacks are left out: the softmax over the others is what it believes given that it is none of these.
        processor (image processor, tokenizer, `str` or path, *optional*):
            Its own, where it is not the student's. Images are put from the student's normalisation and size into its
            own. With another tokenizer the data need columns of [`teacher_inputs`]. By default that of its checkpoint,
            if the student's is given.
        student_processor (image processor, tokenizer, `str` or path, *optional*):
            The student's, without which its own cannot be told apart.
        device (`torch.device` or `str`, *optional*):
            Where it runs; by default where the batch is.
        dtype (`torch.dtype`, *optional*):
            Float type to keep it in, such as `torch.bfloat16`; by default its own.
        copy (`bool`, *optional*, defaults to `True`):
            Whether a model given as an object is copied; otherwise it is itself frozen and must not be trained.
        weights (`Sequence[float]`, *optional*):
            Of several teachers, what each counts in the mean (dimensionless); normalised to sum 1, equal by default.
        combine (`"mean"` or `"best"`, *optional*, defaults to `"mean"`):
            Of several teachers: the weighted mean of their logits, which is the weighted geometric mean of their
            distributions up to normalisation, at every temperature; or, for each row or token, the one with the lowest
            loss on the label, without a label the most certain one (of a regression the mean).
        head (`str`, *optional*):
            Name of its classification head, where it cannot be told from the model.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the model's repository.

    Raises:
        ValueError: if the model cannot be loaded, objectives are attached to it, or an option makes no sense; at
            attach time if its classes or its kind of task are not the student's, predictions are needed and it has no
            head, or it is the student itself; at the first batch if it cannot read the inputs.
        OSError: if there is no such model.

    Relations:
        [`CachedTeacher`] is what is left of one when only its stored outputs are. [`Source`] is the model that was
        fine-tuned, for objectives that hold on to what it knew.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
        >>> teacher = Teacher(BertForSequenceClassification(config))
        >>> batch = TransferBatch(features=torch.zeros(2, 4), inputs={"input_ids": torch.ones(2, 5, dtype=torch.long)})
        >>> teacher(batch).logits.shape, teacher(batch) is teacher(batch)
        (torch.Size([2, 3]), True)
        >>> Teacher([teacher, teacher])
        Teacher([Teacher(BertForSequenceClassification), Teacher(BertForSequenceClassification)], combine='mean')

    Paper: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, https://huggingface.co/papers/1503.02531
    """

    source: Source

    def __new__(cls, model: Any = None, **options: Any) -> Teacher:
        """Of a list, the one that combines several."""
        if cls is Teacher and isinstance(model, (list, tuple)):
            from hf_transfer.teacher.several import SeveralTeachers

            return object.__new__(SeveralTeachers)
        return object.__new__(cls)

    def __init__(
        self,
        model: Member | Sequence[Member | Teacher],
        *,
        labels: LabelRule = "name",
        processor: Any = None,
        student_processor: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        copy: bool = True,
        weights: Sequence[float] | None = None,
        combine: Literal["mean", "best"] = "mean",
        head: str | None = None,
        revision: str = "main",
        trust_remote_code: bool = False,
    ):
        if weights is not None or combine != "mean":
            raise ValueError(
                f"`weights={weights}` and `combine={combine!r}` for a single teacher: there is nothing to combine it "
                "with. Give several, `Teacher([first, second], ...)`, or leave both out."
            )
        self._begin(labels)
        options: dict[str, Any] = {"head": head, "dtype": dtype, "copy": copy}
        options |= {"revision": revision, "trust_remote_code": trust_remote_code}
        if isinstance(model, Source):
            if head is not None or dtype is not None:
                raise ValueError(
                    "`head` or `dtype` beside a `Source`, which was made with its own: they would have no effect. "
                    "Give them to `Source(...)`, or pass the model itself to `Teacher`."
                )
            self.source = model
        else:
            self.source = Source(cast(Any, model), **options)
        self.device = None if device is None else torch.device(device)
        self._inputs = TeacherInputs(self.source, processor=processor, student_processor=student_processor)

    def _begin(self, labels: LabelRule) -> None:
        """What every teacher keeps, with a model or without."""
        check_rule(labels)
        self.labels: LabelRule = labels
        self.device: torch.device | None = None
        self._hidden_states: set[str] = set()
        self._attentions: set[str] = set()
        self._order: list[int] | None = None
        self._predicts = False
        self._inspected = False
        self._last: tuple[weakref.ref[TransferBatch], TeacherOutput] | None = None
        self._ahead: tuple[Mapping[str, Any], TeacherOutput] | None = None

    @classmethod
    def of(cls, model: Teacher | Member | Sequence[Member | Teacher]) -> Teacher:
        """`model` as a `Teacher`; one that is, as it is."""
        return model if isinstance(model, Teacher) else cls(model)

    @property
    def anatomy(self) -> Anatomy:
        """Anatomy of its model; that of a model without a head has no name for one."""
        found, _ = self.source.found
        return base_anatomy(self.source.model) if found is None else found

    @property
    def model(self) -> nn.Module:
        """Its model."""
        return self.source.model

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers that it is made of: itself, or each of several."""
        return (self,)

    @property
    def num_labels(self) -> int:
        """
        Number of classes that it predicts.

        Raises:
            ValueError: if it predicts nothing.
        """
        require_head(self, self.source)
        return self.source.num_labels

    @property
    def class_names(self) -> list[str] | None:
        """The names of its classes, in its own order; `None` if it has none."""
        return class_names(getattr(pretrained_part(self.model)[1], "config", None), self.num_labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the data that hold what the teacher said, or what it is to read, where the data has them."""
        return (*column_names(self._hidden_states), *self._inputs.columns)

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

        Raises:
            ValueError: if it is the student itself; if its predictions are read and it has none, or they are of
                another kind or of other classes; if it reads other tokens and the student predicts something for each.
        """
        refuse_student(self, self.source, spec)
        self._inputs.bind(spec)
        self._last = None
        if logits:
            self._predicts = True
            require_head(self, self.source)
            check_kinds(self.model, self.num_labels, spec, teacher=repr(self))
            self._order = class_order(self.class_names, self.num_labels, spec, self.labels, teacher=repr(self))

    def __call__(self, batch: TransferBatch) -> TeacherOutput:
        """What it says of a batch; one forward, however many objectives ask."""
        return self._remembered(batch)

    @_eager
    def read_ahead(self, batch: TransferBatch) -> None:
        """
        Run on the inputs of a batch that the student is about to read, unless its answer is stored: while the
        student's activations wait for the backward, memory is dearer and on a CPU the forward slower.

        Args:
            batch (`TransferBatch`): inputs and columns; a later batch with the same `inputs` object gets the answer.
        """
        already = self._ahead is not None and self._ahead[0] is batch.inputs
        if not already and not any(map(is_cached, batch.columns)):
            self._ahead = (batch.inputs, self._run(batch))

    # A compiled student is compiled without it: it would double the graph and nothing in it could be fused.
    @_eager
    def _remembered(self, batch: TransferBatch) -> TeacherOutput:
        if self._last is not None and self._last[0]() is batch:
            return self._last[1]
        output = self._answer(batch)
        # with the batch goes what was said of it, hidden states and all
        self._last = (weakref.ref(batch, self._forget), output)
        return output

    def _forget(self, batch: weakref.ref[TransferBatch]) -> None:
        if self._last is not None and self._last[0] is batch:
            self._last = None

    def _answer(self, batch: TransferBatch) -> TeacherOutput:
        """What is stored of the batch, and else what a forward gives."""
        classes = self.num_labels if not self.source.found[1] else None
        stored = read_columns(batch, align=self._aligned, num_classes=classes, run=lambda: self._online(batch))
        return self._online(batch) if stored is None else cast(TeacherOutput, stored)

    def _online(self, batch: TransferBatch) -> TeacherOutput:
        """What a forward gives, in the student's order of classes."""
        ahead, self._ahead = self._ahead, None
        output = ahead[1] if ahead is not None and ahead[0] is batch.inputs else self._run(batch)
        if output.logits is None:
            return output
        logits = self._aligned(output.logits)
        student = batch.logits
        if self._predicts and student is not None and logits.shape[:-1] != student.shape[:-1]:
            raise ValueError(
                f"{self!r} gives predictions of shape {tuple(logits.shape)} and the student of "
                f"{tuple(student.shape)}: which belongs to which is unknown. Give a teacher for the same kind of "
                "task, which reads the same tokens."
            )
        return output._replace(logits=logits)

    def _run(self, batch: TransferBatch) -> TeacherOutput:
        """One forward on the inputs of a batch, in its own order of classes, on the device of the batch."""
        home = batch.features.device
        inputs = self._inputs(batch)
        device = self._place()
        if device is not None:
            inputs = to_device(inputs, device)
        kind = home.type if device is None else device.type
        available = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if available else nullcontext():
            output = self.source(
                inputs,
                hidden_states=sorted(self._hidden_states),
                attentions=sorted(self._attentions),
                logits=not self.source.found[1],
            )
        if device is None or device == home:
            return TeacherOutput(*output)
        logits, features, states, maps = output
        moved = None if logits is None else logits.to(home)
        return TeacherOutput(cast(Tensor, moved), features.to(home), to_device(states, home), to_device(maps, home))

    def _place(self) -> torch.device | None:
        """Where it runs, if not where the batch is: a model that is spread over devices stays as it is."""
        if self.device is None and getattr(self.model, "hf_device_map", None):
            return next(self.model.parameters()).device
        return self.device

    def _aligned(self, logits: Tensor) -> Tensor:
        """Logits `(..., C)` of its own classes in the student's order."""
        if self._order is None:
            return logits
        return logits.index_select(-1, torch.tensor(self._order, device=logits.device))

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """
        Compare its accuracy on labelled rows with that of always answering the most frequent class, once, and warn if
        it is no better: its head was never trained, or its classes mean something else.

        Args:
            model (`nn.Module`): the student, with objectives attached.
            batches (`Iterable[Mapping]`): collated batches of the training data.
        """
        if not self._inspected:
            self._inspected = True
            inspect_teacher(self, model, batches)

    def description(self) -> dict[str, Any]:
        """What it is, for a model card: all of it can be written as JSON."""
        return describe(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def __repr__(self) -> str:
        return repr(self.source).replace("Source", "Teacher", 1)
