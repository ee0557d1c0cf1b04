"""What a search tries: the settings of a trial, and how a trainer takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from hf_transfer.callbacks.freezing import FreezeBackbone
from hf_transfer.callbacks.gradual import GradualUnfreezing
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule


if TYPE_CHECKING:
    import optuna


__all__ = ["apply_settings", "search_space"]


def search_space(
    trial: optuna.Trial,
    *,
    learning_rate: tuple[float, float] | None = (1e-5, 1e-3),
    head_lr: tuple[float, float] | None = (1e-4, 1e-2),
    layer_decay: tuple[float, float] | None = (0.5, 1.0),
    lr_schedule: Sequence[str | None] | None = (None, "slanted_triangular", "one_cycle"),
    num_train_epochs: tuple[int, int] | None = (5, 30),
    stages: Sequence[int] | None = (0, 1, 2, 4),
    weights: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """
    The settings of one trial, by the names of the recipe's options. A pure function of what the trial proposes.

    Every argument is a range or a list of choices; `None` leaves the option alone.

    Args:
        trial (`optuna.Trial`):
            The trial, or an `optuna.trial.FixedTrial` to replay one.
        learning_rate, head_lr (`tuple[float, float]`, *optional*):
            Lowest and highest rate, drawn on a logarithmic scale.
        layer_decay (`tuple[float, float]`, *optional*, defaults to `(0.5, 1.0)`):
            Lowest and highest factor.
        lr_schedule (`Sequence[str | None]`, *optional*):
            Values of `TransferArguments.lr_schedule`; `None` among them stands for the stock `lr_scheduler_type`.
        num_train_epochs (`tuple[int, int]`, *optional*, defaults to `(5, 30)`):
            Fewest and most epochs.
        stages (`Sequence[int]`, *optional*, defaults to `(0, 1, 2, 4)`):
            What trains when: 0 everything throughout, 1 the head alone, 2 and more that many stages of
            [`GradualUnfreezing`].
        weights (`Mapping[str, tuple[float, float]]`, *optional*):
            Lowest and highest weight of objectives, by their name such as `"l2sp"`; on a logarithmic scale where the
            lowest is above zero.

    Example:
        >>> import optuna
        >>> trial = optuna.trial.FixedTrial({"learning_rate": 1e-4, "stages": 2, "l2sp": 0.01})
        >>> none = {"head_lr": None, "layer_decay": None, "lr_schedule": None, "num_train_epochs": None}
        >>> search_space(trial, weights={"l2sp": (1e-3, 0.1)}, **none)
        {'learning_rate': 0.0001, 'freeze': 'gradual', 'stages': 2, 'l2sp': 0.01}
    """
    settings: dict[str, Any] = {}
    for name, rates in (("learning_rate", learning_rate), ("head_lr", head_lr)):
        if rates is not None:
            settings[name] = trial.suggest_float(name, *rates, log=True)
    if layer_decay is not None:
        settings["layer_decay"] = trial.suggest_float("layer_decay", *layer_decay)
    if lr_schedule is not None:
        settings["lr_schedule"] = trial.suggest_categorical("lr_schedule", list(lr_schedule))
    if num_train_epochs is not None:
        settings["num_train_epochs"] = trial.suggest_int("num_train_epochs", *num_train_epochs)
    if stages is not None:
        chosen = trial.suggest_categorical("stages", list(stages))
        settings["freeze"] = {0: "none", 1: "backbone"}.get(chosen, "gradual")
        if chosen > 1:
            settings["stages"] = chosen
    for name, (low, high) in (weights or {}).items():
        settings[name] = trial.suggest_float(name, low, high, log=low > 0)
    return settings


def apply_settings(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """
    Put settings into effect in a trainer: its arguments, the weights of its objectives, its freezing schedule.

    Args:
        trainer (`Trainer`):
            A `TransferTrainer`, or a stock `Trainer` if the settings name its arguments only.
        settings (`Mapping[str, Any]`):
            As [`search_space`] gives them.

    Raises:
        ValueError: if a name is neither an argument, nor an attached objective, nor `freeze` or `stages`; if epochs
            are set where `max_steps` decides; if the arguments contradict each other.
    """
    args: Any = trainer.args
    options = {option.name for option in fields(args)}
    objectives = getattr(trainer, "objectives", {})
    for name, value in settings.items():
        if name in ("freeze", "stages"):
            continue
        if name in objectives:
            objectives[name].weight = value
        elif name in options:
            setattr(args, name, float(value) if name == "num_train_epochs" else value)
        else:
            known = ", ".join(objectives) or "none"
            raise ValueError(
                f"`{name}` is no option of {type(args).__name__} and no attached objective ({known}): the setting "
                "would be searched without effect. Leave it out of the search space (`None`), attach the objective, "
                "or pass `TransferArguments` to a `TransferTrainer`."
            )
    if "num_train_epochs" in settings and args.max_steps > 0:
        raise ValueError(
            f"`num_train_epochs` with `max_steps={args.max_steps}`: the steps decide, and the epochs would be "
            "searched without effect. Leave `max_steps` at -1, or search with `num_train_epochs=None`."
        )
    _ = getattr(args, "lr_layout", None)  # refuses what contradicts itself
    if "freeze" in settings:
        _freeze(trainer, settings["freeze"], settings.get("stages", 4))


def _freeze(trainer: Trainer, freeze: str, stages: int) -> None:
    makes = {"none": lambda: None, "backbone": FreezeBackbone, "gradual": lambda: GradualUnfreezing(stages=stages)}
    if freeze not in makes:
        raise ValueError(
            f"`freeze={freeze!r}` is unknown: it says what trains when. Give {', '.join(map(repr, makes))}."
        )
    callbacks = trainer.callback_handler.callbacks
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, UnfreezingSchedule)]
    schedule = makes[freeze]()
    if schedule is not None:
        callbacks.append(schedule)
        if trainer.args.ddp_find_unused_parameters is None:
            trainer.args.ddp_find_unused_parameters = True  # as `TransferTrainer` does when it is built
