"""Ways to learn from a teacher by the names that a command line knows, alone or joined by `+`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from hf_transfer import objectives
from hf_transfer.compare.methods import Method as Ingredients
from hf_transfer.compare.methods import Part, Vocabulary, required, snake_case
from hf_transfer.domain_adaptation.methods import ACRONYMS as DOMAIN_ACRONYMS
from hf_transfer.objective import Objective
from hf_transfer.objectives.distillation.attention_distillation import AttentionDistillation
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.teacher import Teacher


ALONE = "alone"
"""The student that is trained on the labels and never meets the teacher."""
TEACHER = "teacher"
"""The name of the teacher among them."""

ACRONYMS = {
    "kd": "LogitDistillation",
    "jsd": "LogitDistillation",
    "mse": "LogitDistillation",
    "ls": "LogitStandardization",
    "dkd": "DecoupledDistillation",
    "dist": "DIST",
    "hint": "HintDistillation",
    "pkd": "PatientDistillation",
    "at": "AttentionTransfer",
    "embedding": "EmbeddingDistillation",
    "attention": "AttentionDistillation",
    "rkd": "RelationalDistillation",
    "sp": "SimilarityPreserving",
    "crd": "ContrastiveRepresentation",
}
"""The field's names of classes that are exported by `hf_transfer.objectives`."""

OPTIONS = {"jsd": {"divergence": "jsd"}, "mse": {"divergence": "mse"}}
"""What tells names of one class apart."""

__all__ = ["ACRONYMS", "ALONE", "TEACHER", "VOCABULARY", "Method", "known_parts", "learns_from_teacher"]


def learns_from_teacher(part: Part) -> bool:
    """Whether it is a term that asks the teacher."""
    return part.is_objective and issubclass(part.make, TeacherObjective)


@dataclass(frozen=True)
class Method(Ingredients):
    """One way to learn from a teacher: terms of the loss; or the student alone, which has none."""

    @property
    def needs_domains(self) -> bool:
        """Whether a term compares the domains of rows, so that there must be two."""
        return any(".domain_adaptation." in part.make.__module__ for part in self.parts)

    @property
    def asks_teacher(self) -> bool:
        """Whether any term asks the teacher."""
        return any(map(learns_from_teacher, self.parts))

    @property
    def reads_maps(self) -> bool:
        """Whether a term reads attention maps, which only the eager attention of transformers forms."""
        return any(part.is_objective and issubclass(part.make, AttentionDistillation) for part in self.parts)

    def with_defaults(self, *, weight: float | None, temperature: float | None) -> Method:
        """The same with options of the terms that ask the teacher, where these have them and set none themselves."""
        return Method(self.name, tuple(_with(part, weight=weight, temperature=temperature) for part in self.parts))


def _with(part: Part, *, weight: float | None, temperature: float | None) -> Part:
    if not learns_from_teacher(part):
        return part
    # that of a contrastive term is another quantity, and far below 1
    reads_logits = part.make.reads_teacher_logits and part.accepts("temperature")
    given = {"weight": weight, "temperature": temperature if reads_logits else None}
    options = {name: value for name, value in given.items() if value is not None}
    return VOCABULARY.part(part.name, {**options, **part.options}, where="the command line")


@cache
def known_parts() -> dict[str, Any]:
    """
    Every ingredient by name: acronyms first, those of domain adaptation too, then in snake case every objective that
    needs a teacher or nothing but options.
    """
    classes: dict[str, type[Objective]] = {name: getattr(objectives, name) for name in objectives.__all__}
    classes = {
        name: made
        for name, made in classes.items()
        if not required(made) - ({"teacher"} if issubclass(made, TeacherObjective) else set())
    }
    acronyms = {**ACRONYMS, **DOMAIN_ACRONYMS}
    known = {acronym: classes[name] for acronym, name in acronyms.items() if name in classes}
    return {**known, **{snake_case(name): made for name, made in classes.items()}}


def _trial() -> dict[str, Any]:
    """What builds an ingredient for a try: a teacher that is asked nothing."""
    return {"teacher": Teacher(nn.Linear(1, 1)), "num_domains": 2}


VOCABULARY = Vocabulary(Method, known_parts, (ALONE,), options=OPTIONS, trial=_trial)
"""What `--methods` and `--loss` know."""
