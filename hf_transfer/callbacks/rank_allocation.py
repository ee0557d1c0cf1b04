"""`AllocateRanks`: the budget of AdaLoRA, spent step by step, and in the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_transfer.callbacks.refusals import refuse_partitioned
from hf_transfer.files import whole_file


ALLOCATION_NAME = "rank_allocation.safetensors"
"""File of a checkpoint that holds what AdaLoRA knows of its singular values."""

STEPS_OF_THE_RUN = 2**31 - 1
"""Value of `AdaLoraConfig.total_step`, which PEFT wants before there is a run, for as many steps as the run has."""

__all__ = [
    "ALLOCATION_NAME",
    "STEPS_OF_THE_RUN",
    "AllocateRanks",
    "load_allocation",
    "rank_allocation_callbacks",
    "save_allocation",
    "whole_matrices",
]

logger = logging.get_logger(__name__)


class AllocateRanks(TrainerCallback):
    """
    AdaLoRA: after every optimizer step, weigh the singular values and set those beyond the budget to zero.

    PEFT has the method and leaves the call to the training loop. Here it comes once per optimizer step, whatever the
    accumulation, after the gradients were averaged over ranks and clipped and before they are cleared, with the number
    of the step counted from 1. So `tinit` steps have the full budget, and the last allocation is at step
    `total_step - tfinal`. A step that a gradient scaler skips weighs nothing.

    [`TransferTrainer`] adds this by itself where the model trains an AdaLoRA adapter, and keeps the moving averages
    and the allocated ranks in `rank_allocation.safetensors` of each checkpoint.

    The matrices are saved whole, with zeros among the singular values. PEFT would cut them down to the allocated
    ranks, from which no run can be resumed: what is masked may come back before the last allocation.

    Raises:
        ValueError: when training begins if the model trains no AdaLoRA adapter, its schedule leaves no step to
            allocate or nothing to take away, or the weights are partitioned (FSDP, DeepSpeed, tensor parallelism); at
            a step in which an adapter had no gradient; in a stock `Trainer` on resume.

    Relations:
        An adapter that PEFT has cut down is trained further at the ranks it has.

    Example:
        >>> callback = AllocateRanks()  # Trainer(model, args, callbacks=[callback])

    Paper: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023, https://huggingface.co/papers/2303.10512
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the schedule the length of the run, and refuse one that would never allocate."""
        model = kwargs["model"]
        refuse_partitioned(args, model, "AdaLoRA", fsdp2=False)
        allocator = _allocator(model)
        if allocator is None:
            raise ValueError(
                f"AllocateRanks for {type(model).__name__}, which trains no AdaLoRA adapter: there are no ranks to "
                'allocate. Put one in with add_adapter(model, "adalora"), or leave the callback out.'
            )
        if _is_cut_down(allocator):
            logger.info("AdaLoRA: the adapter was cut down to its ranks by an earlier run, and keeps them.")
            return
        if allocator.peft_config.total_step == STEPS_OF_THE_RUN:
            allocator.set_total_step(state.max_steps)
        _check_schedule(allocator.peft_config, state.max_steps)
        if not state.global_step:
            allocator.reset_ipt()
            allocator.allocated = None
        elif not allocator.exp_avg_ipt and _allocated(allocator) is None:
            raise ValueError(
                f"The run goes on from step {state.global_step} without what AdaLoRA knew of its singular values - "
                f"only TransferTrainer writes {ALLOCATION_NAME} and reads it back, and others would be masked now - "
                "resume with TransferTrainer from a checkpoint of its own, or start a new run."
            )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Weigh and mask; the step is not counted yet, and the gradients are still there."""
        model = kwargs["model"]
        allocator = _allocator(model)
        if _is_cut_down(allocator) or getattr(kwargs.get("optimizer"), "step_was_skipped", False):
            return
        config = allocator.peft_config
        step, last = state.global_step + 1, config.total_step - config.tfinal
        if step < last:
            _check_gradients(model, allocator)
        elif allocator.exp_avg_ipt:
            step = last  # the scaler may have skipped the last allocation, which drops the averages
        # Kept out of the configuration, where PEFT (0.21) takes it for the shape of what it saves and loads.
        config.rank_pattern = _allocated(allocator)
        try:
            model.base_model.update_and_allocate(step)
        finally:
            allocator.allocated, config.rank_pattern = config.rank_pattern, None


def rank_allocation_callbacks(model: nn.Module | None, callbacks: Iterable[object]) -> list[AllocateRanks]:
    """The callback that a model with an AdaLoRA adapter needs, as a list: empty if it needs none, or has it."""
    present = any(isinstance(callback, AllocateRanks) for callback in callbacks)
    return [] if present or _allocator(model) is None else [AllocateRanks()]


