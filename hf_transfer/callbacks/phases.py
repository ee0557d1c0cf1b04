"""`Phase` and `Plateau`: what a freezing schedule is made of, and how it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """
    A metric that stops improving: true at the evaluation that is the `patience`-th in a row without a new best.

    Args:
        metric (`str`):
            Key of the evaluation results; `eval_` is put in front where it is missing.
        patience (`int`, *optional*, defaults to 1):
            Number of evaluations in a row without improvement.
        min_delta (`float`, *optional*, defaults to 0.0):
            Improvement, in units of the metric, that a new best must exceed.
        greater_is_better (`bool`, *optional*):
            Direction of the metric. Read off its name when not given: lower is better for names ending in `loss`.

    Raises:
        ValueError: if `patience` is below one or `min_delta` is negative.
    """

    metric: str
    patience: int = 1
    min_delta: float = 0.0
    greater_is_better: bool | None = None

    def __post_init__(self) -> None:
        if self.patience < 1 or self.min_delta < 0:
            raise ValueError(
                f"`when` got patience={self.patience} and min_delta={self.min_delta} - a phase can only wait for "
                "whole evaluations without improvement - use patience >= 1 and min_delta >= 0."
            )
        if not self.metric.startswith("eval_"):
            object.__setattr__(self, "metric", f"eval_{self.metric}")
        if self.greater_is_better is None:
            object.__setattr__(self, "greater_is_better", not self.metric.endswith("loss"))

    def reached(self, evaluations: Mapping[int, float], *, after: int) -> int | None:
        """
        Step of the evaluation at which the plateau is reached, counting evaluations later than step `after`.

        Example:
            >>> Plateau(metric="loss", patience=2).reached({10: 0.9, 20: 0.5, 30: 0.6, 40: 0.5}, after=0)
            40
        """
        best, waited = -math.inf, 0
        sign = 1.0 if self.greater_is_better else -1.0
        for step, value in sorted(evaluations.items()):
            if step <= after:
                continue
            improved = sign * value > best + self.min_delta
            best, waited = (sign * value, 0) if improved else (best, waited + 1)
            if waited >= self.patience:
                return step
        return None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """
    One stretch of training: what trains, from when on, and at which learning rate.

    Args:
        train (`Sequence[str]` or `str`):
            All that trains in the phase, as parts or patterns (see [`select_parameters`]).
        freeze (`Sequence[str]` or `str`, *optional*):
            Parts or patterns taken out of `train` again.
        step (`int`, *optional*):
            Enter before the optimizer step with this number, counted from 0.
        epoch (`float`, *optional*):
            Enter after this many epochs.
        fraction (`float`, *optional*):
            Enter at this fraction of all optimizer steps, in [0, 1].
        when ([`Plateau`], `dict` or `str`, *optional*):
            Enter when this metric has stopped improving since the previous phase began.
        lr_scale (`float`, *optional*):
            Multiplier (dimensionless) of every parameter group's learning rate during the phase.
        lr (`float`, *optional*):
            Learning rate in place of the optimizer's own (`TrainingArguments.learning_rate`); groups with a rate of
            their own keep their ratio to it.
        name (`str`, *optional*):
            Heading in the summary.

    Raises:
        ValueError: if there is more than one entry point or rate, a value is out of range, or `train` is empty.
    """

    train: Sequence[str]
    freeze: Sequence[str] = ()
    step: int | None = None
    epoch: float | None = None
    fraction: float | None = None
    when: Plateau | None = None
    lr_scale: float | None = None
    lr: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for key in ("train", "freeze"):
            value = getattr(self, key)
            object.__setattr__(self, key, (value,) if isinstance(value, str) else tuple(value or ()))
        if isinstance(self.when, str):
            object.__setattr__(self, "when", Plateau(metric=self.when))
        elif isinstance(self.when, Mapping):
            object.__setattr__(self, "when", Plateau(**_known_keys(self.when, Plateau, "`when`")))
        self._check()

    def _check(self) -> None:
        if not self.train:
            raise ValueError(
                f"A phase ({self.entry}) has an empty `train` - nothing would learn in it - name at least one part, "
                "such as train: [head]."
            )
        for what, keys in (
            ("entry points", ("step", "epoch", "fraction", "when")),
            ("learning rates", ("lr_scale", "lr")),
        ):
            given = [f"`{key}`" for key in keys if getattr(self, key) is not None]
            if len(given) > 1:
                raise ValueError(
                    f"A phase got the {what} {' and '.join(given)} - they would contradict each other - keep one of "
                    "them."
                )
        for key, high in (
            ("step", math.inf),
            ("epoch", math.inf),
            ("fraction", 1.0),
            ("lr_scale", math.inf),
            ("lr", math.inf),
        ):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= high):
                raise ValueError(
                    f"A phase got {key}={value!r} - it must be a number from 0 to {high} to mean anything - write it "
                    "so; in YAML, exponents need a decimal point: 1.0e-4."
                )

    def __str__(self) -> str:
        words = f"{self.entry}: {', '.join(self.train)}"
        words += f" without {', '.join(self.freeze)}" if self.freeze else ""
        words += f" (learning rate x {self.lr_scale:g})" if self.lr_scale is not None else ""
        return words + (f" (learning rate {self.lr:g})" if self.lr is not None else "")

    @property
    def entry(self) -> str:
        """The entry point in words."""
        if self.when is not None:
            return f"{self.when.metric} plateau ({self.when.patience})"
        units = {"step": self.step, "epoch": self.epoch, "fraction": self.fraction}
        return next((f"{unit} {value:g}" for unit, value in units.items() if value), "start")

    @property
    def sets_rate(self) -> bool:
        """Whether the phase has a learning rate of its own."""
        return self.lr is not None or self.lr_scale is not None

    def rate(self, base: float, default: float) -> float:
        """
        Learning rate of a parameter group during the phase.

        Args:
            base (`float`): the group's own learning rate.
            default (`float`): the optimizer's learning rate, which `lr` replaces.
        """
        if self.lr is not None:
            return base * (self.lr / default)
        return base if self.lr_scale is None else base * self.lr_scale

    def to_dict(self) -> dict[str, Any]:
        """The phase as plain values, without the fields left at their default."""
        order = ("name", "step", "epoch", "fraction", "when", "train", "freeze", "lr_scale", "lr")
        values = {key: getattr(self, key) for key in order}
        values |= {"train": list(self.train), "freeze": list(self.freeze) or None}
        values |= {"when": asdict(self.when) if self.when else None}
        return {key: value for key, value in values.items() if value is not None}


def parse_phases(spec: Any) -> tuple[Phase, ...]:
    """
    Phases from plain values, such as YAML holds: a list of phases, a mapping of names to phases, or either under
    `phases`.

    Raises:
        TypeError: if the values have another shape.
        ValueError: if there is no phase, a key is unknown, or the phases are not in order.

    Example:
        >>> phases = parse_phases([{"train": "head"}, {"fraction": 0.5, "train": ["head", "block.-1"]}])
        >>> [phase.entry for phase in phases]
        ['start', 'fraction 0.5']
    """
    if isinstance(spec, Mapping) and set(spec) == {"phases"}:
        spec = spec["phases"]
    if isinstance(spec, Mapping) and all(isinstance(value, Mapping) for value in spec.values()):
        spec = [{"name": str(name), **value} for name, value in spec.items()]
    if not isinstance(spec, Sequence) or not all(isinstance(phase, (Mapping, Phase)) for phase in spec):
        raise TypeError(
            f"The phases are {spec!r} - each must say at least what trains - give a list of phases, such as "
            "[{'train': ['head']}, {'fraction': 0.5, 'train': ['head', 'block.-1']}], or a mapping of names to phases."
        )
    phases = tuple(
        phase if isinstance(phase, Phase) else Phase(**_known_keys(phase, Phase, f"Phase {number}"))
        for number, phase in enumerate(spec, start=1)
    )
    check_order(phases)
    return phases


def _known_keys(values: Mapping[str, Any], cls: type, where: str) -> dict[str, Any]:
    known = [field.name for field in fields(cls)]
    required = known[0]
    unknown = [str(key) for key in values if key not in known]
    if unknown or required not in values:
        seen = f"has the unknown key `{'`, `'.join(unknown)}`" if unknown else f"has no `{required}`"
        raise ValueError(
            f"{where} {seen} - a schedule that is only half understood would train the wrong parts - use `{required}` "
            f"and the keys {', '.join(f'`{key}`' for key in known[1:])}."
        )
    return dict(values)


def check_order(phases: Sequence[Phase]) -> None:
    """
    Refuse phases that overlap, come in the wrong order, or do not cover the start of training.

    Raises:
        ValueError: as said.
    """
    if not phases:
        raise ValueError("The schedule has no phase - nothing says what trains - give at least [{'train': ['head']}].")
    first, *later = phases
    if first.when is not None or first.entry != "start":
        raise ValueError(
            f"The first phase enters at {first.entry} - nothing says what trains before - let it start at 0 (leave "
            "its entry point out) and put the phases in order."
        )
    last = {"step": 0.0, "epoch": 0.0, "fraction": 0.0}
    for number, phase in enumerate(later, start=2):
        if phase.when is not None:
            continue
        unit = next((unit for unit in last if getattr(phase, unit) is not None), None)
        value = 0.0 if unit is None else getattr(phase, unit)
        if unit is None or value <= last[unit]:
            seen = "has no entry point" if unit is None else f"enters at {unit} {value:g}, not after {last[unit]:g}"
            raise ValueError(
                f"Phase {number} {seen}, where an earlier phase begins - the two would overlap - give every phase "
                "after the first a later `step`, `epoch` or `fraction` than the one before, or `when`."
            )
        last[unit] = value
