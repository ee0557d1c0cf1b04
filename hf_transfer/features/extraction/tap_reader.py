"""Forwards of a frozen model that are made for what its taps see, and are left as soon as they have seen it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.features.extraction.pooling import as_tokens, pool, real_tokens
from hf_transfer.features.extraction.taps import Tap, pretrained
from hf_transfer.modes import at_rest
from hf_transfer.tap import HeadTap, HiddenStateTaps, first_tensor


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

__all__ = ["DTYPES", "TapReader", "evaluating", "forward_parameters", "model_inputs"]


class _Seen(Exception):
    """Every tap has seen what it will see in this forward."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; the mode of each module is restored, also after an error."""
    with at_rest(model), torch.inference_mode():
        yield


def forward_parameters(model: nn.Module) -> set[str]:
    """Names that the forward of the model takes."""
    return set(inspect.signature(pretrained(model).forward).parameters)


def model_inputs(model: nn.Module) -> set[str]:
    """Names of what the model reads: those its forward takes, without labels."""
    return {name for name in forward_parameters(model) if "label" not in name} - {"return_dict", "kwargs"}


class TapReader:
    """
    Runs a model for its features; a context manager that takes its hooks off.

    What follows the last tap is not computed: the first forward tells how often each tapped module runs (ALBERT's one
    block many times), and the next ones are left when all have run as often.

    Args:
        model (`nn.Module`):
            Any model of `transformers`, in evaluation mode.
        taps (`Sequence[Tap]`):
            What is read, as [`find_taps`] gives it.
        dtype (`str`, *optional*, defaults to `"float32"`):
            `"float16"` or `"bfloat16"` run the forward under autocast of that type; on a CPU only the latter does,
            where half precision is slower than single.
    """

    def __init__(self, model: nn.Module, taps: Sequence[Tap], *, dtype: str = "float32"):
        parameter = next(model.parameters())
        self.device = parameter.device
        self.model, self.taps = model, list(taps)
        self._float = parameter.dtype if parameter.is_floating_point() else torch.float32
        self._low = DTYPES[dtype] if dtype == "bfloat16" or self.device.type != "cpu" else torch.float32
        self._inner = pretrained(model)
        # a cache of keys and values would be built for nothing
        self._options = {"use_cache": False} if "use_cache" in forward_parameters(model) else {}
        heads = [tap.module for tap in self.taps if tap.kind == "head"]
        blocks = [tap.module for tap in self.taps if tap.kind == "block"]
        self._logits: Tensor | None = None  # an empty tensor with as many dimensions as the logits
        self._calls: dict[str, int] = {}
        self._wanted: dict[str, int] | None = None
        self._head = HeadTap(model, heads[0]) if heads else None
        self._states = HiddenStateTaps(model, blocks)
        self._hooks = [model.get_submodule(name).register_forward_pre_hook(self._counter(name)) for name in heads]
        self._hooks += [model.get_submodule(name).register_forward_hook(self._counter(name)) for name in blocks]

    def _counter(self, name: str) -> Any:
        def count(*_: Any) -> None:
            self._calls[name] = self._calls.get(name, 0) + 1
            if self._calls == self._wanted:
                raise _Seen

        return count

    @property
    def low_precision(self) -> bool:
        """Whether results are only good to the two or three digits of a 16 bit type."""
        return self._low != torch.float32 or self._float != torch.float32

    def read(self, inputs: Mapping[str, Any], mask: Tensor | None = None) -> dict[str, Tensor | list[Tensor]]:
        """
        The features of a batch by column.

        Args:
            inputs (`Mapping`):
                What the model is called with; tensors are moved to its device.
            mask (`Tensor`, *optional*):
                `(B, T)`, not zero at real tokens; for text also where the model takes none.

        Shape:
            - returns `(B, D)` float32 per column, or a list of `B` tensors `(T_i, D)` where each token has features.

        Raises:
            ValueError: if the pooling does not suit what is tapped.
            RuntimeError: if the forward does not pass through a tapped module.
        """
        inputs = {name: self._moved(value) for name, value in inputs.items()}
        mask = None if mask is None else mask.to(self.device)
        self._calls = {}
        self._states.open = True
        if self._head is not None:
            self._head.open = True
        outputs: Any = None
        try:
            autocast = self._low != torch.float32
            with torch.autocast(self.device.type, self._low) if autocast else nullcontext():
                outputs = self.model(**inputs, **self._options)
        except _Seen:
            pass
        finally:
            self._states.open = False
            if self._head is not None:
                self._head.open = False
        if outputs is not None:
            self._learn(outputs)
        states = self._states.take()
        return {tap.column: self._features(tap, outputs, states, inputs, mask) for tap in self.taps}

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.device, non_blocking=True)
        if not value.is_floating_point():
            return value
        # images: convolutions on a CPU are up to twice as fast with the channels last
        layout = torch.channels_last if value.dim() == 4 and self.device.type == "cpu" else torch.preserve_format
        return value.to(self._float, memory_format=layout)

    def _learn(self, outputs: Any) -> None:
        logits = outputs.get("logits") if isinstance(outputs, dict) else outputs[0]
        self._logits = None if logits is None else logits.new_empty((0,) * logits.dim())
        if all(tap.kind != "output" for tap in self.taps):
            self._wanted = self._calls

    def _features(
        self, tap: Tap, outputs: Any, states: dict[str, Any], inputs: dict[str, Any], mask: Tensor | None
    ) -> Tensor | list[Tensor]:
        if tap.kind == "output":
            return self._of_output(tap, outputs, mask)
        if tap.kind == "head":
            return self._of_head(tap, inputs, mask)
        if tap.module not in states:
            raise RuntimeError(
                f"The forward did not pass through `{tap.module}`, {tap.column} of the model: it has no features for "
                "these inputs, as a tower for other inputs has none. Tap another block, or the head."
            )
        output = first_tensor(states[tap.module])
        assert output is not None
        return self._pooled(output, self.model.get_submodule(tap.module), tap.pooling, mask)

    def _of_head(self, tap: Tap, inputs: dict[str, Any], mask: Tensor | None) -> Tensor | list[Tensor]:
        assert self._head is not None
        if tap.pooling is None:
            assert self._logits is not None
            features = self._head.take(self._logits, inputs)
            return self._pooled(features, self.model, "none", mask) if features.dim() == 3 else features
        features = self._head.take_input()
        if features.dim() != 3:
            raise ValueError(
                f'pooling="{tap.pooling}" was given for the head, but what enters the head has shape '
                f"{tuple(features.shape)}: the model has pooled before. Leave `pooling` out, or tap a block: taps=-1."
            )
        return self._pooled(features, self.model, tap.pooling, mask)

    def _of_output(self, tap: Tap, outputs: Any, mask: Tensor | None) -> Tensor | list[Tensor]:
        pooled = getattr(outputs, "pooler_output", None)
        if tap.pooling is None and pooled is not None:
            return pooled.float().flatten(1)
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is None:
            raise ValueError(
                f"{type(self._inner).__name__} returns {', '.join(outputs)} and no `last_hidden_state`: which of them "
                "are its features is unknown. Load it with a head, such as AutoModelFor...Classification, or tap a "
                "block: taps=-1."
            )
        return self._pooled(hidden, self.model, tap.pooling or "mean", mask)

    def _pooled(
        self, output: Tensor, module: nn.Module, pooling: str | None, mask: Tensor | None
    ) -> Tensor | list[Tensor]:
        if getattr(self._inner.config, "model_type", None) == "xlnet" and module is not self.model:
            output = output.transpose(0, 1)  # its layers have the tokens first, its output has not
        tokens, is_map = as_tokens(output.float(), module)
        if pooling == "last" and mask is None and getattr(self._inner, "main_input_name", "") == "pixel_values":
            raise ValueError(
                'pooling="last" was given, but the model reads images: the last token is the patch in the lower right '
                'corner. Choose "mean", or "cls" where the model has a class token.'
            )
        if pooling == "cls" and is_map:
            raise ValueError(
                f'pooling="cls" was given, but a tapped layer returns a map of shape {tuple(output.shape)}: it has no '
                'class token, and the first vector is the upper left corner. Choose "mean".'
            )
        return pool(tokens, pooling or "mean", real_tokens(self.model, mask, tokens.shape[1]))

    def __enter__(self) -> TapReader:
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._states.remove()
        if self._head is not None:
            self._head.remove()