def save_allocation(model: Any, folder: Path) -> None:
    """Write what AdaLoRA knows into a checkpoint folder; nothing for other models. Atomic."""
    allocator = _allocator(model)
    if allocator is None or _is_cut_down(allocator):
        return
    state = {f"allocated.{name}": torch.tensor(kept) for name, kept in (_allocated(allocator) or {}).items()}
    for kind in ("exp_avg_ipt", "exp_avg_unc"):
        averages: dict[str, Tensor] = getattr(allocator, kind)
        state.update((f"{kind}.{name}", tensor.detach().cpu().contiguous()) for name, tensor in averages.items())
    with whole_file(folder / ALLOCATION_NAME) as unfinished:
        save_file(state, unfinished)


def load_allocation(model: Any, folder: Path) -> None:
    """
    Restore what `save_allocation` wrote; nothing for other models.

    Raises:
        ValueError: if the folder lacks the file, or it is of another adapter.
    """
    allocator = _allocator(model)
    if allocator is None or _is_cut_down(allocator):
        return
    path = folder / ALLOCATION_NAME
    if not path.is_file():
        raise ValueError(
            f"The checkpoint {folder} has no {ALLOCATION_NAME}: AdaLoRA would forget in the middle of a run which "
            "singular values count. Resume from a checkpoint that TransferTrainer wrote with this adapter."
        )
    parameters = dict(model.base_model.model.named_parameters())
    stored: dict[str, dict[str, Tensor]] = {"allocated": {}, "exp_avg_ipt": {}, "exp_avg_unc": {}}
    for key, tensor in load_file(path).items():
        kind, _, name = key.partition(".")
        stored[kind][name] = tensor
    sizes = {name: {"allocated": parameter.shape[:1]} for name, parameter in parameters.items()}
    foreign = sorted(
        name
        for kind, tensors in stored.items()
        for name, tensor in tensors.items()
        if name not in parameters or tensor.shape != sizes[name].get(kind, parameters[name].shape)
    )
    if foreign:
        raise ValueError(
            f"{path} does not fit the adapter of this run; they differ in {', '.join(foreign[:3])}. The ranks of "
            "other layers would be taken for its own. Put in the adapter with the options of the first run."
        )
    for kind in ("exp_avg_ipt", "exp_avg_unc"):
        setattr(allocator, kind, {name: x.to(parameters[name].device) for name, x in stored[kind].items()})
    # what PEFT (0.21) looks for before it begins a new average
    allocator.ipt = {name: torch.zeros_like(tensor) for name, tensor in allocator.exp_avg_ipt.items()}
    allocator.allocated = {name: kept.tolist() for name, kept in stored["allocated"].items()} or None


@contextmanager
def whole_matrices(model: Any) -> Iterator[None]:
    """Let PEFT load into matrices as they are, also those that it has cut down before; nothing for other models."""
    allocator = _allocator(model)
    if allocator is None:
        yield
        return
    pattern, allocator.peft_config.rank_pattern = allocator.peft_config.rank_pattern, None
    try:
        yield
    finally:
        allocator.peft_config.rank_pattern = pattern


def _allocator(model: Any) -> Any:
    """PEFT's `RankAllocator` of the model, if its active adapter is a trainable AdaLoRA."""
    # told by attribute: `peft` is no dependency
    allocator = getattr(getattr(model, "base_model", None), "rankallocator", None)
    return allocator if allocator is not None and allocator.adapter_name in model.active_adapters else None


def _allocated(allocator: Any) -> dict[str, list[bool]] | None:
    """Which singular values the last allocation kept, by parameter name."""
    return getattr(allocator, "allocated", None)


def _is_cut_down(allocator: Any) -> bool:
    # only a configuration that came with an adapter holds one, see `on_optimizer_step`
    return allocator.peft_config.rank_pattern is not None


def _check_schedule(config: Any, max_steps: int) -> None:
    last = config.total_step - config.tfinal
    if config.target_r >= config.init_r:
        raise ValueError(
            f"AdaLoRA with init_r={config.init_r} and target_r={config.target_r}: there is no rank to take away, and "
            "nothing would be allocated. Begin above the target, init_r=12 for target_r=8, or use plain LoRA."
        )
    if last < 2 or config.tinit >= last:
        raise ValueError(
            f"AdaLoRA with tinit={config.tinit}, tfinal={config.tfinal} and {config.total_step} steps leaves no step "
            "between warm-up and last stretch: the budget would never shrink. Make both shorter, such as a tenth and "
            "a third of the steps, or train longer."
        )
    if last > max_steps:
        logger.warning(
            f"AdaLoRA allocates until step {last} (total_step={config.total_step}, tfinal={config.tfinal}), but the "
            f"run ends at {max_steps}: the budget will not be reached. Leave `total_step` out to take that of the run."
        )


def _check_gradients(model: Any, allocator: Any) -> None:
    for name, parameter in model.base_model.model.named_parameters():
        if ".lora_" in name and allocator.adapter_name in name and parameter.grad is None:
            raise ValueError(
                f"`{name}` had no gradient in a step in which AdaLoRA weighs its singular values - a schedule froze "
                "it, or it took no part in the forward, and its rank would be judged by nothing - let the adapters "
                'train from the first phase on: GradualUnfreezing(first="adapters"), or train: [head, adapters].'
            )
