"""`StochNorm`: batch normalisation that takes the moving statistics in some channels while it trains."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from hf_transfer.callbacks.overrides import Override, put_on, release
from hf_transfer.callbacks.refusals import refuse_compiled, refuse_partitioned, refuse_unrepeatable, saved_state
from hf_transfer.functional.random_masks import bernoulli_mask, draw_seed
from hf_transfer.functional.stochastic_normalization import select_by_channel


logger = logging.get_logger(__name__)


class StochasticLayer(Override):
    """
    A batch normalisation that takes the moving statistics in channels drawn at each call while it trains.

    Args:
        layer (`_BatchNorm`): a layer with running statistics, of any kind: whatever else its class does (an
            activation, the synchronisation of ranks), its own forward does it.
        probability, momentum: see [`StochNorm`].
        rank (`int`, *optional*, defaults to 0): index of the process: each draws channels of its own.
    """

    module: _BatchNorm

    def __init__(self, layer: _BatchNorm, *, probability: float, momentum: float | None = None, rank: int = 0):
        super().__init__(layer)
        self.probability, self.momentum, self.rank = probability, momentum, rank
        self._seen: dict[int, dict[str, Tensor]] = {}

    def compute(self, values: Tensor) -> Tensor:
        """The layer's own forward, once with either statistics, and a choice between them by channel."""
        if not self.module.training or not _has_statistics(self.module):
            return self.inner(values)
        # In the recomputation of activation checkpointing the draw comes again, but the statistics have moved on: they
        # are taken from the forward, and not moved a second time.
        draw = draw_seed(self.rank)
        again = draw in self._seen
        before = self._seen.setdefault(draw, self._statistics())
        by_moving = bernoulli_mask(before["running_mean"].shape, self.probability, seed=draw, device=values.device)
        # With copies of the statistics: the backward reads them after the originals have moved.
        with self._in_place(before):
            self.module.training = False
            try:
                moving = self.inner(values)
            finally:
                self.module.training = True
        if again:
            with self._in_place({name: buffer.clone() for name, buffer in before.items()}):
                batch = self.inner(values)
        else:
            batch = self._with_momentum(values)
        return select_by_channel(by_moving, moving, batch)

    def _with_momentum(self, values: Tensor) -> Tensor:
        if self.momentum is None:
            return self.inner(values)
        own, self.module.momentum = self.module.momentum, self.momentum
        try:
            return self.inner(values)
        finally:
            self.module.momentum = own

    def _statistics(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.module._buffers.items() if buffer is not None}

    @contextmanager
    def _in_place(self, buffers: dict[str, Tensor]) -> Iterator[None]:
        own = dict(self.module._buffers)
        self.module._buffers.update(buffers)
        try:
            yield
        finally:
            self.module._buffers.update(own)

    def forget(self) -> None:
        """Forget the statistics of the last micro-batch, whose backward is done."""
        self._seen.clear()


def _has_statistics(layer: _BatchNorm) -> bool:
    return layer.track_running_stats and layer.running_mean is not None


