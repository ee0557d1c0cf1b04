"""Methods of domain adaptation by the names that a command line knows, alone or joined by `+`."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from typing import Any

from transformers import TrainerCallback

from hf_transfer import callbacks, objectives
from hf_transfer.domain_adaptation.weighting import WEIGHTINGS
from hf_transfer.objective import Objective


SOURCE_ONLY = "source_only"
TARGET_ORACLE = "target_oracle"
REFERENCES = (SOURCE_ONLY, TARGET_ORACLE)
"""Runs that adapt nothing: the labelled source alone, and the target with its labels."""

ACRONYMS = {
    "dann": "DomainAdversarial",
    "cdan": "ConditionalAdversarial",
    "mdd": "MarginDisparity",
    "wdgrl": "WassersteinDistance",
    "mcd": "MaximumClassifierDiscrepancy",
    "dan": "MaximumMeanDiscrepancy",
    "jan": "JointMaximumMeanDiscrepancy",
    "dsan": "LocalMaximumMeanDiscrepancy",
    "coral": "DeepCORAL",
    "cmd": "CentralMomentDiscrepancy",
    "swd": "SlicedWasserstein",
    "entropy": "EntropyMinimization",
    "im": "InformationMaximization",
    "mcc": "MinimumClassConfusion",
    "bnm": "BatchNuclearNorm",
    "afn": "AdaptiveFeatureNorm",
    "bsp": "BatchSpectralPenalization",
    "pseudo_labels": "PseudoLabels",
    "fixmatch": "FixMatch",
    "adabn": "AdaptBatchNorm",
}
"""The field's names of classes that are exported by `hf_transfer.objectives` or `hf_transfer.callbacks`."""

CALLBACKS = ("AdaptBatchNorm",)

__all__ = [
    "ACRONYMS",
    "REFERENCES",
    "SOURCE_ONLY",
    "TARGET_ORACLE",
    "Method",
    "Part",
    "known_parts",
    "method_of",
    "nearest",
    "parse_method",
    "part",
    "snake_case",
]


@dataclass(frozen=True)
class Part:
    """
    One ingredient of a method.

    Args:
        name (`str`): as the command line knows it.
        make (`type`): class of the objective or callback.
        options (`Mapping[str, Any]`): keywords for `make`.
    """

    name: str
    make: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_objective(self) -> bool:
        """Whether it is a term of the loss."""
        return isinstance(self.make, type) and issubclass(self.make, Objective)

    @property
    def is_callback(self) -> bool:
        """Whether it acts beside the loss while or after the model trains."""
        return isinstance(self.make, type) and issubclass(self.make, TrainerCallback)

    @property
    def is_weighting(self) -> bool:
        """Whether it gives the source rows weights before the model trains."""
        return not self.is_objective and not self.is_callback

    def accepts(self, option: str) -> bool:
        """Whether the class has an option of that name."""
        return option in _options(self.make)

    def with_options(self, **options: Any) -> Part:
        """The same with other values of some options."""
        return Part(self.name, self.make, {**self.options, **options})

    def built(self, **defaults: Any) -> Any:
        """An instance, with those of `defaults` that it knows and that were not set."""
        taken = {name: value for name, value in defaults.items() if self.accepts(name)}
        return self.make(**{**taken, **self.options})


@dataclass(frozen=True)
class Method:
    """
    One way to adapt: a sum of terms, callbacks and weights of the source rows; or a reference run, which has none.

    Args:
        name (`str`): the name in tables and folders.
        parts (`tuple[Part, ...]`): what it is made of.
    """

    name: str
    parts: tuple[Part, ...] = ()

    @property
    def is_reference(self) -> bool:
        """Whether it adapts nothing."""
        return self.name in REFERENCES

    @property
    def needs_target(self) -> bool:
        """Whether batches hold rows of the target."""
        return any(part.is_objective for part in self.parts)

    def objectives(self, num_domains: int) -> list[Objective]:
        """The terms of the loss, new for every run."""
        return [part.built(num_domains=num_domains) for part in self.parts if part.is_objective]

    def callbacks(self, **data: Any) -> list[TrainerCallback]:
        """
        What acts beside the loss, new for every run.

        Args:
            **data: rows of the target and their collator, for those that read them.
        """
        return [part.built(**data) for part in self.parts if part.is_callback]

    @property
    def weighting(self) -> Any:
        """What gives the source rows their weights, or `None`."""
        return next((part.built() for part in self.parts if part.is_weighting), None)

    def description(self) -> dict[str, Any]:
        """Its parts and their options, for a fingerprint and a report."""
        return {part.name: dict(part.options) for part in self.parts}


