"""Ways to train by the names that a command line knows, alone or joined by `+`."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Generic, TypeVar

from transformers import TrainerCallback

from hf_transfer.objective import Objective


__all__ = ["Method", "Part", "Vocabulary", "nearest", "required", "snake_case"]


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
    One way to train: a sum of terms and callbacks; or a reference run, which has none.

    Args:
        name (`str`): the name in tables and folders.
        parts (`tuple[Part, ...]`): what it is made of.
    """

    name: str
    parts: tuple[Part, ...] = ()

    @property
    def is_reference(self) -> bool:
        """Whether it adds nothing to the training."""
        return not self.parts

    def objectives(self, **given: Any) -> list[Objective]:
        """
        The terms of the loss, new for every run.

        Args:
            **given: options for those that know them.
        """
        return [part.built(**given) for part in self.parts if part.is_objective]

    def callbacks(self, **given: Any) -> list[TrainerCallback]:
        """
        What acts beside the loss, new for every run.

        Args:
            **given: options, such as rows and their collator, for those that know them.
        """
        return [part.built(**given) for part in self.parts if part.is_callback]

    def description(self) -> dict[str, Any]:
        """Its parts and their options, for a fingerprint and a report."""
        return {part.name: dict(part.options) for part in self.parts}


M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Vocabulary(Generic[M]):
    """
    The names that a recipe knows.

    Args:
        method (`type`): what a name is turned into.
        known (`Callable`): gives the class of every ingredient by its name.
        references (`Sequence[str]`): names of runs that are made of nothing.
        options (`Mapping[str, Mapping[str, Any]]`): those that come with a name.
        trial (`Callable`): gives what an ingredient may need in order to be built once, for a try.
    """

    method: type[M]
    known: Callable[[], Mapping[str, Any]]
    references: Sequence[str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    trial: Callable[[], Mapping[str, Any]] = dict

    def part(self, name: str, options: Mapping[str, Any] | None = None, *, where: str) -> Part:
        """
        An ingredient by its name, built once so that a wrong value is refused now.

        Args:
            name (`str`): acronym or class in snake case.
            options (`Mapping[str, Any]`, *optional*): keywords of its constructor.
            where (`str`): the option or file that asks for it, for messages.

        Raises:
            ValueError: for an unknown name or option, or a value that the constructor refuses.
        """
        known = self.known()
        if name not in known:
            raise ValueError(
                f"{where} names `{name}`, which is no method: nothing would be trained by it. "
                f"{nearest(name, (*known, *self.references))}"
            )
        found = Part(name, known[name], {**self.options.get(name, {}), **(options or {})})
        for option in found.options:
            if not found.accepts(option):
                raise ValueError(
                    f"{where} gives `{name}` the option `{option}`, which it has not: the setting would be lost. "
                    f"{nearest(option, _options(found.make))}"
                )
        found.built(**self.trial())
        return found

    def parse(self, text: str, *, where: str = "`--methods`") -> M:
        """
        The method that a word of the command line names: one ingredient, or several joined by `+`.

        Raises:
            ValueError: for an unknown name, or a reference run that is to be joined with something.
        """
        names = [name.strip().lower() for name in text.split("+")]
        if len(names) == 1 and names[0] in self.references:
            return self.method(names[0])
        for name in names:
            if name in self.references:
                others = "+".join(other for other in names if other != name)
                raise ValueError(
                    f"{where} joins `{name}` with other methods in `{text}`: it is a reference run, which adds "
                    f"nothing. Name it by itself: `--methods {name},{others}`."
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"{where} names `{twice[0]}` twice in `{text}`: its term would count double. Name it once, and give "
                "it another weight in a file for `--loss`."
            )
        return self.joined("+".join(names), [self.part(name, where=where) for name in names], where=where)

    def joined(self, name: str, parts: Sequence[Part], *, where: str) -> M:
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
                    f"{where}: `{first.name}` and `{second.name}` {why}, and the second would count on top of the "
                    "first. Name one of them."
                )
        return self.method(name, tuple(parts))


def snake_case(name: str) -> str:
    """
    The name of a class as `Objective.name` writes it.

    Example:
        >>> snake_case("MinimumClassConfusion"), snake_case("DeepCORAL"), snake_case("L2SP")
        ('minimum_class_confusion', 'deep_coral', 'l2sp')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


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


def required(made: Any) -> set[str]:
    """
    Options of a class without which it cannot be built.

    Example:
        >>> sorted(required(Part))
        ['make', 'name']
    """
    return {name for name, option in _options(made).items() if option.default is inspect.Parameter.empty}


def _options(made: Any) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(made).parameters
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in skipped}
