"""What the tests of objectives on predictions share: a batch with a teacher that says what it is told to."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer import ModelSpec, TransferBatch
from hf_transfer.source import Source
from hf_transfer.teacher import Teacher, TeacherOutput
from tests.models import tiny_bert


@cache
def _model() -> Source:
    return Source(tiny_bert())


class SaidTeacher(Teacher):
    """A teacher whose logits are given."""

    def __init__(self, logits: Tensor):
        super().__init__(_model())
        self.said = logits

    def bind(self, spec: ModelSpec, *, logits: bool) -> None:
        """Any student will do."""

    def __call__(self, batch: TransferBatch) -> TeacherOutput:
        return TeacherOutput(self.said, batch.features, {}, {})


def built(make: Any, logits: Tensor, *, model: nn.Module | None = None, **options: Any) -> Any:
    """An objective built for a student, with a teacher that says `logits`."""
    spec = ModelSpec(feature_dim=4, num_labels=logits.shape[-1], model=model)
    return make(SaidTeacher(logits), **options).build(spec)


def batch_with(logits: Tensor, labels: Any = None, **columns: Any) -> TransferBatch:
    """A batch with these logits of the student."""
    labels = None if labels is None else torch.as_tensor(labels)
    features = torch.zeros(*logits.shape[:-1], 4)
    return TransferBatch(features=features, logits=logits, labels=labels, **columns)


def random_degenerate_batch(generator: torch.Generator) -> tuple[Tensor, Tensor, TransferBatch]:
    """
    Logits of student and teacher and their batch: one row or none that counts, tokens all padded, logits constant,
    huge or equal, no labels.
    """

    def chance(share: float) -> bool:
        return torch.rand((), generator=generator).item() < share

    classes = int(torch.randint(3, 6, (), generator=generator))
    shape = (int(torch.randint(1, 5, (), generator=generator)),) + ((3,) if chance(0.4) else ())
    scale = 10.0 ** torch.randint(-6, 5, (), generator=generator).item()
    teacher = scale * torch.randn(*shape, classes, generator=generator)
    student = teacher.clone() if chance(0.1) else scale * torch.randn(*shape, classes, generator=generator)
    for logits in (student, teacher):
        if chance(0.2):
            logits[:] = scale
        if chance(0.2):
            logits[0] = logits[0].flatten()[0]
    labels = torch.randint(classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < (1.0 if chance(0.3) else 0.3)] = -100
    mask = (torch.rand(shape, generator=generator) < (0.0 if chance(0.2) else 0.7)).long() if len(shape) == 2 else None
    domain = torch.randint(2, shape[:1], generator=generator)
    student.requires_grad_()
    return student, teacher, batch_with(student, labels, attention_mask=mask, domain=domain)
