"""`lr_find`: a learning-rate range test on a copy of what a trainer would train."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_transfer.attach import CHILD
from hf_transfer.callbacks.freezer import Freezer, release
from hf_transfer.callbacks.selection import select_parameters
from hf_transfer.callbacks.unfreezing import UnfreezingSchedule
from hf_transfer.data.sampling import SetSamplerEpoch
from hf_transfer.lr_curve import LRFinderResult
from hf_transfer.lr_schedules import own_rates
from hf_transfer.random_state import random_numbers_put_back


__all__ = ["LRFinderResult", "lr_find"]


def lr_find(
    trainer: Trainer,
    *,
    start: float = 1e-7,
    end: float = 1.0,
    steps: int = 100,
    smoothing: float = 0.05,
    diverge: float = 4.0,
) -> LRFinderResult:
    r"""
    Learning-rate range test: train a copy of the model at rates that grow from step to step, and see where it learns.

    Step $i$ of $n$ runs at $\eta_i = \text{start} \cdot (\text{end} / \text{start})^{i / (n - 1)}$. The swept rate
    stands for `learning_rate`: a group with another rate (`head_lr`, `layer_decay`, `learning_rates`) keeps its ratio
    to it. Everything else is as `trainer.train()` would do it: batches, accumulation, clipping, precision, ranks,
    objectives at the beginning of their schedules, and the first phase of a freezing schedule of this package.

    The trainer is left as it was, bit for bit: the test runs on deep copies of model, objectives and optimizer, and
    the random numbers of Python, NumPy and torch (CPU and CUDA) are put back. So a run after it is the run without it.

    Args:
        trainer (`Trainer`):
            A `TransferTrainer` or a stock `Trainer`, with its training data.
        start (`float`, *optional*, defaults to 1e-7):
            First rate.
        end (`float`, *optional*, defaults to 1.0):
            Last rate, unless the loss diverges before.
        steps (`int`, *optional*, defaults to 100):
            Optimizer steps; where the data has fewer batches they are gone through again.
        smoothing (`float`, *optional*, defaults to 0.05):
            Width of the smoothing of the losses, as a share of `steps` (dimensionless); 0 for none.
        diverge (`float`, *optional*, defaults to 4.0):
            Stop when the running loss exceeds its best by this factor (dimensionless), or is not finite.

    Returns:
        [`LRFinderResult`]: the curve, a suggestion and `plot(path)`.

    Deviations from the paper:
        The rate grows geometrically, not linearly, to cover seven decades; the suggestion is read off the loss,
        not the accuracy.

    Raises:
        ValueError: if the range, `steps`, `smoothing` or `diverge` make no sense, there is no training data, the rate
            of the trainer is zero, or it runs under FSDP or DeepSpeed, or a hook of the model cannot be copied.

    Relations:
        Costs `steps` steps and a second copy of the model on the device. For very small data [`search`] on the
        validation metric is the better judge: a rate that learns fast need not generalise.

        Callbacks take no part, but for the freezing schedules. A data set that can be read only once is used up, and
        what an objective or trainer of your own keeps outside the model is its own affair.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> rows = [{"input_ids": [i, 3, i], "labels": i % 2} for i in range(8)]
        >>> args = TrainingArguments("out", use_cpu=True, report_to="none", dataloader_pin_memory=False)
        >>> trainer = Trainer(BertForSequenceClassification(config), args, train_dataset=rows)
        >>> result = lr_find(trainer, start=1e-6, end=1e-2, steps=5)
        >>> [f"{rate:.0e}" for rate in result.rates]
        ['1e-06', '1e-05', '1e-04', '1e-03', '1e-02']

    Paper: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, https://huggingface.co/papers/1506.01186
    """
    _check(trainer, start, end, steps, smoothing, diverge)
    rates = [start * (end / start) ** (step / (steps - 1)) for step in range(steps)]
    with random_numbers_put_back(), _gradient_state_put_back(trainer):
        shadow = _shadow(trainer, steps)
        sweep = _Sweep(rates, width=smoothing * steps, diverge=diverge)
        shadow.create_scheduler = partial(_sweeping, shadow, sweep)  # type: ignore[method-assign]
        shadow.training_step = partial(_noting, shadow.training_step, sweep)  # type: ignore[method-assign]
        callbacks = trainer.callback_handler.callbacks
        order = [callback for callback in callbacks if isinstance(callback, SetSamplerEpoch)]
        freezing = [_AsAtStart(callback) for callback in callbacks if isinstance(callback, UnfreezingSchedule)]
        shadow.callback_handler = CallbackHandler(
            [DefaultFlowCallback(), *order, *freezing, sweep], shadow.model, None, None, None
        )
        sweep.mean = partial(shadow.accelerator.reduce, reduction="mean")
        try:
            shadow.train()
        finally:
            # it holds itself in its methods, and with it the copied model
            vars(shadow).clear()
            clear_device_cache(garbage_collection=True)
    return LRFinderResult(
        rates=tuple(rates[: len(sweep.losses)]),
        losses=tuple(sweep.losses),
        base=sweep.base,
        diverged=sweep.diverged,
        width=smoothing * steps,
        ceiling=diverge,
    )


def _check(trainer: Trainer, start: float, end: float, steps: int, smoothing: float, diverge: float) -> None:
    if not 0 < start < end or not math.isfinite(end):
        raise ValueError(
            f"`start={start}` and `end={end}` are no range of rates: nothing would be swept. Give 0 < start < end, "
            "such as 1e-7 and 1.0."
        )
    if steps < 2:
        raise ValueError(f"`steps={steps}` makes no curve: a range has two ends. Give at least 2; 100 shows a shape.")
    if not 0 <= smoothing < 1:
        raise ValueError(
            f"`smoothing={smoothing}` is outside [0, 1): it is a share of the sweep, and all of it leaves no curve. "
            "Give a share such as 0.05, or 0 for none."
        )
    if not diverge > 1:
        raise ValueError(
            f"`diverge={diverge}` is not above 1: the sweep would stop where the loss is best. Give a factor such as "
            "4.0, or `math.inf` to go on to the end."
        )
    if trainer.train_dataset is None:
        raise ValueError(
            "The trainer has no training data: there is no loss to measure. Pass `train_dataset` to the trainer."
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            f"The trainer runs under {'FSDP' if trainer.is_fsdp_enabled else 'DeepSpeed'}: its model cannot be copied "
            "once it is sharded, and a test on the original would change it. Run `lr_find` on one device or under "
            "DDP, and take the rate it suggests."
        )


# --- the copy


def _shadow(trainer: Trainer, steps: int) -> Any:
    """A trainer like this one, with copies of all that training changes."""
    model = cast(nn.Module, trainer.model)
    release(model)  # what a crashed run left frozen, as the next `train()` would
    # one memo for both, so that the copied optimizer holds the copied parameters
    memo: dict[int, Any] = {}
    shadow: Any = copy.copy(trainer)
    shadow.model = shadow.model_wrapped = copy.deepcopy(model, memo)
    _refuse_strays(model, shadow.model)
    # with `model_init` a run makes a new optimizer, and a new model for the same seed
    held = None if trainer.model_init is not None else trainer.optimizer
    shadow.optimizer = None if held is None else copy.deepcopy(getattr(held, "optimizer", held), memo)
    shadow.lr_scheduler, shadow.model_init = None, None
    objectives = getattr(shadow.model, CHILD, None)
    if objectives is not None:
        objectives.attachment.progress = 0.0
        if hasattr(shadow, "attachment"):  # a `TransferTrainer`; importing it here would be a circle
            shadow.attachment = objectives.attachment

    shadow.args = args = copy.copy(trainer.args)
    args.max_steps = steps
    args.auto_find_batch_size = args.eval_on_start = args.load_best_model_at_end = args.push_to_hub = False
    args.eval_strategy = args.logging_strategy = IntervalStrategy.NO
    args.save_strategy = SaveStrategy.NO
    shadow.state, shadow.control = TrainerState(), TrainerControl()
    shadow.create_accelerator_and_postprocess()
    return shadow


def _refuse_strays(model: nn.Module, twin: nn.Module) -> None:
    """Methods are copied with the object they are bound to; a function that closes over the model is not."""
    originals = {id(module) for module in model.modules()}
    originals |= {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for name, module in twin.named_modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        hooks += [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]
        hooks += [value for value in vars(module).values() if isinstance(value, (FunctionType, MethodType))]
        for hook in hooks:
            if originals & set(_seen_by(hook)):
                raise ValueError(
                    f"The function `{getattr(hook, '__qualname__', hook)}` on module `{name or 'model'}` refers to "
                    "the model itself: on a copy it would still act on the original, which the test must not touch. "
                    "Make it a method of an object that holds the model, or take it off and put it back after "
                    "`lr_find`."
                )


def _seen_by(hook: Any) -> Iterator[int]:
    function = getattr(hook, "__func__", hook)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield id(getattr(cell.cell_contents, "__self__", cell.cell_contents))
        except ValueError:  # not yet filled
            continue
    yield id(getattr(hook, "__self__", None))


class _AsAtStart(TrainerCallback):
    """Freezes what a schedule has frozen at the first step, for all of the sweep."""

    def __init__(self, schedule: UnfreezingSchedule):
        self.schedule = schedule

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        parts = self.schedule.parts(model)
        first = self.schedule.plan(parts)[0]
        parameters = dict(model.named_parameters())
        ruled = {
            name: parameters[name] for names in parts.values() for name in names if parameters[name].requires_grad
        }
        train = select_parameters(parts, first.train, without=first.freeze) & ruled.keys()
        Freezer(model, ruled, norm_only=self.schedule.norm_only).train_only(train)


# --- the sweep


class _Sweep(TrainerCallback):
    """Notes the loss of every step, and stops when it diverges."""

    def __init__(self, rates: Sequence[float], *, width: float, diverge: float):
        self.rates = rates
        self.keep = width / (1 + width)  # weight of the past in the running mean, as old as the smoothing is wide
        self.diverge = diverge
        self.base = math.nan
        self.losses: list[float] = []
        self.parts: list[Tensor] = []
        self.diverged = False
        self.mean: Callable[[Tensor], Any] = torch.mean
        self._running, self._best = 0.0, math.inf

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # the same on every rank: all stop together
        loss = self.mean(torch.stack(self.parts).sum()).item()
        self.parts = []
        if math.isfinite(loss):
            self.losses.append(loss)
            self._running = self.keep * self._running + (1 - self.keep) * loss
            mean = self._running / (1 - self.keep ** len(self.losses))
            self._best = min(self._best, mean)
            self.diverged = mean > self._best + (self.diverge - 1) * abs(self._best)
        else:
            self.diverged = True
        if self.diverged:
            control.should_training_stop = True


def _noting(training_step: Callable[..., Tensor], sweep: _Sweep, *args: Any, **kwargs: Any) -> Tensor:
    loss = training_step(*args, **kwargs)
    sweep.parts.append(loss.detach().float())
    return loss


def _sweeping(shadow: Any, sweep: _Sweep, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
    """In place of `Trainer.create_scheduler`: every group at its ratio to the swept rate."""
    optimizer = cast(Optimizer, shadow.optimizer if optimizer is None else optimizer)
    sweep.base = float(optimizer.defaults.get("lr") or shadow.args.learning_rate)
    if sweep.base <= 0:
        raise ValueError(
            f"`learning_rate={sweep.base}`: the groups have no ratio to it that could be kept. Set any positive rate; "
            "only the ratio of the other rates to it matters."
        )
    for group, rate in zip(optimizer.param_groups, own_rates(optimizer), strict=True):
        group["initial_lr"] = rate
    # steps that a gradient scaler skips do not advance it, and are measured at the same rate again
    shadow.lr_scheduler = LambdaLR(optimizer, lambda step: sweep.rates[min(step, len(sweep.rates) - 1)] / sweep.base)
    return shadow.lr_scheduler


# --- what is put back


@contextmanager
def _gradient_state_put_back(trainer: Trainer) -> Iterator[None]:
    # one object for all accelerators of the process; a loop that stops early leaves its loader in it
    state = trainer.accelerator.gradient_state
    loaders, syncs = state.dataloader_references, state.sync_gradients
    try:
        yield
    finally:
        state.dataloader_references = loaders
        state._set_sync_gradients(syncs)
