"""Inputs with which a model can be tried: random ones of the right kind, or those of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_transfer.features.extraction.tap_reader import model_inputs
from hf_transfer.features.extraction.taps import pretrained


_TOKENS = 16
_SAMPLES = 8_000
_FRAMES = 50
_SIDE = 64

__all__ = ["inputs_of", "trial_inputs"]


def inputs_of(model: nn.Module, batch: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    What the model reads of a batch, on its device and in its type; random inputs if there is no batch.

    Args:
        model (`nn.Module`): a model of `transformers`, also under PEFT.
        batch (`Mapping`, *optional*): labels and further columns are left out.

    Raises:
        ValueError: if the model reads nothing of the batch, or the inputs of its kind are not known.
    """
    inner = pretrained(model)
    if batch is None:
        inputs: dict[str, Any] = trial_inputs(inner)
    else:
        reads = model_inputs(inner)
        inputs = {name: value for name, value in batch.items() if name in reads and value is not None}
        if not any(isinstance(value, Tensor) for value in inputs.values()):
            raise ValueError(
                f"The batch has {', '.join(batch) or 'nothing'}, of which {type(inner).__name__} reads no tensor: "
                f"there is nothing to run it on. Pass what the model is called with: `{inner.main_input_name}`."
            )
    return {name: _fitting(value, inner) for name, value in inputs.items()}


def trial_inputs(model: nn.Module, *, rows: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """
    Random inputs for a model: token ids with padding, images, sound, spectrograms, or past values of a series.

    They serve to compare a model with a changed form of itself, for which it matters little what is in them.

    Args:
        model (`nn.Module`): a model of `transformers`.
        rows (`int`, *optional*, defaults to 4): how many.
        seed (`int`, *optional*, defaults to 0): of the random numbers; the global generator is left alone.

    Raises:
        ValueError: if the model reads something else.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32)
        >>> trial_inputs(ViTForImageClassification(config))["pixel_values"].shape
        torch.Size([4, 3, 32, 32])
    """
    inner = pretrained(model)
    generator = torch.Generator().manual_seed(seed)
    name = str(getattr(inner, "main_input_name", ""))
    if "ForImageClassification" in type(inner).__name__ and "pixel_values" in model_inputs(inner):
        name = "pixel_values"  # models of images and text name the text first
    if name == "input_ids":
        return _text(inner.config, rows, generator)
    shape = _shape(name, inner.config)
    if shape is None:
        raise ValueError(
            f"{type(inner).__name__} reads `{name}`, for which no random inputs are made here: without inputs it "
            "cannot be compared with itself. Pass a batch of your data: `batch=next(iter(loader))`."
        )
    return {name: torch.randn(rows, *shape, generator=generator)}


def _text(config: Any, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    text = config.get_text_config()
    pad = getattr(text, "pad_token_id", None)
    end = getattr(text, "eos_token_id", None)
    length = min(_TOKENS, (getattr(text, "max_position_embeddings", None) or _TOKENS + 2) - 2)
    ids = torch.randint(0, text.vocab_size, (rows, length), generator=generator)
    # a pad token amid the text, or BART's end of text elsewhere than at the end, would have a meaning
    for special in (pad, end):
        if isinstance(special, int):
            ids[ids == special] = next(other for other in range(text.vocab_size) if other not in (pad, end))
    mask = torch.ones_like(ids)
    if isinstance(pad, int):
        short = length - length // 3
        ids[1::2, short:], mask[1::2, short:] = pad, 0
    if getattr(config, "is_encoder_decoder", False) and isinstance(end, int) and end < text.vocab_size:
        ids[torch.arange(rows), mask.sum(1) - 1] = end
    return {"input_ids": ids, "attention_mask": mask}


def _shape(name: str, config: Any) -> tuple[int, ...] | None:
    """Shape of one row, as far as the config tells it."""
    if name == "pixel_values":
        return _image(getattr(config, "vision_config", None) or config)
    bins = getattr(config, "num_mel_bins", None)
    if name == "input_values":
        longest = getattr(config, "max_length", None)
        return (longest, bins) if longest and bins else (_SAMPLES,)
    if name == "input_features":
        positions = getattr(config, "max_source_positions", None)
        if bins and positions:
            return bins, 2 * positions
        width = getattr(config, "feature_projection_input_dim", None)
        return (_FRAMES, width) if width else None
    channels, context = (getattr(config, key, None) for key in ("num_input_channels", "context_length"))
    return (context, channels) if name == "past_values" and channels and context else None


def _image(config: Any) -> tuple[int, int, int]:
    size = getattr(config, "image_size", None) or _SIDE
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    return channels, height, width


def _fitting(value: Any, model: nn.Module) -> Any:
    if not isinstance(value, Tensor):
        return value
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return value
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else None)
