"""`Mixout`: weights that are put back to their pretrained values at random while they train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.pytorch_utils import Conv1D
from transformers.trainer_callback import ExportableState

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks.overrides import Override, put_on, release
from hf_transfer.callbacks.refusals import (
    is_checkpointed,
    refuse_compiled,
    refuse_partitioned,
    refuse_unrepeatable,
    saved_state,
)
from hf_transfer.callbacks.selection import select_parameters
from hf_transfer.functional.fingerprint import fingerprint
from hf_transfer.functional.mixout import mixout, rebuilt_for_backward
from hf_transfer.functional.random_masks import bernoulli_mask, draw_seed
from hf_transfer.functional.starting_point import compact


_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    Conv1D,  # GPT-2's linear layer
)

# Where the Trainer restores callbacks from a checkpoint it makes new ones, after the weights were loaded: the new one
# finds here what the one it replaces remembered of the model.
_STARTS: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


class MixedLayer(Override):
    """
    A layer that computes with mixed weights while it trains.

    Args:
        layer (`nn.Module`): a linear or convolution layer.
        start (`Tensor`): the weight it started from.
        probability (`float`): see [`Mixout`].
        rank (`int`, *optional*, defaults to 0): index of the process: each draws masks of its own.
        rebuild (`bool`, *optional*, defaults to `True`): keep no mixed weight for the backward. Inside activation
            checkpointing this would keep the layer's input instead.
    """

    def __init__(self, layer: nn.Module, start: Tensor, *, probability: float, rank: int = 0, rebuild: bool = True):
        super().__init__(layer)
        self.start, self.probability, self.rank, self.rebuild = start, probability, rank, rebuild

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own forward, with a mixed weight if the layer trains."""
        weight: Any = self.module._parameters["weight"]
        if not (self.module.training and weight.requires_grad and self.probability):
            return self.inner(*args, **kwargs)
        seed = draw_seed(self.rank)
        kept = bernoulli_mask(weight.shape, 1 - self.probability, seed=seed, device=weight.device)
        recipe = {"weight": weight, "start": self.start, "kept": kept, "probability": self.probability}
        mixed = mixout(**recipe, dtype=_compute_dtype(weight))
        rebuilt = rebuilt_for_backward(mixed, **recipe) if self.rebuild else nullcontext()
        # Beside the parameter, which stays where it is: Python finds an attribute of the instance first.
        vars(self.module)["weight"] = mixed
        try:
            with rebuilt:
                return self.inner(*args, **kwargs)
        finally:
            del vars(self.module)["weight"]


def _compute_dtype(weight: Tensor) -> torch.dtype:
    # Autocast would make a copy of its own type from the mixed weight, and keep that for the backward.
    device = weight.device.type
    if weight.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


