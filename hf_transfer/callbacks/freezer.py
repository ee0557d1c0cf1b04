"""`Freezer`: holds part of a model frozen, gradients, statistics and dropout alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_transfer.norms import has_statistics


class Freezer:
    """
    Holds part of a model frozen: no gradient, no stale gradient, and evaluation mode at every forward.

    It is itself the forward pre-hook of the model: the Trainer calls `model.train()` before every micro-batch, which
    would put frozen batch normalisation and dropout back to work. One hook walks a flat list of modules, which
    `torch.compile` traces and which costs less than a hook per module.

    Args:
        model (`nn.Module`):
            The model as trained, not its DDP wrapper.
        parameters (`Mapping[str, nn.Parameter]`):
            The parameters that a schedule rules, by name. All others are left alone.
        norm_only (`bool`, *optional*, defaults to `False`):
            Put only layers with running statistics to evaluation mode, and keep the dropout of frozen parts on.
        run (`object`, *optional*):
            Identifies the training run, so that two schedules in one run can be told from one left over by a crash.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        *,
        norm_only: bool = False,
        run: object = None,
    ):
        self.model = model
        self.parameters = dict(parameters)
        self.norm_only = norm_only
        self.run = run
        self.resting: list[nn.Module] = []
        self._before = [(parameter, parameter.requires_grad) for parameter in self.parameters.values()]
        self._hook = model.register_forward_pre_hook(self)

    def train_only(self, names: set[str]) -> None:
        """Let exactly these of the ruled parameters train."""
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in names)
            if name not in names:
                # An optimizer skips `None`, but applies momentum and weight decay to a stale or zero gradient.
                parameter.grad = None
        self._wake()
        ruled = {id(parameter) for parameter in self.parameters.values()}
        training = {id(self.parameters[name]) for name in names}
        self.resting = resting_modules(self.model, ruled=ruled, training=training, norm_only=self.norm_only)

    def release(self) -> None:
        """Leave the model as it was found."""
        self._hook.remove()
        for parameter, requires_grad in self._before:
            parameter.requires_grad_(requires_grad)
        self._wake()

    def _wake(self) -> None:
        for module in self.resting:
            module.training = self.model.training
        self.resting = []

    def __call__(self, model: nn.Module, args: Any) -> None:
        """Put what is frozen to evaluation mode, where the model is about to train."""
        if model.training:
            for module in self.resting:
                if module.training:
                    module.training = False


def resting_modules(
    model: nn.Module, *, ruled: set[int], training: set[int], norm_only: bool = False
) -> list[nn.Module]:
    """
    The modules that belong in evaluation mode while only part of a model trains.

    A module rests if a schedule rules parameters in it and none of them trains; one without ruled parameters (dropout,
    an activation, layers that PEFT froze) follows its parent. A layer with running statistics also rests whenever its
    own parameters are frozen, whoever froze them: statistics that move under a frozen layer change what it computes.

    Args:
        model (`nn.Module`): the model.
        ruled (`set[int]`): `id`s of the parameters that the schedule rules.
        training (`set[int]`): `id`s of those that train.
        norm_only (`bool`, *optional*, defaults to `False`): only layers with running statistics.
    """
    rests: dict[nn.Module, bool] = {}

    def visit(module: nn.Module, parent_rests: bool) -> None:
        inside = {id(parameter) for parameter in module.parameters()} & ruled
        follows = not inside & training if inside else parent_rests
        own = list(module.parameters(recurse=False))
        frozen_norm = has_statistics(module) and bool(own) and not any(parameter.requires_grad for parameter in own)
        # A module shared by two parents rests only if both do.
        rests[module] = (follows or frozen_norm) and rests.get(module, True)
        for child in module.children():
            visit(child, follows)

    visit(model, False)
    return [module for module, at_rest in rests.items() if at_rest and (has_statistics(module) or not norm_only)]


def release(model: nn.Module, *, run: object = None) -> None:
    """
    Undo the freezing that an interrupted run left on `model`; without one, do nothing.

    Args:
        model (`nn.Module`): the model.
        run (`object`, *optional*): the run that begins, whose own freezing is not left over.

    Raises:
        ValueError: if a schedule already rules the model in this very run.
    """
    for hook in list(model._forward_pre_hooks.values()):
        if isinstance(hook, Freezer):
            if run is not None and hook.run is run:
                raise ValueError(
                    "Two freezing callbacks rule the same model - each would undo what the other froze - pass one of "
                    "them, or write both plans as the phases of one `UnfreezingSchedule`."
                )
            hook.release()