class StochNorm(TrainerCallback, ExportableState):
    r"""
    Stochastic normalisation (StochNorm): in training, normalise each channel by chance with the moving statistics.

    With moving statistics $\tilde\mu, \tilde\sigma^2$ before the batch, those of the batch $\mu, \sigma^2$ and
    $s_c \sim \operatorname{Bernoulli}(p)$ drawn for each channel at each call, a batch normalisation computes

    $$ y = \gamma \Bigl( s \frac{x - \tilde\mu}{\sqrt{\tilde\sigma^2 + \epsilon}}
       + (1 - s) \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \Bigr) + \beta $$

    so that a network fine-tuned on little data leans on the pretrained statistics too. The moving statistics go on
    being updated; in evaluation nothing changes; layers in evaluation mode, such as those that [`FreezeBackbone`]
    freezes, are left alone. All kinds of `nn.BatchNorm` and `nn.SyncBatchNorm`, and their subclasses.

    Args:
        probability (`float`, *optional*, defaults to 0.5):
            $p$ in [0, 1], the probability of the moving statistics (dimensionless); 0.5 in the paper. 0 is plain batch
            normalisation.
        momentum (`float`, *optional*):
            Share of the batch in the moving statistics while this callback is on, in (0, 1]; by default each layer's
            own. MobileNetV1 of `transformers` has 0.9997, so that its moving statistics are those of the last batch:
            give it 0.1 or less.

    Deviations from the paper:
        The authors' code calls $p$ the probability of the batch's statistics; at 0.5 there is no difference.

    Raises:
        ValueError: at construction if a number is out of range; when the Trainer is built if the model has no batch
            normalisation with running statistics, or under `torch.compile`, DeepSpeed, FSDP1, `nn.DataParallel` or
            tensor parallelism; when training begins on a resume from a checkpoint written without it.

    Relations:
        [`FreezeBackbone`] and `norm_only` schedules keep the pretrained statistics as they are, the limit of p = 1
        without updates. Under PEFT the moving statistics are not in the adapter's file: this callback keeps them in
        `trainer_state.json`, so that a run resumes exactly, but save the merged model for use elsewhere.

    Example:
        >>> StochNorm(0.3, momentum=0.1)
        StochNorm(probability=0.3, momentum=0.1)

    Paper: Kou et al., "Stochastic Normalization", NeurIPS 2020, https://papers.nips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html
    """

    def __init__(self, probability: float = 0.5, *, momentum: float | None = None):
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability={probability}` is outside [0, 1]: it is the chance of a channel to be normalised by "
                "the moving statistics. Give a number such as the paper's 0.5."
            )
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(
                f"`momentum={momentum}` is outside (0, 1]: it is the share of the batch in the moving statistics. "
                "Give a number such as 0.1, or leave it out for each layer's own."
            )
        self.probability, self.momentum = probability, momentum
        self.statistics: str | None = None
        """The moving statistics in a checkpoint of adapters, which do not hold them."""
        self._layers: list[StochasticLayer] = []
        self._adapters = False

    def __repr__(self) -> str:
        momentum = "" if self.momentum is None else f", momentum={self.momentum}"
        return f"{type(self).__name__}(probability={self.probability}{momentum})"

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into `trainer_state.json`."""
        if self._adapters and self._layers:
            statistics = {name: buffer.detach().cpu() for name, buffer in self._buffers().items()}
            self.statistics = b64encode(save(statistics)).decode("ascii")
        options = {"probability": self.probability, "momentum": self.momentum}
        return {"args": options, "attributes": {"statistics": self.statistics}}

    def _buffers(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": buffer
            for number, layer in enumerate(self._layers)
            for name, buffer in layer.module._buffers.items()
            if buffer is not None
        }

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what cannot work before any data is read."""
        if kwargs["model"] is not None:
            release(kwargs["model"])
            self._norms(args, kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the layers in the model as it is trained."""
        model = kwargs["model"]
        release(model)
        norms = self._norms(args, model)
        refuse_unrepeatable(model, type(self).__name__)
        options: Any = {"probability": self.probability, "momentum": self.momentum, "rank": args.process_index}
        self._layers = [StochasticLayer(norm, **options) for norm in norms]
        self._adapters = hasattr(model, "peft_config")
        if state.global_step:
            saved = saved_state(state, self, what="its layers were trained with the statistics of each batch")
            if saved["statistics"] is not None:
                self._restore(saved["statistics"])
        highest = max(norm.momentum or 0.0 for norm in norms)
        if highest > 0.5 and self.momentum is None and state.is_world_process_zero:
            logger.warning(
                f"Batch normalisation with a momentum of {highest}: the moving statistics are those of the last batch "
                "and the pretrained ones are gone after one step. Pass StochNorm(momentum=0.1) or less."
            )

    def _restore(self, statistics: str) -> None:
        saved = load(b64decode(statistics))
        with torch.no_grad():
            for name, buffer in self._buffers().items():
                buffer.copy_(saved[name])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Act from here to the last backward of the optimizer step."""
        if self.probability or self.momentum is not None:
            put_on(self._layers)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what a recomputation would have needed."""
        for layer in self._layers:
            layer.forget()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the layers as they are without it."""
        for layer in self._layers:
            layer.forget()
            layer.take_off()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave nothing on the model."""
        self.on_pre_optimizer_step(args, state, control)
        self._layers = []

    def _norms(self, args: TrainingArguments, model: nn.Module) -> list[_BatchNorm]:
        refuse_compiled(args, model, type(self).__name__)
        refuse_partitioned(args, model, type(self).__name__, fsdp2=True)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and _has_statistics(module)]
        if not norms:
            raise ValueError(
                f"{type(model).__name__} has no batch normalisation with running statistics: StochNorm would change "
                "nothing. Drop it, or take it for a model such as ResNet or MobileNet; for a transformer use "
                "`Mixout` or `L2SP`."
            )
        return norms
