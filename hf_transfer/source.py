"""`Source`: the source model beside the model in training, frozen, for objectives that ask it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_transfer.anatomy import Anatomy, anatomy
from hf_transfer.base_model import base_features
from hf_transfer.series_models import TARGETS, named_output
from hf_transfer.source_loading import frozen_copy, in_place, load
from hf_transfer.tap import AttentionTaps, HeadTap, HiddenStateTaps


# Arguments of a forward that say what to return or how to compute, not what to look at.
_FLAGS = frozenset(
    {"labels", "num_items_in_batch", "output_attentions", "output_hidden_states", "return_dict", "use_cache"}
)
# A model without token types tells the two texts of a pair by the separator between them.
_DISPENSABLE = frozenset({"token_type_ids"})

__all__ = ["Source", "SourceOutput", "accepted_inputs", "inputs_of", "to_device"]


class SourceOutput(NamedTuple):
    """
    What one forward of a source model gives.

    Attributes:
        logits: `(B, C)`, or `(B, T, C)` where the model classifies tokens; float32. `None` if it predicts nothing and
            was not asked to.
        features: `(B, D)` or `(B, T, D)`, the input of its head, pooled as it pools; float32.
        hidden_states: the outputs of the modules asked for, by name.
        attentions: `(B, H, T, T)`, the maps of the attention layers asked for, by name.
    """

    logits: Tensor
    features: Tensor
    hidden_states: dict[str, Tensor]
    attentions: dict[str, Tensor]


class Source:
    """
    The source model beside the model in training: frozen, in evaluation mode, and no module of anything.

    Objectives hold it as a plain attribute. So it is in no `parameters()`, no `state_dict`, no checkpoint, and neither
    DDP nor FSDP sees it. A copy of an objective shares it.

    Args:
        model (`nn.Module`, `str` or path):
            A model, of which a copy is kept as it is now; or a Hub id, a folder or an embedded model such as
            `embedded:image`, loaded by the class its config names, from safetensors only. Of a PEFT model only what
            trains is copied.
        head (`str`, *optional*):
            Name of its classification head, where it cannot be told from the model.
        dtype (`torch.dtype`, *optional*):
            Float type to keep it in; by default its own.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code from the model's repository.
        copy (`bool`, *optional*, defaults to `True`):
            Whether a model given as an object is copied; otherwise it is itself frozen and put in evaluation mode, and
            must not be trained any more.

    Raises:
        ValueError: if the config names no class that can be loaded, or objectives are attached to it; if a model
            that is not copied has another `dtype`; when the head is asked for and there is none.
        OSError: if there is no such model.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=5)
        >>> source = Source(BertForSequenceClassification(config))
        >>> output = source({"input_ids": torch.ones(2, 3, dtype=torch.long)})
        >>> output.logits.shape, output.features.shape, output.logits.requires_grad
        (torch.Size([2, 5]), torch.Size([2, 8]), False)
        >>> source
        Source(BertForSequenceClassification)
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        *,
        head: str | None = None,
        dtype: torch.dtype | None = None,
        revision: str = "main",
        trust_remote_code: bool = False,
        copy: bool = True,
    ):
        self.dtype = dtype
        self.copied = copy
        self.revision = revision
        self._head_name = head
        self._missing: list[str] = []
        if isinstance(model, nn.Module):
            self.name = ""
            self.model: Any = frozen_copy(model, share=dtype is None) if copy else in_place(model, dtype)
        else:
            self.name = os.fspath(model)
            self.model, self._missing = load(self.name, revision, trust_remote_code, dtype)
        if dtype is not None:
            self.model.to(dtype)
        self.model.requires_grad_(False).eval()
        for module in self.model.modules() if copy else ():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
                module.momentum, module.num_batches_tracked = 0.0, None  # training mode then moves nothing
        self._inputs = accepted_inputs(self.model)
        self._tap: HeadTap | None = None
        self._taps: dict[tuple[str, ...], HiddenStateTaps] = {}
        self._maps: dict[tuple[str, ...], AttentionTaps] = {}

    @classmethod
    def of(cls, model: Source | nn.Module | str | os.PathLike[str]) -> Source:
        """`model` as a `Source`; one that is, as it is."""
        return model if isinstance(model, Source) else cls(model)

    @cached_property
    def found(self) -> tuple[Anatomy | None, str]:
        """Its anatomy, of a base model `None`, and why its predictions cannot be read; empty if they can."""
        owner = _base(self.model)
        # A base model has layers, such as a pooler, whose width may equal its unused number of labels.
        if self._head_name is None and getattr(owner, "base_model", None) is owner and _kind(owner).endswith("Model"):
            return None, "it is a base model"
        try:
            found = anatomy(self.model, head=self._head_name)
        except ValueError as error:
            return None, str(error)
        untrained = any(key.startswith(f"{found.head}.") for key in self._missing)
        return found, f"the checkpoint holds no weights for `{found.head}`" if untrained else ""

    @property
    def anatomy(self) -> Anatomy:
        """
        Its anatomy.

        Raises:
            ValueError: if it has no classification head.
        """
        found, reason = self.found
        if found is not None and not reason:
            return found
        raise ValueError(
            f"{self!r} has no classification head ({reason}): what it knows of the source classes cannot be read. "
            "Give the checkpoint with the head it was trained with, such as `google/vit-base-patch16-224` (in the "
            'recipes by `--source_name_or_path`), or name the layer: `Source(..., head="...")`.'
        )

    @property
    def head(self) -> nn.Module:
        """
        Its classification head.

        Raises:
            ValueError: if it has none.
        """
        return self.model.get_submodule(self.anatomy.head)

    @property
    def num_labels(self) -> int:
        """Number of source classes: outputs of the head."""
        head = self.head
        return int(getattr(head, "out_features", getattr(head, "out_channels", self.model.config.num_labels)))

    @property
    def problem_type(self) -> str | None:
        """The kind of its task, as its config says it; a single output without a word is a regression."""
        problem = getattr(self.model.config, "problem_type", None)
        return "regression" if problem is None and self.num_labels == 1 else problem

    def copy_head(self, feature_dim: int) -> nn.Linear:
        """
        A trainable float32 copy of the head, for features of the model in training.

        Args:
            feature_dim (`int`): width of these features.

        Raises:
            ValueError: if there is no head, it takes features of another width, or it is no linear layer.
        """
        head: Any = self.head
        width = self.anatomy.feature_dim
        if width != feature_dim:
            raise ValueError(
                f"The head of {self!r} takes features {width} wide, those of the model in training are "
                f"{feature_dim} wide: it cannot read them. Fine-tune the same architecture as the source, best from "
                "its own checkpoint."
            )
        linear = isinstance(head, nn.Linear) or isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1)
        if not linear or tuple(head.weight.shape[:2]) != (self.num_labels, width):
            raise ValueError(
                f"The head of {self!r} is a {_kind(head)}, and only a linear layer or a 1x1 convolution can be put on "
                "the features of another model. Merge its adapters (`merge_and_unload()`) or undo the quantisation "
                "before you pass the source."
            )
        copied: Any = nn.utils.skip_init(nn.Linear, width, self.num_labels, bias=head.bias is not None)
        with torch.no_grad():
            copied.weight.copy_(head.weight.flatten(1))
            if head.bias is not None:
                copied.bias.copy_(head.bias)
        return copied

    @torch.no_grad()
    def __call__(
        self,
        inputs: Mapping[str, Any],
        *,
        hidden_states: Sequence[str] = (),
        attentions: Sequence[str] = (),
        precision: torch.dtype | None = None,
        like: nn.Module | None = None,
        logits: bool = True,
    ) -> SourceOutput:
        """
        One forward, on the device of the inputs.

        Args:
            inputs (`Mapping[str, Any]`): what the model in training was called with (`TransferBatch.inputs`).
            hidden_states (`Sequence[str]`, *optional*): names of the modules whose outputs to return.
            attentions (`Sequence[str]`, *optional*): names of the attention layers whose maps to return.
            precision (`torch.dtype`, *optional*): run it under autocast to this type.
            like (`nn.Module`, *optional*): the model it is a copy of, whose modes it then runs in, module by module,
                instead of evaluation mode; running statistics stay as they are.
            logits (`bool`, *optional*, defaults to `True`): whether its predictions are needed; a model without a head
                is otherwise run for its features, as [`base_features`] reads them.

        Raises:
            ValueError: if there are no inputs, or one that the source does not take; if it has no head and predictions
                are needed.
        """
        inputs = self._prepared(inputs)
        found, reason = (self.anatomy, "") if logits else self.found
        if self._tap is None and found is not None:
            self._tap = HeadTap(self.model, found.head)
        names, layers = tuple(hidden_states), tuple(attentions)
        if names not in self._taps:
            self._taps[names] = HiddenStateTaps(self.model, names)
        if layers not in self._maps:
            self._maps[layers] = AttentionTaps(self.model, layers)
        taps, maps = self._taps[names], self._maps[layers]
        device = next(value.device for value in inputs.values() if isinstance(value, Tensor))
        switches = [tap for tap in (self._tap, taps, maps) if tap is not None]
        for tap in switches:
            tap.open = True
        self._set_modes(like)
        try:
            with nullcontext() if precision is None else torch.autocast(device.type, precision):
                output = self.model(**inputs)
            if self._tap is None:
                predicted, features = None, base_features(_base(self.model), output, inputs)
            else:
                predicted = output[named_output(output)] if isinstance(output, Mapping) else output[0]
                features = self._tap.take(predicted, inputs)
            told: Any = None if predicted is None or reason else predicted.float()
            return SourceOutput(told, features, taps.take(), maps.take())
        finally:
            for tap in switches:
                tap.open = False
            self.model.eval()

    def leave_device(self) -> None:
        """Go to host memory until the next call; a copy of a model in training stays, it may share its weights."""
        if self.name:
            self.model.to("cpu")

    def _set_modes(self, like: nn.Module | None) -> None:
        if like is None:
            if not self.copied:  # whoever owns it may have set it to train
                self.model.eval()
            return
        modes = {name: module.training for name, module in like.named_modules()}
        for name, module in self.model.named_modules():
            module.training = modes.get(name, False)

    def _prepared(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in inputs.items() if name not in _FLAGS and value is not None}
        if not any(isinstance(value, Tensor) for value in given.values()):
            raise ValueError(
                f"The batch holds no inputs for {self!r}: it cannot look at the rows. Call the model with "
                "`model(**batch)` after `attach`, or give `TransferBatch(inputs=...)`."
            )
        unknown = sorted(given.keys() - self._inputs) if self._inputs else []
        refused = [name for name in unknown if name not in _DISPENSABLE]
        if refused:
            raise ValueError(
                f"{self!r} does not take {', '.join(refused)}, which the model in training reads: it would see other "
                "rows than the model does. Give a source of the same kind, with the same tokenizer or processor, or "
                "leave these columns out of the data."
            )
        # The first call decides on the device; whoever trains has placed the model by then.
        tensors = [value for name, value in given.items() if isinstance(value, Tensor) and name not in unknown]
        first = next(parameter for parameter in self.model.parameters() if parameter.is_floating_point())
        if first.device != tensors[0].device:
            self.model.to(tensors[0].device)
        prepared = {
            name: value.to(first.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in given.items()
            if name not in unknown
        }
        return {**prepared, "use_cache": False} if "use_cache" in self._inputs else prepared

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self

    def __repr__(self) -> str:
        return f"Source({self.name!r})" if self.name else f"Source({_kind(_base(self.model))})"


def accepted_inputs(model: nn.Module) -> set[str]:
    """Names of the arguments of a model's forward, also under PEFT; empty where it names none."""
    # `**kwargs` of the models of transformers holds flags, which attention functions look for, and no data.
    parameters = inspect.signature(_base(model).forward).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def inputs_of(model: nn.Module, batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What a model reads of a collated batch, on `device`: without labels and the columns of objectives."""
    names = accepted_inputs(model) or batch.keys()
    kept = {name: value for name, value in batch.items() if name in names and name not in TARGETS}
    return to_device(kept, device)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _base(model: Any) -> Any:
    """The model of `transformers` below PEFT."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _kind(module: nn.Module) -> str:
    return type(module).__name__
