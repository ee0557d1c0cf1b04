"""Curves of the learning rate that `lr_scheduler_type` has not, each correct for every group of the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from transformers import TrainerCallback

from hf_transfer.callbacks.unfreezing import UnfreezingSchedule


__all__ = ["LR_SCHEDULES", "OneCycle", "SlantedTriangular", "check_phases", "lr_layout"]


@dataclass(frozen=True, kw_only=True)
class SlantedTriangular:
    r"""
    Slanted triangular learning rates (STLR, ULMFiT): a short linear rise, then a long linear fall.

    At progress $p \in [0, 1]$, with $c$ = `cut_frac`, a group whose own rate is $\eta_g$ has the rate

    $$ \eta_g \, \frac{1 + s(p) (r - 1)}{r}, \qquad s(p) = p / c \ \text{ for } p < c, \quad (1 - p) / (1 - c) \
    \text{ from there on} $$

    so every group goes from $\eta_g / r$ up to $\eta_g$ and back, and groups keep their ratio to each other.

    Args:
        cut_frac (`float`, *optional*, defaults to 0.1):
            Fraction $c$ of all steps in which the rate rises, in (0, 1); the paper's value.
        ratio (`float`, *optional*, defaults to 32.0):
            $r$, how many times the lowest rate goes into the highest, at least 1 (dimensionless); the paper's value.

    Degenerate runs:
        Any number of steps will do, also fewer than one in `cut_frac`: the first step then has the lowest rate and the
        second a falling one.

    Deviations from the paper:
        A function of progress, where the paper rounds the peak down to a whole step. The two agree where
        `cut_frac * steps` is a whole number; elsewhere the paper's fall is too steep and the last rates of a short run
        are negative (15 steps: $-0.4 \eta$ at the last one).

    Raises:
        ValueError: if an option is out of range.

    Relations:
        [`OneCycle`] rises longer, ends lower and cycles the momentum too. With `layer_decay=1/2.6` these are the
        discriminative rates of the same paper.

    Example:
        >>> layout = SlantedTriangular()
        >>> [round(layout.factor(progress), 3) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
        [0.031, 0.516, 1.0, 0.516, 0.031]

    Paper: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018, https://huggingface.co/papers/1801.06146
    """

    cut_frac: float = 0.1
    ratio: float = 32.0

    def __post_init__(self) -> None:
        _as_numbers(self, "cut_frac", "ratio")
        if not 0 < self.cut_frac < 1:
            raise ValueError(
                f"`cut_frac={self.cut_frac}` is outside (0, 1): the rate could not both rise and fall. Give the "
                "fraction of steps in which it rises, such as the paper's 0.1."
            )
        if self.ratio < 1:
            raise ValueError(
                f"`ratio={self.ratio}` is below 1: the rate would start above its peak. Give the peak over the lowest "
                "rate, such as the paper's 32."
            )

    def factor(self, progress: float) -> float:
        """Rate at `progress` in [0, 1] over the peak rate."""
        cut = self.cut_frac
        slope = progress / cut if progress < cut else (1 - min(progress, 1.0)) / (1 - cut)
        return (1 + slope * (self.ratio - 1)) / self.ratio

    def __call__(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        """The scheduler for a run of this many optimizer steps."""
        for group, rate in zip(optimizer.param_groups, own_rates(optimizer), strict=True):
            group["initial_lr"] = rate
        return LambdaLR(optimizer, partial(_factor_at, layout=self, steps=max(num_training_steps, 1)))


def _factor_at(step: int, layout: SlantedTriangular, steps: int) -> float:
    return layout.factor(step / steps)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    r"""
    One-cycle learning rates (1cycle): up from a low rate to the peak, then down to almost nothing, with the momentum
    going the other way.

    PyTorch's `OneCycleLR` with one `max_lr` for each parameter group: the group's own rate. Group $g$ starts at
    $\eta_g / d$, peaks at $\eta_g$ and ends at $\eta_g / (d f)$, with $d$ = `div_factor`, $f$ = `final_div_factor`.

    Args:
        pct_start (`float`, *optional*, defaults to 0.3):
            Fraction of all steps in which the rate rises, in (0, 1).
        anneal_strategy (`str`, *optional*, defaults to `"cos"`):
            `"cos"` or `"linear"`; the paper's is linear.
        cycle_momentum (`bool`, *optional*, defaults to `True`):
            Whether the momentum (the first beta of Adam) goes from `max_momentum` down to `base_momentum` and back. It
            then replaces the optimizer's own.
        base_momentum (`float`, *optional*, defaults to 0.85):
            Momentum at the peak rate (dimensionless); the paper's range is 0.85 to 0.95.
        max_momentum (`float`, *optional*, defaults to 0.95):
            Momentum at both ends (dimensionless).
        div_factor (`float`, *optional*, defaults to 25.0):
            Peak rate over the first one (dimensionless); PyTorch's value.
        final_div_factor (`float`, *optional*, defaults to 1e4):
            First rate over the last one (dimensionless); PyTorch's value.
        three_phase (`bool`, *optional*, defaults to `False`):
            The paper's three phases: up, down by the same number of steps, and the last decay.

    Raises:
        ValueError: if an option is out of range; when the scheduler is made, if the optimizer has no momentum to cycle
            or the rise is exactly one step long, of which `OneCycleLR` makes a division by zero.

    Relations:
        [`SlantedTriangular`] has a rate that is a factor of the step, which phases of an [`UnfreezingSchedule`] may
        scale.

    Example:
        >>> import torch
        >>> groups = [{"params": [torch.zeros(1)], "lr": 1.0}, {"params": [torch.zeros(1)], "lr": 0.1}]
        >>> scheduler = OneCycle(div_factor=10.0)(torch.optim.AdamW(groups), 10)
        >>> [round(rate, 6) for rate in scheduler.get_last_lr()]
        [0.1, 0.01]

    Paper: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks", 2018, https://huggingface.co/papers/1708.07120
    """

    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        _as_numbers(self, "pct_start", "base_momentum", "max_momentum", "div_factor", "final_div_factor")
        longest = 0.5 if self.three_phase else 1.0
        if not 0 < self.pct_start < longest:
            raise ValueError(
                f"`pct_start={self.pct_start}` is outside (0, {longest}): the rate could not both rise and fall. Give "
                "the fraction of steps in which it rises, such as 0.3."
            )
        if self.anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"`anneal_strategy={self.anneal_strategy!r}` is unknown: it says along which curve the rate moves. "
                "Give 'cos' or 'linear'."
            )
        if not 0 <= self.base_momentum <= self.max_momentum < 1:
            raise ValueError(
                f"`base_momentum={self.base_momentum}` and `max_momentum={self.max_momentum}`: momentum falls from "
                "the second to the first, and at 1 nothing is ever forgotten. Give 0 <= base_momentum <= "
                "max_momentum < 1, such as 0.85 and 0.95."
            )
        if self.div_factor < 1 or self.final_div_factor <= 0:
            raise ValueError(
                f"`div_factor={self.div_factor}` and `final_div_factor={self.final_div_factor}`: the rate would start "
                "above its peak or end below zero. Give div_factor >= 1 and final_div_factor > 0, such as 25 and 1e4."
            )

    def __call__(self, optimizer: Optimizer, num_training_steps: int) -> OneCycleLR:
        """The scheduler for a run of this many optimizer steps."""
        if self.cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError(
                f"`one_cycle` cycles the momentum, and {type(_bare(optimizer)).__name__} has none: only half of the "
                'method could be had. Pass lr_schedule_kwargs={"cycle_momentum": false}, or an optimizer with '
                "momentum such as adamw_torch."
            )
        steps = max(num_training_steps, 1)
        if self.pct_start * steps == 1:
            raise ValueError(
                f"`pct_start={self.pct_start}` of {steps} steps is one step: the rate has nothing to rise from. Give "
                "a larger `pct_start`, train for more steps, or take `slanted_triangular`."
            )
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        return OneCycleLR(optimizer, max_lr=own_rates(optimizer), total_steps=steps, **options)


LR_SCHEDULES = {"one_cycle": OneCycle, "slanted_triangular": SlantedTriangular}
"""The values of `TransferArguments.lr_schedule`."""


def own_rates(optimizer: Optimizer) -> list[float]:
    """
    The peak learning rate of every group: what it was made with, whatever a scheduler has made of it since.

    A float, never the tensor in which an optimizer may hold its rate: a scheduler writes into that in place.
    """
    # A second `Trainer.train()` goes on with the optimizer of the first, and makes a scheduler of its own.
    return [float(group.get("max_lr", group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]


def lr_layout(name: str, options: Mapping[str, Any] | None = None) -> SlantedTriangular | OneCycle:
    """
    The learning-rate layout of a name, with its options.

    Args:
        name (`str`): `"slanted_triangular"` or `"one_cycle"`.
        options (`Mapping`, *optional*): options of the layout by name.

    Raises:
        ValueError: if the name or an option is unknown, or a value is out of range.

    Example:
        >>> lr_layout("slanted_triangular", {"ratio": 10})
        SlantedTriangular(cut_frac=0.1, ratio=10.0)
    """
    if name not in LR_SCHEDULES:
        raise ValueError(
            f"`lr_schedule={name!r}` is unknown: the rate would follow another curve than you think. Give one of "
            f"{', '.join(LR_SCHEDULES)}; for linear, cosine and the like leave it out and pass `lr_scheduler_type`."
        )
    known = [field.name for field in fields(LR_SCHEDULES[name])]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise ValueError(
            f"`lr_schedule_kwargs` has {', '.join(unknown)}, which is no option of `{name}`: the setting would be "
            f"lost. It knows {', '.join(known)}."
        )
    return LR_SCHEDULES[name](**(options or {}))


def check_phases(layout: SlantedTriangular | OneCycle, callbacks: Iterable[TrainerCallback]) -> None:
    """
    Refuse phases that set a rate beside a layout whose rates cannot be scaled and taken back.

    Raises:
        ValueError: if the layout is [`OneCycle`] and a freezing schedule sets `lr` or `lr_scale`.
    """
    for callback in callbacks:
        if isinstance(layout, OneCycle) and isinstance(callback, UnfreezingSchedule):
            setting = [phase for phase in callback.phases if phase.sets_rate]
            if setting:
                raise ValueError(
                    f"`lr_schedule='one_cycle'` with a phase of {type(callback).__name__} that sets its learning rate "
                    f"({setting[0]}): both would rule the rate, and the cycle keeps its bounds in the optimizer, from "
                    "where a phase's could not be taken back on resume. Leave `lr`, `lr_scale` and `lr_decay` out of "
                    "the schedule, or take lr_schedule='slanted_triangular', which phases may scale."
                )


def _as_numbers(layout: Any, *names: str) -> None:
    # YAML reads 1e4, without a point, as text; OneCycleLR refuses whole numbers.
    for name in names:
        value = getattr(layout, name)
        try:
            object.__setattr__(layout, name, float(value))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`{name}={value!r}` of the learning-rate schedule is no number: the curve would be undefined. Give "
                f"one such as {type(layout).__dataclass_fields__[name].default}."
            ) from error


def _bare(optimizer: Any) -> Any:
    # accelerate wraps the optimizer it prepares
    return getattr(optimizer, "optimizer", optimizer)