def snake_case(name: str) -> str:
    """
    The name of a class as `Objective.name` writes it.

    Example:
        >>> snake_case("MinimumClassConfusion"), snake_case("DeepCORAL"), snake_case("L2SP")
        ('minimum_class_confusion', 'deep_coral', 'l2sp')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


@cache
def known_parts() -> dict[str, Any]:
    """
    Every ingredient by name: acronyms first, then the classes in snake case.

    Objectives that need more than options, such as a source model, are left out.
    """
    classes = {name: getattr(objectives, name) for name in objectives.__all__}
    classes = {name: made for name, made in classes.items() if not _required(made)}
    classes |= {name: getattr(callbacks, name) for name in CALLBACKS if name in callbacks.__all__}
    known = {acronym: classes[name] for acronym, name in ACRONYMS.items() if name in classes}
    return {**known, **WEIGHTINGS, **{snake_case(name): made for name, made in classes.items()}}


def nearest(name: str, known: Iterable[str]) -> str:
    """
    The end of an error message about a name that is unknown: the nearest one, or all.

    Example:
        >>> nearest("dan", ["dann", "mcc"])
        'Did you mean `dann`?'
        >>> nearest("quantum", ["dann", "mcc"])
        'Choose from dann, mcc.'
    """
    known = list(known)
    found = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean `{found[0]}`?" if found else f"Choose from {', '.join(known)}."


def part(name: str, options: Mapping[str, Any] | None = None, *, where: str) -> Part:
    """
    An ingredient by its name, built once so that a wrong value is refused now.

    Args:
        name (`str`): acronym or class in snake case.
        options (`Mapping[str, Any]`, *optional*): keywords of its constructor.
        where (`str`): the option or file that asks for it, for messages.

    Raises:
        ValueError: for an unknown name or option, or a value that the constructor refuses.
    """
    known = known_parts()
    if name not in known:
        raise ValueError(
            f"{where} names `{name}`, which is no method: nothing would be trained by it. "
            f"{nearest(name, (*known, *REFERENCES))}"
        )
    found = Part(name, known[name], dict(options or {}))
    for option in found.options:
        if not found.accepts(option):
            raise ValueError(
                f"{where} gives `{name}` the option `{option}`, which it has not: the setting would be lost. "
                f"{nearest(option, _options(found.make))}"
            )
    found.built(data=(), num_domains=2)
    return found


def parse_method(text: str, *, where: str = "`--methods`") -> Method:
    """
    The method that a word of the command line names: one ingredient, or several joined by `+`.

    Raises:
        ValueError: for an unknown name, or a reference run that is to be joined with something.

    Example:
        >>> method = parse_method("dann+l2sp")
        >>> method.name, [type(term).__name__ for term in method.objectives(num_domains=2)]
        ('dann+l2sp', ['DomainAdversarial', 'L2SP'])
    """
    names = [name.strip().lower() for name in text.split("+")]
    if len(names) == 1 and names[0] in REFERENCES:
        return Method(names[0])
    for name in names:
        if name in REFERENCES:
            raise ValueError(
                f"{where} joins `{name}` with other methods in `{text}`: it is a reference run, which adapts nothing. "
                f"Name it by itself: `--methods {name},{'+'.join(other for other in names if other != name)}`."
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{where} names `{twice[0]}` twice in `{text}`: its term would count double. Name it once, and give it "
            "another weight in a file for `--loss`."
        )
    return method_of("+".join(names), [part(name, where=where) for name in names], where=where)


def method_of(name: str, parts: Sequence[Part], *, where: str) -> Method:
    """
    The method of some parts.

    Raises:
        ValueError: if two of them are one class by two names, or both weigh the source rows.
    """
    for first, second in combinations(parts, 2):
        same = first.make is second.make
        if same or (first.is_weighting and second.is_weighting):
            why = "are one class" if same else "both weigh the source rows"
            raise ValueError(
                f"{where}: `{first.name}` and `{second.name}` {why}, and the second would count on top of the first. "
                "Name one of them."
            )
    return Method(name, tuple(parts))


def _options(made: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(made).parameters
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in skipped}


def _required(made: Any) -> bool:
    return any(parameter.default is inspect.Parameter.empty for parameter in _options(made).values())
