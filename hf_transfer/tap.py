"""What is read off a forward: the input of the head, pooled as the model pools, and the outputs of other modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.series_models import series_model


__all__ = ["AttentionTaps", "HeadTap", "HiddenStateTaps", "first_tensor", "values_of"]


class HeadTap:
    """
    Keeps what enters the head of a model during the forwards in which it is `open`.

    Args:
        model (`nn.Module`):
            Any classifier or forecaster of `transformers`, also under PEFT.
        head (`str`):
            Name of its head, as in `Anatomy.head`.
    """

    def __init__(self, model: nn.Module, head: str):
        self.config = getattr(model, "config", None)
        series = series_model(model)
        self._in_pieces = series is not None and series.in_pieces
        self.open = False
        self._input: Tensor | None = None
        self._hook = model.get_submodule(head).register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.open:
            self._input = args[0]

    def take(self, logits: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """
        The features of the forward that just ended, and forget them.

        Args:
            logits (`Tensor`): the model's output, `(B, C)` or `(B, T, C)`: tells whether the model pooled after its
            head.
            inputs (`Mapping`): what the model was called with; `input_ids` show which token a decoder pools at.

        Shape:
            - returns float32 `(B, D)`, or `(B, T, D)` where the logits are per token. Of a forecaster `(B, D)`: the
              mean over the channels, patches or steps that its head reads one by one.

        Raises:
            RuntimeError: if the forward did not pass through the head.
        """
        features = self.take_input()
        if self._in_pieces:
            return features.flatten(1, -2).mean(1) if features.dim() > 2 else features
        while features.dim() > max(2, logits.dim()):
            features = self._pool(features, inputs)
        return features

    def take_input(self) -> Tensor:
        """
        What entered the head in the forward that just ended, float32 and not pooled over tokens, and forget it.

        Raises:
            RuntimeError: if the forward did not pass through the head.
        """
        features, self._input = self._input, None
        if features is None:
            raise RuntimeError(
                "The forward did not pass through the head that was found at attach time: there are no features for "
                'the objectives. Name the module whose input are the features: `attach(model, ..., head="...")`.'
            )
        features = features.float()
        # channels first: a convolution as head
        return features.mean((2, 3)) if features.dim() == 4 and not self._in_pieces else features

    def _pool(self, features: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """`(B, T, D)` to `(B, D)`, as a model does that pools its logits: at one token for text, else the mean."""
        input_ids = inputs.get("input_ids")
        if input_ids is None and inputs.get("inputs_embeds") is None:
            return features.mean(1)
        # EuroBERT and CohereCompass let the configuration choose
        config = self._text_config()
        pooling = getattr(config, "classifier_pooling", None) or getattr(config, "pooling", None)
        if pooling in ("late", "mean"):
            return self._mean(features, inputs.get("attention_mask"))
        if pooling == "bos":
            return features[:, 0]
        rows = torch.arange(len(features), device=features.device)
        return features[rows, self._last_token(input_ids, features)]

    def _mean(self, features: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None or mask.shape != features.shape[:2]:
            return features.mean(1)
        return (features * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def _last_token(self, input_ids: Tensor | None, features: Tensor) -> Tensor | int:
        # The rule of transformers' GenericForSequenceClassification: pad tokens are told by their id, not by the mask.
        pad = getattr(self._text_config(), "pad_token_id", None)
        if pad is None or input_ids is None or input_ids.shape[1] != features.shape[1]:
            return -1
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (positions * (input_ids != pad)).argmax(-1)
        # T5Gemma and T5Gemma2: the decoder reads the tokens shifted right by one
        shift = 1 if getattr(self.config, "is_encoder_decoder", False) else 0
        return (last + shift).clamp(max=features.shape[1] - 1)

    def _text_config(self) -> Any:
        return self.config.get_text_config() if self.config is not None else None

    def remove(self) -> None:
        """Take the hook off the head."""
        self._hook.remove()
        self._input = None


class HiddenStateTaps:
    """
    Keeps what modules return during the forwards in which it is `open`.

    Args:
        model (`nn.Module`):
            Any model.
        names (`Iterable[str]`):
            Names of the modules, as in `model.named_modules()`.

    Raises:
        ValueError: if there is no module of that name.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]):
        self.open = False
        self._outputs: dict[str, Tensor] = {}
        self._hooks = []
        self._of_series = series_model(model) is not None
        modules = dict(model.named_modules())
        for name in sorted(set(names)):
            if name not in modules:
                raise ValueError(
                    f"The model has no module `{name}`: its output cannot be read. Name one of its blocks, such as "
                    f"`{next((key for key in modules if key.endswith('.0')), 'encoder.layer.0')}`."
                )
            # bound to these taps and no closure over them: in a copy of the model it is bound to the copy's
            self._hooks.append(modules[name].register_forward_hook(partial(self._keep, name)))

    def _keep(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self.open:
            self._outputs[name] = self._read(name, output)

    def _read(self, name: str, output: Any) -> Tensor:
        found = first_tensor(output)
        if found is None:
            raise ValueError(
                f"`{name}` returned a {type(output).__name__} without a tensor: it has no hidden state to read. Name "
                "a block of the model."
            )
        # (B, channels, patches, D) is no image with the features first: each patch of each channel is a token
        return found.flatten(1, 2) if self._of_series and found.dim() == 4 else found

    def take(self) -> dict[str, Tensor]:
        """The outputs of the forward that just ended by module name, and forget them."""
        outputs, self._outputs = self._outputs, {}
        return outputs

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for hook in self._hooks:
            hook.remove()
        self._outputs = {}


class AttentionTaps(HiddenStateTaps):
    """
    Keeps the attention maps `(B, H, T, T)` of attention layers during the forwards in which it is `open`: the second
    thing they return.

    Args:
        model (`nn.Module`):
            Any model whose attention is not fused (`attn_implementation="eager"`).
        names (`Iterable[str]`):
            Names of the attention layers, as in `model.named_modules()`.

    Raises:
        ValueError: if there is no module of that name; in a forward, if the layer returns no map.
    """

    def _read(self, name: str, output: Any) -> Tensor:
        found = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(found, Tensor) or found.dim() != 4:
            raise ValueError(
                f"`{name}` returned no attention map: a fused kernel never computes one, and there is nothing to "
                'compare. Load the model with `attn_implementation="eager"`.'
            )
        return found


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in what a module returns: its hidden state."""
    if isinstance(output, Tensor):
        return output
    return next((found for value in values_of(output) if (found := first_tensor(value)) is not None), None)


def values_of(output: Any) -> Iterable[Any]:
    """What a module returns, one by one; nothing where it is a single thing."""
    if isinstance(output, Mapping):
        return output.values()
    return output if isinstance(output, Sequence) and not isinstance(output, str) else ()
