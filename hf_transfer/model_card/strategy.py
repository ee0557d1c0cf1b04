"""How a model was transferred, in sentences, read off the callbacks, the objectives and the adapter of a trainer."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_transfer.callbacks import FreezeBackbone, GradualUnfreezing, UnfreezingSchedule
from hf_transfer.model_card.adapters import active_config, adapter_strategy
from hf_transfer.model_card.methods import about, settings_of
from hf_transfer.model_card.parameters import count, own_parameters


_SILENT = ("TrackProgress", "SetSamplerEpoch", "CacheFrozenPrefix", "TargetValidation", "DomainHealth")
"""Callbacks that do not change what is learned."""

__all__ = ["adapter_of", "freezing_of", "method_callbacks", "strategy", "trained_parameters"]


def adapter_of(model: nn.Module) -> Any:
    """The config of a model's adapter, or `None`."""
    return active_config(model)


def freezing_of(callbacks: list[TrainerCallback]) -> UnfreezingSchedule | None:
    """The freezing schedule among callbacks."""
    return next((own for own in callbacks if isinstance(own, UnfreezingSchedule)), None)


def method_callbacks(callbacks: list[TrainerCallback]) -> list[TrainerCallback]:
    """Those of this library that change what is learned, but for the freezing schedule."""
    return [
        own
        for own in callbacks
        if type(own).__module__.startswith("hf_transfer.")
        and type(own).__name__ not in _SILENT
        and not isinstance(own, UnfreezingSchedule)
    ]


def trained_parameters(model: nn.Module, schedule: UnfreezingSchedule | None) -> int:
    """How many parameters train at any time of a run."""
    if schedule is not None and active_config(model) is None:
        parts = schedule.parts(model)
        from hf_transfer.callbacks.selection import select_parameters

        names = {
            name
            for phase in schedule.plan(parts)
            for name in select_parameters(parts, phase.train, without=phase.freeze)
        }
        return sum(own.numel() for name, own in own_parameters(model).items() if name in names)
    return count(model, trained=True)


def strategy(trainer: Any, model: nn.Module, base: str | None) -> list[str]:
    """
    Sentences on how a model was transferred.

    Args:
        trainer (`Trainer`): that trained it.
        model (`nn.Module`): without a wrapper for several ranks.
        base (`str`, *optional*): what a card calls the base model; `None` for a model from scratch.
    """
    callbacks = trainer.callback_handler.callbacks
    schedule, config = freezing_of(callbacks), adapter_of(model)
    found = [f"It starts from `{base}`." if base else "It starts from random weights."]
    if config is not None:
        found.append(adapter_strategy(model, config))
    if trainer.state.global_step == 0:
        return found  # it only saves what was trained elsewhere
    if type(trainer).__name__ == "FeatureExtractionTrainer":
        found.append("Features were computed once by the frozen model and stored; only the head was trained on them.")
    elif schedule is not None:
        found.append(_freezing(schedule))
    elif config is None:
        found.append(_share(model))
    for callback in method_callbacks(callbacks):
        settings = ", ".join(f"{name} {value}" for name, value in settings_of(callback).items() if value != "None")
        found.append(f"{about(callback) or type(callback).__name__}" + (f" Settings: {settings}." if settings else ""))
    stopping = next((own for own in callbacks if isinstance(own, EarlyStoppingCallback)), None)
    chosen = (trainer.args.metric_for_best_model or "loss").removeprefix("eval_")
    if trainer.args.load_best_model_at_end:
        stop = f"; training stops after {stopping.early_stopping_patience} without a new best" if stopping else ""
        found.append(f"Of all evaluations on the validation rows the one with the best {chosen} was kept{stop}.")
    return found


def _freezing(schedule: UnfreezingSchedule) -> str:
    if isinstance(schedule, FreezeBackbone):
        return "The backbone was frozen, and only the head trained, in the whole run."
    if isinstance(schedule, GradualUnfreezing):
        way = "from the head down" if getattr(schedule, "order", "top_down") == "top_down" else "from the input up"
        return f"The model was thawed {way} in {getattr(schedule, 'stages', 'several')} stages; see the table below."
    return f"The model was thawed in {len(schedule.phases)} phases; see the table below."


def _share(model: nn.Module) -> str:
    total, trained = count(model), count(model, trained=True)
    if trained == total:
        return f"All {total:,} parameters were trained, in the whole run."
    return f"{trained:,} of {total:,} parameters ({trained / max(total, 1):.1%}) were trained; the others were frozen."
