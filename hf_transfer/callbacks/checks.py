"""What a freezing schedule refuses, each with what to type instead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.training_args import ParallelMode

from hf_transfer.callbacks.phases import Phase


# Renamed in transformers 5.23; the old name may go once that is the oldest version supported.
_NEW_NAME = hasattr(TrainingArguments, "activation_checkpointing_kwargs")
_NOT_REENTRANT = f"{'activation' if _NEW_NAME else 'gradient'}_checkpointing_kwargs={{'use_reentrant': False}}"


def check_arguments(args: TrainingArguments, model: nn.Module) -> None:
    """
    Refuse training arguments under which a parameter cannot be frozen or thawed mid-run.

    Raises:
        ValueError: under DeepSpeed, FSDP1 or `nn.DataParallel`; under DDP that does not look for unused parameters.
    """
    if args.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError(
            "Training runs under DeepSpeed - it fixes which parameters train when it partitions the optimizer, and a "
            "thawed one would never move - use DDP or FSDP2 (fsdp_config={'fsdp_version': 2})."
        )
    if isinstance(model, FullyShardedDataParallel):
        raise ValueError(
            "The model is sharded by FSDP1 - it flattens frozen and training parameters into one tensor, which either "
            "trains or does not - use FSDP2: fsdp_config={'fsdp_version': 2}."
        )
    if args.parallel_mode == ParallelMode.NOT_DISTRIBUTED:
        raise ValueError(
            f"The model runs in `nn.DataParallel` on {args.n_gpu} devices - its replicas are made before frozen "
            "layers go to evaluation mode, so their statistics would move - start the script with `torchrun` or "
            "`accelerate launch`."
        )
    if args.parallel_mode == ParallelMode.DISTRIBUTED and not args.fsdp:
        _check_ddp(args, model)


def _check_ddp(args: TrainingArguments, model: nn.Module) -> None:
    checkpointing = args.gradient_checkpointing or any(map(_checkpoints, model.modules()))
    # The Trainer (`_build_accelerator_args`, transformers 5.23) decides before any callback is called, so that it can
    # only be checked here: for a `PreTrainedModel`, None means "unless activations are checkpointed".
    finds_unused = args.ddp_find_unused_parameters
    if finds_unused is None:
        finds_unused = not (checkpointing and isinstance(model, PreTrainedModel))
    if not finds_unused:
        why = "activation checkpointing turns it off" if checkpointing else "it is set to False"
        raise ValueError(
            f"DDP runs without `find_unused_parameters` ({why}) - it waits for the gradients of frozen parameters, "
            "and the second step fails - pass ddp_find_unused_parameters=True"
            + (f" and {_NOT_REENTRANT}." if checkpointing else ".")
        )
    if getattr(args, "ddp_static_graph", None):
        raise ValueError(
            "DDP runs with a static graph - thawing changes which parameters take part - leave `ddp_static_graph` out."
        )


def _checkpoints(module: nn.Module) -> bool:
    # The flag that `PreTrainedModel` sets on its layers; its public property was renamed in transformers 5.23.
    return getattr(module, "gradient_checkpointing", False) is True


def check_checkpointing(model: nn.Module) -> None:
    """
    Refuse reentrant activation checkpointing, which loses the gradient of blocks that stand on frozen ones.

    Raises:
        ValueError: if a layer is checkpointed with `use_reentrant=True`.
    """
    for module in model.modules():
        # A `functools.partial` of `torch.utils.checkpoint.checkpoint`, set by `PreTrainedModel`, here as of
        # transformers 5.
        keywords = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if keywords.get("use_reentrant") and _checkpoints(module):
            raise ValueError(
                "Activations are checkpointed with use_reentrant=True - a block whose input needs no gradient, "
                f"because all below it is frozen, then gets none for its own parameters either - pass "
                f"{_NOT_REENTRANT}."
            )


def check_scheduler(scheduler: Any) -> LambdaLR:
    """
    The scheduler, if its rate can be scaled by phase.

    Raises:
        ValueError: if the scheduler is no `LambdaLR`.
    """
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"The schedule sets `lr` or `lr_scale`, but {type(scheduler).__name__} computes each rate from the one "
            "before - a phase's rate could not be taken back exactly, nor restored on resume - use an "
            "`lr_scheduler_type` that is a function of the step (linear, cosine, constant_with_warmup, ...), or leave "
            "the phases' rates out."
        )
    return scheduler


def check_evaluation(args: TrainingArguments, phases: Sequence[Phase]) -> None:
    """
    Refuse phases that wait for a metric in a run that never evaluates.

    Raises:
        ValueError: as said.
    """
    waiting = [phase for phase in phases if phase.when is not None]
    if waiting and args.eval_strategy == IntervalStrategy.NO:
        raise ValueError(
            f"A phase waits for {waiting[0].entry}, but eval_strategy is 'no' - it would never begin - set "
            "eval_strategy='steps' or 'epoch', or give the phase a `step`, `epoch` or `fraction`."
        )


def check_metrics(phases: Sequence[Phase], log_history: Sequence[Mapping[str, Any]]) -> None:
    """
    Refuse metrics that no evaluation reports, once there was one.

    Raises:
        KeyError: as said.
    """
    reported = {key for log in log_history for key in log if key.startswith("eval_")}
    for phase in phases:
        if reported and phase.when is not None and phase.when.metric not in reported:
            raise KeyError(
                f"A phase waits for {phase.when.metric}, but evaluation reports {', '.join(sorted(reported))} - it "
                "would never begin - name one of these under `when`, or return the metric from `compute_metrics`."
            )


def check_thawable(
    model: nn.Module, scheduled: Iterable[str], optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> None:
    """
    Refuse parameters that a schedule wants to train but that cannot: frozen beforehand, or unknown to the optimizer.

    Parameters that PEFT froze, and those that the model class itself creates frozen (sinusoidal positions), stay so.

    Args:
        model (`nn.Module`): the model.
        scheduled (`Iterable[str]`): names that some phase trains.
        optimizer (`torch.optim.Optimizer`): the optimizer, compared by identity: equal values prove nothing.
        parameters (`dict[str, nn.Parameter]`): the model's parameters by name.

    Raises:
        ValueError: as said.
    """
    scheduled = sorted(scheduled)
    frozen = [name for name in scheduled if not parameters[name].requires_grad]
    if frozen and not hasattr(model, "peft_config"):
        frozen = [name for name in frozen if name not in _frozen_by_design(model)]
        if frozen:
            raise ValueError(
                f"{_some(frozen)} had requires_grad=False when training began - the optimizer was created without "
                "what is frozen by then, so that it would never move - do not freeze by hand (the schedule does), or "
                "name these under `freeze`."
            )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name in scheduled if parameters[name].requires_grad and id(parameters[name]) not in held]
    if missing:
        raise ValueError(
            f"{_some(missing)} is scheduled to train but in no group of {type(optimizer).__name__} - it would never "
            "move - build the optimizer from all parameters of the model, or let the Trainer build it."
        )


def _frozen_by_design(model: Any) -> set[str]:
    with torch.device("meta"):
        twin = type(model)(model.config)
    return {name for name, parameter in twin.named_parameters() if not parameter.requires_grad}


def _some(names: list[str]) -> str:
    return f"`{names[0]}`" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
