"""`AverageTeacher`: the student's own moving average as its teacher."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_transfer.attach import CHILD
from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.weight_average import decay_at, update_average
from hf_transfer.teacher.output import TeacherOutput
from hf_transfer.teacher.teacher import Teacher


if TYPE_CHECKING:
    from hf_transfer.callbacks.average_teacher import UpdateAverageTeacher


logger = logging.get_logger(__name__)

__all__ = ["AverageTeacher"]

_PATIENCE = 500  # forwards without an update after which something must be wrong


class AverageTeacher(Teacher):
    r"""
    Mean teacher: the exponential moving average of the student's weights teaches the student.

    After each optimizer step $t$, with the student's weights $w_t$,

    $$ \bar w_t = d_t\,\bar w_{t-1} + (1 - d_t)\,w_t, \qquad \bar w_0 = w_0, \qquad
       d_t = \min\Bigl(d, \frac{1 + t}{10 + t}\Bigr) $$

    It needs no model: it is made of the student when the objective is attached, and starts anew from it when training
    begins. `TransferTrainer` keeps it up to date by itself. With a stock `Trainer` add `teacher.callback()`; in a loop
    of your own call `teacher.update()` after each optimizer step. A checkpoint keeps it beside the model, in
    `average_teacher.safetensors`, and a resumed run continues bit for bit; it is in no other file, and no part of the
    student.

    Averaged are the parameters and the running statistics of batch normalisation, in float32 at least; other buffers
    are the student's. What PEFT never trains is shared with the student and takes no memory.

    Args:
        decay (`float`, *optional*, defaults to 0.999):
            $d$ in [0, 1) (dimensionless); the paper's value. The average spans about $1 / (1 - d)$ steps.
        warmup (`bool`, *optional*, defaults to `True`):
            Let $d_t$ rise from 0.18 to $d$ as above, so that the teacher leaves the untrained student behind early.

    Deviations from the paper:
        The warm-up (the paper changes the decay once, from 0.99 to 0.999); the teacher is in evaluation mode, without
        dropout, as every [`Teacher`] is.

    Raises:
        ValueError: at construction if `decay` is not in [0, 1); at an update if it is not attached, or the student has
            other parameters than then; in a Trainer under FSDP, DeepSpeed, `nn.DataParallel` or tensor parallelism;
            on a resume from a checkpoint without it.

    Relations:
        [`ExponentialMovingAverage`] keeps the average as the result of the run, and teaches nothing. Give one
        `AverageTeacher` to several objectives; it belongs to one student. Born-again students, each generation taught
        by the last (https://huggingface.co/papers/1805.04770), need no class: after `trainer.attachment.detach()`,
        `Teacher(trainer.model)` is a copy for the next.

    Example:
        >>> AverageTeacher(0.99)
        AverageTeacher(decay=0.99, warmup=True)

    Paper: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, https://huggingface.co/papers/1703.01780
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True):
        # What it is made of comes with the student: `bind` calls the constructor of `Teacher`.
        if not 0 <= decay < 1:
            raise ValueError(
                f"`decay={decay}` is outside [0, 1): at 1 the teacher stays at the start for ever. Give the share of "
                "the average that each step keeps, such as 0.999."
            )
        self.decay, self.warmup = decay, warmup
        self.steps = 0
        """Optimizer steps in the average."""
        self._student: weakref.ref[nn.Module] | None = None
        self._wide: dict[str, Tensor] = {}
        self._idle = 0

    def bind(self, spec: ModelSpec, *, logits: bool) -> None:
        """Become a copy of the student; the same for every objective that is attached to it."""
        student = spec.model
        if student is None:
            raise ValueError(
                f"{self!r} without a student: it is a copy of the model that its objectives are attached to, and the "
                "spec names none. Use `attach(model, objectives)`, or give `ModelSpec(model=...)`."
            )
        if self._student is None or self._student() is not student:
            Teacher.__init__(self, student)
            self._student = weakref.ref(student)
            self.restart()
        super().bind(spec, logits=logits)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew: the teacher is the student as it is now."""
        student = self._tensors(self._bound())
        self.steps = self._idle = 0
        self._wide = {}
        for name, tensor, moves in self._owned(student):
            tensor.copy_(student[name])
            if moves and torch.finfo(tensor.dtype).bits < 32:
                self._wide[name] = student[name].float()

    @torch.no_grad()
    def update(self) -> None:
        """
        Take the student's weights into the average; after each optimizer step, on every rank.

        Raises:
            ValueError: if it is attached to no student, or to one that has changed its parameters.
        """
        student = self._tensors(self._bound())
        self.steps += 1
        self._idle = 0
        averages, values, statistics = [], [], []
        for name, tensor, moves in self._owned(student):
            if not moves:
                tensor.copy_(student[name])
                continue
            averages.append(self._wide.get(name, tensor))
            values.append(student[name])
            if name.endswith(("running_mean", "running_var")):
                statistics.append(averages[-1])
        update_average(averages, values, decay=decay_at(self.steps, decay=self.decay, warmup=self.warmup))
        _as_on_first_rank(statistics)
        self._narrow()

    def callback(self) -> UpdateAverageTeacher:
        """What keeps it up to date in a stock `Trainer`; `TransferTrainer` adds it by itself."""
        from hf_transfer.callbacks.average_teacher import UpdateAverageTeacher

        return UpdateAverageTeacher(self)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, without what is shared with the student."""
        owned = self._owned(self._tensors(self._bound()))
        return {name: self._wide.get(name, tensor) for name, tensor, moves in owned if moves}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], *, steps: int) -> None:
        """
        Continue from averages that were saved.

        Args:
            state (`Mapping[str, Tensor]`): what `state_dict` gave.
            steps (`int`): optimizer steps in it.

        Raises:
            ValueError: if they are of another student.
        """
        self.restart()
        here = self.state_dict()
        foreign = sorted(
            name for name in here.keys() | state.keys() if _shape(here.get(name)) != _shape(state.get(name))
        )
        if foreign:
            raise ValueError(
                f"The saved state of {self!r} does not fit the student; they differ in {', '.join(foreign[:5])}. It "
                "would be the average of another model. Build the student as in the first run."
            )
        for name, average in here.items():
            average.copy_(state[name])
        self.steps = steps
        self._narrow()

    @property
    def columns(self) -> tuple[str, ...]:
        """None: what it said is stored nowhere, since it moves, and it reads what the student reads."""
        return ()

    def inspect(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Nothing: as long as it knows no better than the student it says the same."""

    def description(self) -> dict[str, Any]:
        """What it is, for a model card."""
        return {"model": "moving average of the student", "decay": self.decay, "warmup": self.warmup}

    def _answer(self, batch: TransferBatch) -> TeacherOutput:
        return self._online(batch)

    def _run(self, batch: TransferBatch) -> TeacherOutput:
        self._idle += 1
        if self._idle > _PATIENCE:
            logger.warning_once(
                f"{self!r} has answered {_PATIENCE} times without an update: it stays what the student was. Add "
                "`teacher.callback()` to the callbacks of a stock Trainer, or call `teacher.update()` after each "
                "optimizer step."
            )
        return super()._run(batch)

    def _narrow(self) -> None:
        """Averages that are kept in float32 as the model computes with them."""
        tensors = self._tensors(self.model)
        for name, average in self._wide.items():
            tensors[name].copy_(average)

    def _bound(self) -> nn.Module:
        student = None if self._student is None else self._student()
        if student is None:
            raise ValueError(
                f"{self!r} is attached to no student: there are no weights to average. Give it to an objective and "
                "call `attach(model, [objective])`, or let the Trainer do so, before it is updated."
            )
        return student

    def _owned(self, student: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, bool]]:
        """Its tensors that are not the student's: name, tensor, and whether it is averaged rather than copied."""
        model = self.model
        device = next(iter(student.values())).device
        if next(model.parameters()).device != device:  # the student was placed after it was copied
            model.to(device)
            self._wide = {name: tensor.to(device) for name, tensor in self._wide.items()}
        parameters = dict(model.named_parameters())
        for name, tensor in self._tensors(model).items():
            if name not in student or student[name].shape != tensor.shape:
                raise ValueError(
                    f"The student of {self!r} no longer has a `{name}` of shape {tuple(tensor.shape)}: its weights "
                    "cannot be averaged by name. Change the model before objectives are attached to it."
                )
            if tensor is not student[name]:
                statistic = name.endswith(("running_mean", "running_var"))
                yield name, tensor, tensor.is_floating_point() and (name in parameters or statistic)

    @staticmethod
    def _tensors(model: nn.Module) -> dict[str, Tensor]:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{CHILD}.")}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"{self!r} has no `{name}` before it meets its student: it is a copy of it. Give it to an objective and "
            "call `attach(model, [objective])`."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(decay={self.decay}, warmup={self.warmup})"


def _as_on_first_rank(tensors: list[Tensor]) -> None:
    """Statistics of batches differ between ranks; DDP goes by those of the first."""
    distributed = torch.distributed
    if tensors and distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.broadcast(flat, 0)
        for tensor, value in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(value.view_as(tensor))


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
