"""`AdaptBatchNorm`: evaluate and end a run with the batch normalisation statistics of the target domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.adaptation.batch_norm import adapt_batch_norm, adaptable_norms
from hf_transfer.adaptation.target_data import Collator
from hf_transfer.callbacks.refusals import refuse_partitioned


__all__ = ["AdaptBatchNorm", "release"]


class AdaptBatchNorm(TrainerCallback):
    r"""
    Adaptive batch normalisation (AdaBN): end a run with the BatchNorm statistics of the target domain.

    In training mode a BatchNorm layer normalises by its batch, which in a mixed batch holds both domains; the running
    statistics for evaluation are a moving average of these. At the end of the run they are replaced by mean and
    variance over target rows, as [`adapt_batch_norm`] computes them; with `evaluations` during evaluations too.

    Args:
        data (`datasets.Dataset`, `torch.utils.data.Dataset`, `DataLoader` or iterable of batches):
            Rows or collated batches of the target domain, not shared out to ranks. Labels in them are not looked at.
        collator (`Callable`, *optional*):
            Makes a batch of rows; by default `default_data_collator`, or that of a loader.
        batch_size (`int`, *optional*, defaults to 32):
            Rows of a batch.
        max_batches (`int`, *optional*):
            Read at most as many batches each time; by default all.
        evaluations (`bool`, *optional*, defaults to `False`):
            Whether the statistics are also adapted for each evaluation of the run. Training and checkpoints keep the
            moving ones, so that a resumed run continues exactly.

    Degenerate batches:
        See [`adapt_batch_norm`]: one row is enough.

    Deviations from the paper:
        See [`adapt_batch_norm`].

    Raises:
        TypeError: if `data` can be read only once.
        ValueError: when the trainer is built, if the model has no BatchNorm with running statistics, or under FSDP,
            DeepSpeed, `nn.DataParallel` or tensor parallelism.

    Relations:
        Ranks share the batches and end with the same statistics. With `load_best_model_at_end` the best model is
        adapted: choose it with `evaluations=True`. [`FreezeBatchNorm`] keeps the pretrained statistics while training,
        and goes with this one. For more than one target adapt a copy of the model to each with [`adapt_batch_norm`].
        Adapter checkpoints of PEFT do not hold running statistics: save the merged model.

    Example:
        >>> AdaptBatchNorm([{"pixel_values": torch.randn(4, 3, 16, 16)}], evaluations=True)
        AdaptBatchNorm(evaluations=True)

    Paper: Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016, https://huggingface.co/papers/1603.04779
    """

    def __init__(
        self,
        data: Any,
        *,
        collator: Collator | None = None,
        batch_size: int = 32,
        max_batches: int | None = None,
        evaluations: bool = False,
    ):
        if isinstance(data, Iterator):
            raise TypeError(
                f"AdaptBatchNorm got a {type(data).__name__}, which can be read once: it would be used up when the "
                "statistics are adapted again. Give a data set, a `DataLoader`, or a list of batches."
            )
        self.data = data
        self.options: dict[str, Any] = {"collator": collator, "batch_size": batch_size, "max_batches": max_batches}
        self.evaluations = evaluations

    def __repr__(self) -> str:
        return f"{type(self).__name__}(evaluations={self.evaluations})"

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Refuse a model that has no such layers, before anything is read."""
        if model is not None:
            release(model)
            refuse_partitioned(args, model, type(self).__name__, fsdp2=False)
            adaptable_norms(model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Check the model as it is trained, and free it of what a crashed run left."""
        self.on_init_end(args, state, control, model=model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Adapt for an evaluation that comes now; the Trainer's own callback has decided."""
        if self.evaluations and control.should_evaluate:
            self._show(model)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """The same at the end of an epoch."""
        self.on_step_end(args, state, control, model=model)

    def _show(self, model: nn.Module) -> None:
        release(model)
        shown = _Shown(adaptable_norms(model))
        adapt_batch_norm(model, self.data, share_ranks=True, **self.options)
        shown.exchange()  # training statistics back in their place, adapted ones at hand
        shown.hook = model.register_forward_pre_hook(shown)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """The moving statistics for the checkpoint that may follow; another evaluation shows the adapted ones."""
        for shown in _on(model):
            shown.show(adapted=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Leave the adapted statistics of the final model in it."""
        release(model)
        adapt_batch_norm(model, self.data, share_ranks=True, **self.options)


class _Shown:
    """A forward pre-hook that puts adapted statistics into evaluations, and the moving ones into training."""

    hook: Any

    def __init__(self, norms: list[Any]):
        self.buffers: list[Tensor] = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        # Until the first exchange: those in the model are being adapted, these are what it was trained with.
        self.others = [buffer.clone() for buffer in self.buffers]
        self.adapted = True

    def __call__(self, model: nn.Module, args: Any) -> None:
        self.show(adapted=not model.training)

    def show(self, *, adapted: bool) -> None:
        if self.adapted != adapted:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        # By value: DDP and compiled graphs hold on to the buffers.
        for position, buffer in enumerate(self.buffers):
            other = self.others[position]
            self.others[position] = buffer.clone()
            buffer.copy_(other)
        self.adapted = not self.adapted


def _on(model: nn.Module) -> list[_Shown]:
    return [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, _Shown)]


def release(model: nn.Module) -> None:
    """Give a model its moving statistics back, also after a run that crashed; otherwise do nothing."""
    for shown in _on(model):
        shown.show(adapted=False)
        shown.hook.remove()
