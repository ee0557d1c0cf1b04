"""What the frozen-prefix cache refuses when the Trainer is built, each with what to type instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.callbacks.refusals import refuse_partitioned
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule
from hf_transfer.frozen_prefix.identity import repeats
from hf_transfer.objective import Objective


__all__ = ["check", "check_model", "check_rows"]

WHO = "`cache_frozen_prefix=True`"


def check(args: TrainingArguments, callbacks: Iterable[Any], objectives: Sequence[Objective]) -> UnfreezingSchedule:
    """
    The freezing schedule, if there is exactly what the cache can follow.

    Raises:
        ValueError: without a schedule, with `norm_only`, objectives that change inputs, NEFTune or `torch.compile`.
    """
    schedules = [callback for callback in callbacks if isinstance(callback, UnfreezingSchedule)]
    if not schedules:
        names = ", ".join(_name(callback) for callback in callbacks) or "none"
        raise ValueError(
            f"{WHO} without a freezing schedule (callbacks: {names}) - nothing is frozen, so there is nothing to "
            "cache - add FreezeBackbone(), FreezeBackbone(freeze=['embeddings', 'block.0-3']) or GradualUnfreezing()."
        )
    schedule = schedules[0]
    if schedule.norm_only:
        raise ValueError(
            f"{WHO} with {type(schedule).__name__}(norm_only=True) - dropout of the frozen part stays on, and what "
            "was stored once would lack it - leave `norm_only` out."
        )
    for objective in objectives:
        if objective.transforms:
            raise ValueError(
                f"{WHO} with {type(objective).__name__} - it changes the inputs of each forward, or needs the random "
                "numbers of the frozen blocks, and the stored hidden states know nothing of that - train without "
                "`cache_frozen_prefix`, or without the objective."
            )
    if args.neftune_noise_alpha:
        raise ValueError(
            f"{WHO} with neftune_noise_alpha={args.neftune_noise_alpha} - the embeddings differ in each step, and one "
            "of them would be stored - leave `neftune_noise_alpha` out."
        )
    if args.torch_compile:
        raise ValueError(
            f"{WHO} with torch_compile=True - compiled code would run the blocks that are to be skipped, or be "
            "compiled anew for each hidden state - set torch_compile=False."
        )
    return schedule


def check_model(args: TrainingArguments, model: nn.Module) -> None:
    """
    Refuse models whose weights are split or copied.

    Raises:
        ValueError: under DeepSpeed, FSDP, `nn.DataParallel` or tensor parallelism, and for a compiled model.
    """
    refuse_partitioned(args, model, WHO, fsdp2=False)
    if hasattr(model, "_orig_mod"):
        raise ValueError(
            f"{WHO} with a model that `torch.compile` wrapped - compiled code would run the blocks that are to be "
            "skipped - pass the bare model."
        )


def check_rows(dataset: Any, collate: Any) -> None:
    """
    Refuse training data whose rows are not the same in each epoch.

    Raises:
        ValueError: for streams, and rows that differ when they are read again.
    """
    if isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"{WHO} with a stream ({type(dataset).__name__}) - its rows have no number by which to find what was "
            "stored - load the data without `streaming=True`, or train without `cache_frozen_prefix`."
        )
    if _augments(dataset) or not repeats(dataset, collate, range(min(4, len(dataset)))):
        raise ValueError(
            f"{WHO} with random augmentation (rows differ when they are read again) - all epochs would repeat the "
            "stored draw of the first - train without `cache_frozen_prefix`, or without augmentation: augment=None."
        )


def _augments(dataset: Any) -> bool:
    if not is_datasets_available():
        return False
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        return False
    transform = (dataset.format.get("format_kwargs") or {}).get("transform")
    # Told by name: a transform of `prepare` holds it, one that a user wrote is read twice.
    return getattr(transform, "augment", None) is not None


def _name(callback: Any) -> str:
    return (callback if isinstance(callback, type) else type(callback)).__name__