class Mixout(TrainerCallback, ExportableState):
    r"""
    Mixout: in training, put each weight back to its pretrained value at random, in any `Trainer`.

    With pretrained weights $u$, weights $w$, probability $p$ and $m_i \sim \operatorname{Bernoulli}(p)$ drawn anew at
    each call of a layer, the layer computes with

    $$ \frac{(1 - m) \circ w + m \circ u - p\,u}{1 - p} = u + \frac{(1 - m) \circ (w - u)}{1 - p} $$

    whose expectation is $w$: dropout that falls back to the pretrained model instead of to zero. For a quadratic loss
    it acts as an L2 pull to $u$ whose strength grows with $p / (1 - p)$.

    Mixed are the trainable weights of linear and convolution layers before the head, adapters of PEFT among them, with
    the values they start from. Biases, norms and embedding tables are not, nor a weight that a parent module uses
    without calling its layer (`nn.MultiheadAttention`), nor one that a schedule has frozen.

    The start is what the model had when the Trainer was built. It stays in host memory, in bfloat16 where that is
    exact, and is streamed; the device holds one boolean per weight from forward to backward. Names and `state_dict` do
    not change; outside the forward and backward of a training step the model is the bare one.

    Args:
        probability (`float`, *optional*, defaults to 0.9):
            $p$ in [0, 1) (dimensionless); the paper searches 0.1 to 0.9, and high values serve small data best. 0 is
            off.
        exclude (`str` or `Sequence[str]`, *optional*):
            Parts or patterns of [`UnfreezingSchedule`] that are not mixed: `"neck"` where the layers between the last
            block and the head are newly initialised, as in RoBERTa, and have no pretrained value.
        head (`str`, *optional*):
            Name of the head module, where [`anatomy`] cannot find it.
        blocks (`str` or `Sequence[str]`, *optional*):
            Names of the blocks, where [`anatomy`] cannot find them.

    Deviations from the paper:
        Weights only, not biases. The paper replaces dropout by it; here the model's own dropout stays on unless its
        configuration turns it off.

    Raises:
        ValueError: at construction if `probability` is not in [0, 1); when the Trainer is built if there is nothing to
            mix, or under `torch.compile`, DeepSpeed, FSDP1, `nn.DataParallel` or tensor parallelism; when training
            begins on a resume from other starting weights.

    Relations:
        [`L2SP`] pulls to the same weights by a term of the loss, cheaper and without noise. [`FreezeBackbone`] leaves
        nothing to mix. After a crash inside a step, `hf_transfer.callbacks.overrides.release(model)` takes off what is
        left; `TransferTrainer` and the next Trainer with this callback do so by themselves.

    Example:
        >>> Mixout(0.7, exclude="neck")
        Mixout(probability=0.7, exclude=['neck'])

    Paper: Lee et al. 2020, "Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models", https://huggingface.co/papers/1909.11299
    """

    def __init__(
        self,
        probability: float = 0.9,
        *,
        exclude: str | Sequence[str] = (),
        head: str | None = None,
        blocks: str | Sequence[str] | None = None,
    ):
        if not 0 <= probability < 1:
            raise ValueError(
                f"`probability={probability}` is outside [0, 1): at 1 every weight is the pretrained one and nothing "
                "trains. Give the share of entries to put back, such as the paper's 0.9."
            )
        self.probability = probability
        self.exclude = [exclude] if isinstance(exclude, str) else list(exclude)
        self.head, self.blocks = head, blocks
        self.fingerprint: list[float] | None = None
        """Two numbers that tell one start from another; kept in checkpoints."""
        self._start: dict[str, Tensor] = {}
        self._owner: Any = None
        self._layers: list[MixedLayer] = []

    def __repr__(self) -> str:
        excluded = f", exclude={self.exclude}" if self.exclude else ""
        return f"{type(self).__name__}(probability={self.probability}{excluded})"

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into `trainer_state.json`."""
        options = {name: getattr(self, name) for name in ("probability", "exclude", "head", "blocks")}
        return {"args": options, "attributes": {"fingerprint": self.fingerprint}}

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the weights, before any checkpoint is loaded into them."""
        model = kwargs["model"]
        if model is not None:
            release(model)
            self._check(args, model)
            self._remember(model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare the start with that of the checkpoint, and find the layers in the model as it is trained."""
        model = kwargs["model"]
        release(model)
        self._check(args, model)
        refuse_unrepeatable(model, type(self).__name__)
        if state.global_step:
            self._recall(model, state)
        elif self._owner is None or self._owner() is not model:  # `model_init` made another than when it was built
            self._remember(model)
        _STARTS.pop(model, None)
        modules = {name.replace("_checkpoint_wrapped_module.", ""): module for name, module in model.named_modules()}
        rebuild = not is_checkpointed(model)
        self._layers = [
            MixedLayer(modules[name], start, probability=self.probability, rank=args.process_index, rebuild=rebuild)
            for name, start in self._start.items()
        ]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mix from here to the last backward of the optimizer step."""
        put_on(self._layers)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the layers as they are without it."""
        for layer in self._layers:
            layer.take_off()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave nothing on the model."""
        for layer in self._layers:
            layer.take_off()
        self._layers = []

    def _check(self, args: TrainingArguments, model: nn.Module) -> None:
        refuse_compiled(args, model, type(self).__name__)
        refuse_partitioned(args, model, type(self).__name__, fsdp2=True)

    def _remember(self, model: nn.Module) -> None:
        parts = anatomy(model, head=self.head, blocks=self.blocks).parts()
        selected = select_parameters(parts, ["all"], without=["head", *self.exclude])
        chosen = {id(parameter) for name, parameter in model.named_parameters() if name in selected}
        weights: dict[str, Any] = {
            name: module._parameters["weight"]
            for name, module in model.named_modules()
            if isinstance(module, _LAYERS) and isinstance(module._parameters.get("weight"), nn.Parameter)
        }
        weights = {name: weight for name, weight in weights.items() if id(weight) in chosen and weight.requires_grad}
        if not weights:
            raise ValueError(
                "Mixout finds no trainable weight of a linear or convolution layer before the head: there is nothing "
                "to mix. Drop Mixout, or leave the backbone (or LoRA adapters in it) trainable when the Trainer is "
                "built."
            )
        if any(weight.is_meta for weight in weights.values()):
            raise ValueError(
                "Mixout meets a model without values (device `meta`): the pretrained weights are not on this rank. "
                "Load the model on every rank, with fsdp_config={'cpu_ram_efficient_loading': False}."
            )
        # A weight that two layers share is kept once.
        kept = {id(weight): _keep(weight) for weight in weights.values()}
        self._start = {name: kept[id(weight)] for name, weight in weights.items()}
        self._owner = ref(model)
        self.fingerprint = fingerprint(self._start.values()).tolist()
        _STARTS[model] = self._start

    def _recall(self, model: nn.Module, state: TrainerState) -> None:
        saved = saved_state(state, self, what="the weights that run started from are not known")["fingerprint"]
        if not self._start and model in _STARTS:
            self._start, self._owner = _STARTS[model], ref(model)
        if not self._start:
            raise ValueError(
                "Mixout did not see the model before the checkpoint was loaded into it: its starting weights are "
                "gone. Give the Trainer a `model` instead of `model_init`."
            )
        self.fingerprint = fingerprint(self._start.values()).tolist()
        if not all(math.isclose(*pair, rel_tol=1e-5) for pair in zip(saved, self.fingerprint, strict=True)):
            raise ValueError(
                "The checkpoint was trained with Mixout from other starting weights than the model had when the "
                "Trainer was built: weights would be put back to a different point. Build the model from the same "
                "pretrained checkpoint as the first run (not from the checkpoint being resumed) and make adapters "
                "after the same `set_seed`, then resume."
            )


def _keep(weight: Tensor) -> Tensor:
    start = compact(weight.detach().cpu().clone())
    return start.pin_memory() if weight.is_cuda else start
