"""`FreezeBatchNorm`: fine-tune with the pretrained statistics of batch normalisation."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.norms import has_statistics


class FreezeBatchNorm(TrainerCallback):
    r"""
    Keep the running statistics of batch normalisation as they were pretrained, and normalise by them while training.

    A BatchNorm layer in training mode normalises by the mean and variance of its batch and moves its running
    statistics towards them. With a hundred images both are noisy, and what is evaluated is not what was trained. In
    evaluation mode, as here, the layer is the same affine map in training and evaluation; its scale and shift still
    train.

    Degenerate batches:
        One row is enough: nothing is estimated from the batch.

    Raises:
        ValueError: when the trainer is built or training begins, if the model has no layer with running statistics.

    Relations:
        [`FreezeBackbone`] does this to every layer it freezes. [`StochNorm`] mixes both statistics instead. For a
        large batch from a domain far from the pretrained one, moving statistics can be the better choice.

    Example:
        >>> from transformers import ResNetConfig, ResNetForImageClassification
        >>> model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
        >>> len(norms_of(model))
        4
    """

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Refuse a model that has no such layers before anything is read, and free it of what a crashed run left."""
        if model is not None:
            release(model)
            norms_of(model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Keep the layers in evaluation mode: the Trainer calls `model.train()` before every micro-batch."""
        release(model)
        resting = _AtRest(norms_of(model))
        resting.hook = model.register_forward_pre_hook(resting)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Leave the model as it was found."""
        release(model)

    def __str__(self) -> str:
        return type(self).__name__


class _AtRest:
    """A forward pre-hook that puts modules to evaluation mode where the model is about to train."""

    hook: Any

    def __init__(self, norms: list[nn.Module]):
        self.norms = norms

    def __call__(self, model: nn.Module, args: Any) -> None:
        for norm in self.norms:
            norm.training = False


def release(model: nn.Module) -> None:
    """Let the statistics of a model move again, also after a run that crashed; without any at rest, do nothing."""
    for resting in list(model._forward_pre_hooks.values()):
        if isinstance(resting, _AtRest):
            resting.hook.remove()
            for norm in resting.norms:
                norm.training = model.training


def norms_of(model: nn.Module) -> list[nn.Module]:
    """
    The layers of a model that keep running statistics.

    Raises:
        ValueError: if there are none.
    """
    norms = [module for module in model.modules() if has_statistics(module)]
    if not norms:
        raise ValueError(
            f"{type(model).__name__} has no layer with running statistics: its normalisation does not depend on the "
            "batch and there is nothing to keep still. Leave `FreezeBatchNorm` out."
        )
    return norms
