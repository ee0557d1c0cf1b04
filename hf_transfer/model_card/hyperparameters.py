"""The options of the loop that a card lists: the usual ones, and whatever else is not at its default."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from hf_transfer.model_card.naming import shown


_ALWAYS = ("learning_rate", "per_device_train_batch_size", "optim", "weight_decay", "max_grad_norm", "seed")
_IF_CHANGED = (
    *("head_lr", "objective_lr", "layer_decay", "learning_rates", "lora_plus_ratio", "lr_schedule"),
    *("lr_schedule_kwargs", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "gradient_accumulation_steps"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "label_smoothing_factor", "data_seed", "bf16", "fp16"),
    *("neftune_noise_alpha", "gradient_checkpointing", "torch_compile", "cache_frozen_prefix", "full_determinism"),
)

__all__ = ["hyperparameters"]


def hyperparameters(args: Any, state: Any) -> dict[str, str]:
    """
    Options of the loop by name, as a card lists them, with the steps that were made.

    Args:
        args (`TrainingArguments`): of the run.
        state (`TrainerState`): of the run.
    """
    defaults = {own.name: own.default for own in fields(args)}
    found = {name: shown(_plain(getattr(args, name))) for name in _ALWAYS}
    if getattr(args, "lr_schedule", None) is None:
        found["lr_scheduler_type"] = shown(_plain(args.lr_scheduler_type))
    for name in _IF_CHANGED:
        value = getattr(args, name, None)
        if value not in (None, False, {}, "") and value != defaults.get(name, MISSING):
            found[name] = shown(_plain(value))
    if args.world_size > 1:
        found["ranks"] = str(args.world_size)
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    found["rows of a step"] = str(rows)
    if state.global_step:
        found["steps"] = str(state.global_step)
    if state.epoch:
        found["epochs"] = f"{state.epoch:.4g}"
    return found


def _plain(value: Any) -> Any:
    """The word behind an enum."""
    return getattr(value, "value", value)
