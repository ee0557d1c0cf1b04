"""What callbacks that change layers or weights refuse, each with what to type instead."""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import TrainerState, TrainingArguments
from transformers.training_args import ParallelMode


def refuse_compiled(args: TrainingArguments, model: nn.Module, who: str) -> None:
    """
    Refuse `torch.compile`.

    Raises:
        ValueError: as said.
    """
    if args.torch_compile or hasattr(model, "_orig_mod"):
        raise ValueError(
            f"{who} with torch.compile - it replaces the forward of layers and draws random numbers on the host at "
            "each call, which the compiler would fix once or break its graph at - set torch_compile=False."
        )


def refuse_partitioned(args: TrainingArguments, model: nn.Module, who: str, *, fsdp2: bool) -> None:
    """
    Refuse what splits or copies the weights in a way that a callback cannot follow.

    Args:
        args (`TrainingArguments`): the arguments.
        model (`nn.Module`): the model, before or after it is wrapped.
        who (`str`): name of the callback.
        fsdp2 (`bool`): whether it can follow FSDP2.

    Raises:
        ValueError: under DeepSpeed, FSDP1, `nn.DataParallel` or tensor parallelism, and under FSDP2 if it cannot.
    """
    way_out = "use DDP" + (" or FSDP2 (fsdp_config={'version': 2})." if fsdp2 else ": leave `fsdp` out.")
    if args.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(f"{who} under DeepSpeed - it keeps the weights in partitions of its own - {way_out}")
    sharded = args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if isinstance(model, FullyShardedDataParallel) or (sharded and not fsdp2):
        raise ValueError(
            f"{who} under {'FSDP1' if fsdp2 else 'FSDP'} - each rank holds a shard of the weights, for which it has "
            f"no counterpart - {way_out}"
        )
    if not sharded and any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise ValueError(f"{who} with tensor parallelism - each rank holds a slice of the weights - {way_out}")
    if args.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
        raise ValueError(
            f"{who} with `nn.DataParallel` on {args.n_gpu} devices - it copies the model at each step and the copies "
            "do not know of it - start the script with `torchrun` or `accelerate launch`."
        )


def refuse_unrepeatable(model: nn.Module, who: str) -> None:
    """
    Refuse activation checkpointing that does not repeat random numbers.

    Raises:
        ValueError: if `preserve_rng_state` is False.
    """
    for module in model.modules():
        # A `functools.partial` of `torch.utils.checkpoint.checkpoint`, set by `PreTrainedModel`.
        keywords = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if keywords.get("preserve_rng_state") is False and is_checkpointed(module):
            raise ValueError(
                f"{who} with activation checkpointing that has preserve_rng_state=False - the recomputation would "
                "draw other masks than the forward, and its gradient belong to neither - leave it out."
            )


def is_checkpointed(model: nn.Module) -> bool:
    """Whether activations of some part of the model are recomputed in the backward."""
    return any(
        getattr(module, "gradient_checkpointing", False) is True or hasattr(module, "_checkpoint_wrapped_module")
        for module in model.modules()
    )


def saved_state(state: TrainerState, callback: object, *, what: str) -> dict[str, Any]:
    """
    What a callback wrote into the checkpoint that a run resumes from.

    Args:
        state (`TrainerState`): the state as loaded.
        callback (`object`): the callback, known by the name of its class.
        what (`str`): what the checkpoint then lacks, for the message.

    Raises:
        ValueError: if the checkpoint was written without the callback.
    """
    name = type(callback).__name__
    stored: Any = state.stateful_callbacks
    if not isinstance(stored, dict) or name not in stored:
        raise ValueError(
            f"The checkpoint of step {state.global_step} was written without {name} - {what} - resume it without "
            f"{name}, or start a new run from its weights."
        )
    entry = stored[name]
    return (entry[0] if isinstance(entry, list) else entry)["attributes"]
