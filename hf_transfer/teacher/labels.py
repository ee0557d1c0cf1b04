"""Which output of a teacher is which class of the student, told by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch import nn

from hf_transfer.batch import ModelSpec
from hf_transfer.language_models import is_language_model, pretrained_part


LabelRule: TypeAlias = Literal["name", "position"] | Mapping[str, str]
"""How the classes of teacher and student are matched; a mapping goes from the teacher's names to the student's."""

_PLACEHOLDER = re.compile(r"LABEL_\d+")
_SEPARATORS = re.compile(r"[\s_\-]+")
_TOKENS = "ForTokenClassification"

__all__ = ["LabelRule", "check_kinds", "check_rule", "class_names", "class_order", "kind_of_task"]


def check_rule(rule: LabelRule | str) -> None:
    """
    Refuse what is no way to match classes.

    Raises:
        ValueError: if it is another word, or two classes of the teacher are one of the student.
    """
    if isinstance(rule, Mapping):
        twice = sorted({name for name in rule.values() if list(rule.values()).count(name) > 1})
        if twice:
            raise ValueError(
                f"`labels=` gives {', '.join(twice)} to several classes of the teacher: the logit of a union of "
                "classes is not defined at every temperature. Map one class to each, and leave the others out."
            )
    elif rule not in ("name", "position"):
        raise ValueError(
            f'`labels={rule!r}` does not say which output of the teacher is which class. Give "name", "position" '
            'or a mapping from its names to the student\'s, such as {"POS": "positive"}.'
        )


def class_names(config: Any, outputs: int) -> list[str] | None:
    """The names of the classes in the order of the outputs, unless they are placeholders or there are none."""
    found = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    names = [found.get(number, "LABEL_0") for number in range(outputs)]
    return None if not names or all(_PLACEHOLDER.fullmatch(name) for name in names) else names


def kind_of_task(config: Any, outputs: int) -> str | None:
    """The kind of task as the config says it; a single output without a word is a regression, else unknown."""
    problem = getattr(config, "problem_type", None)
    return "regression" if problem is None and outputs == 1 else problem


def check_kinds(model: nn.Module, outputs: int, spec: ModelSpec, *, teacher: str) -> None:
    """
    Refuse a teacher for another kind of task.

    Args:
        model (`nn.Module`): the teacher's.
        outputs (`int`): how many it has.
        spec (`ModelSpec`): of the student.
        teacher (`str`): what errors call it.

    Raises:
        ValueError: if one classifies tokens, one predicts tokens, or they differ in their `problem_type`.
    """
    if spec.model is None:
        return
    own, theirs = _rows(spec.model), _rows(model)
    if own != theirs:
        raise ValueError(
            f"{teacher} predicts {theirs} and the student {own}: there is no prediction of one for each of the other. "
            "Give a teacher that was trained for the student's kind of task."
        )
    config = getattr(spec.model, "config", None)
    student, taught = kind_of_task(config, spec.num_labels), kind_of_task(_config(model), outputs)
    # A config without a word is that of classes, until the first labels tell otherwise. Nobody trains a teacher for
    # several labels a row without one: its loss writes it there.
    if taught is not None and student is None:
        student = "single_label_classification"
    if taught is not None and taught != student:
        raise ValueError(
            f"{teacher} is for {taught} and the student for {student}: the numbers that they return mean different "
            f'things. Give a teacher of the same kind, or set `student.config.problem_type = "{taught}"` where the '
            "student's labels are of that kind."
        )


def class_order(
    names: Sequence[str] | None, outputs: int, spec: ModelSpec, rule: LabelRule, *, teacher: str
) -> list[int] | None:
    """
    The output of the teacher for each class of the student; `None` where they are the same.

    By name (upper and lower case, spaces, hyphens and underscores do not matter), where both have names; by number
    where neither has. Classes of the teacher that the student lacks are left out: the softmax over the others is the
    teacher's belief given that it is none of these.

    Args:
        names (`Sequence[str]`, *optional*): of the teacher's classes, `None` if they are placeholders.
        outputs (`int`): how many it has.
        spec (`ModelSpec`): of the student.
        rule (`"name"`, `"position"` or `Mapping`): how they are matched.
        teacher (`str`): what errors call it.

    Raises:
        ValueError: if only one side has names, the student has a class that the teacher lacks, or a mapping names what
            there is not.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> model = torch.nn.Module()
        >>> model.config = SimpleNamespace(id2label={0: "negative", 1: "positive"})
        >>> spec = ModelSpec(feature_dim=4, num_labels=2, model=model)
        >>> class_order(["POSITIVE", "neutral", "Negative"], 3, spec, "name", teacher="The teacher")
        [2, 0]
    """
    wanted = class_names(getattr(spec.model, "config", None), spec.num_labels)
    if isinstance(rule, Mapping):
        names = _renamed(names or _placeholders(outputs), wanted or _placeholders(spec.num_labels), rule, teacher)
        wanted = wanted or _placeholders(spec.num_labels)
    one_value = outputs == spec.num_labels == 1
    if rule == "position" or one_value or (names is None and wanted is None) or names == wanted or _is_lm(spec):
        if outputs == spec.num_labels:
            return None
        raise ValueError(
            f"{teacher} has {outputs} classes and the student {spec.num_labels}, and only their numbers could tell "
            "which is which. Give both models names, `config.id2label`, and they are matched by name; or say it: "
            '`labels={"LABEL_2": "LABEL_0", ...}`, from the teacher\'s to the student\'s.'
        )
    if names is None or wanted is None:
        named, nameless = ("student", "teacher") if names is None else ("teacher", "student")
        raise ValueError(
            f"The classes of the {named} have names ({_some(names or wanted or ())}), those of the {nameless} have "
            f"none: which is which is a guess (the teacher is {teacher}). If they are in the same order, say so with "
            f'`Teacher(..., labels="position")`; otherwise set `{nameless}.config.id2label`.'
        )
    order = _matched(names, wanted)
    if order is None:
        missing, extra = _difference(wanted, names), _difference(names, wanted)
        raise ValueError(
            f"{teacher} has no class {_some(missing)} of the student; it has {_some(extra) or 'no class'} that the "
            "student lacks: nothing says what it thinks of the former. Give a teacher for the same classes, or tell "
            f'which is which with `Teacher(..., labels={{"{(extra or names)[0]}": "{(missing or wanted)[0]}", ...}})`.'
        )
    return None if order == list(range(outputs)) else order


def _matched(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    for fold in (str, _loose):
        place = {fold(name): number for number, name in enumerate(names)}
        unique = len(place) == len(names) and len({fold(name) for name in wanted}) == len(wanted)
        if unique and all(fold(name) in place for name in wanted):
            return [place[fold(name)] for name in wanted]
    return None


def _renamed(names: Sequence[str], wanted: Sequence[str], rule: Mapping[str, str], teacher: str) -> list[str]:
    for whose, known, given in ((teacher, names, rule.keys()), ("The student", wanted, rule.values())):
        unknown = _difference(list(given), known)
        if unknown:
            raise ValueError(
                f"{whose} has no class {_some(unknown)}, which `labels=` names: it has {_some(known)}. Map the names "
                "of the teacher's `config.id2label` to those of the student's."
            )
    new = {_loose(old): name for old, name in rule.items()}
    taken = {_loose(name) for name in rule.values()}
    # What is not mapped keeps its name, unless another class was given it.
    return [
        new[_loose(name)] if _loose(name) in new else (name if _loose(name) not in taken else f"{name} (not mapped)")
        for name in names
    ]


def _loose(name: str) -> str:
    return _SEPARATORS.sub("", name).casefold()


def _difference(names: Sequence[str], others: Sequence[str]) -> list[str]:
    known = {_loose(name) for name in others}
    return [name for name in names if _loose(name) not in known]


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(f"`{name}`" for name in names[:most]) + (f" and {len(names) - most} more" * (len(names) > most))


def _placeholders(count: int) -> list[str]:
    return [f"LABEL_{number}" for number in range(count)]


def _rows(model: nn.Module) -> str:
    if is_language_model(model):
        return "the tokens of a vocabulary"
    _, owner = pretrained_part(model)
    return "a class for each token" if type(owner).__name__.endswith(_TOKENS) else "one thing for each example"


def _is_lm(spec: ModelSpec) -> bool:
    return spec.model is not None and is_language_model(spec.model)


def _config(model: nn.Module) -> Any:
    _, owner = pretrained_part(model)
    return getattr(owner, "config", None)
