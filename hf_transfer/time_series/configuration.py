"""Configurations of forecasters: sizes that suit few series, and what of them can be set otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args


Kind = Literal["patchtst", "patchtsmixer"]
Size = Literal["small", "base"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES: tuple[Size, ...] = get_args(Size)

# PatchTST: the supervised models of the paper, as its authors' scripts set them: `small` for ETTh1 and ETTh2, `base`
# for weather and traffic. PatchTSMixer: 2 to 3 layers of width 16 to 64 are the small end of its paper's range.
_SIZES: dict[Kind, dict[Size, dict[str, Any]]] = {
    "patchtst": {
        "small": {"d_model": 16, "num_attention_heads": 4, "ffn_dim": 128, "dropout": 0.3},
        "base": {"d_model": 128, "num_attention_heads": 16, "ffn_dim": 256, "dropout": 0.2},
    },
    "patchtsmixer": {
        "small": {"d_model": 16, "num_layers": 3, "dropout": 0.2, "head_dropout": 0.2},
        "base": {"d_model": 64, "num_layers": 8, "dropout": 0.2, "head_dropout": 0.2},
    },
}
_FIXED: dict[str, Any] = {
    "loss": "mse",
    "do_mask_input": None,
    "share_projection": True,
    "masked_loss": True,
    "prediction_channel_indices": None,
    "unmasked_channel_indices": None,
}
_ARGUMENTS = {
    "num_input_channels": "channels",
    "context_length": "context_length",
    "prediction_length": "prediction_length",
}

__all__ = ["KINDS", "SIZES", "Kind", "Size", "forecaster_config", "patches"]


def forecaster_config(
    kind: Kind,
    *,
    channels: int,
    context_length: int,
    prediction_length: int,
    size: Size = "small",
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """The configuration of [`new_forecaster`]; arguments and errors are the same."""
    import transformers

    _check_choice("kind", kind, KINDS)
    _check_choice("size", size, SIZES)
    lengths = {"channels": channels, "context_length": context_length, "prediction_length": prediction_length}
    for name, value in lengths.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name}={value!r} is no number of {'channels' if name == 'channels' else 'rows'}: no model could be "
                "built. Give a positive integer."
            )
    if context_length < 4:
        raise ValueError(
            f"context_length={context_length} is less than two patches of two rows: there is nothing to learn from. "
            "Give 4 rows or more; some 336 suit a horizon of 96."
        )
    kinds = {"patchtst": transformers.PatchTSTConfig, "patchtsmixer": transformers.PatchTSMixerConfig}
    own = dict(_SIZES[kind][size])
    if kind == "patchtst":
        dropout = own.pop("dropout")  # of one word in the paper: on positions, sublayers and feed-forward alike
        own |= {"num_hidden_layers": 3, "positional_dropout": dropout, "path_dropout": dropout, "ff_dropout": dropout}
        own |= {"pooling_type": None}  # the head sees all patches
    length, stride = patches(context_length, overlapping=kind == "patchtst")
    given = dict(overrides or {})
    _check_names(kinds[kind], given)
    own |= {"patch_length": length, "patch_stride": stride, "scaling": "std"} | given
    if "patch_length" in given and "patch_stride" not in given:
        own["patch_stride"] = max(given["patch_length"] // 2, 1) if kind == "patchtst" else given["patch_length"]
    _check_values(own, context_length)
    return kinds[kind](
        num_input_channels=channels, context_length=context_length, prediction_length=prediction_length, **own
    )


def patches(context_length: int, *, overlapping: bool) -> tuple[int, int]:
    """
    Length and stride of the patches for a context: 16 rows, or 12 or 8 where these divide it and 16 does not.

    Overlapping patches begin half a patch apart. A context below 32 rows has shorter patches, two at least. Where
    nothing divides it, the oldest rows, fewer than a stride, are left out by the model.

    Example:
        >>> patches(336, overlapping=True), patches(36, overlapping=False), patches(10, overlapping=True)
        ((16, 8), (12, 12), (4, 2))
    """
    sizes = [length for length in (16, 12, 8) if 2 * length <= context_length]
    sizes = sizes or [next(length for length in (8, 6, 4, 2) if 2 * length <= context_length)]
    for length in sizes:
        stride = length // 2 if overlapping else length
        if (context_length - length) % stride == 0:
            return length, stride
    return sizes[0], sizes[0] // 2 if overlapping else sizes[0]


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(
            f"{name}={value!r} is none of {', '.join(known)}: there is no such forecaster. Give {name}={known[0]!r}."
        )


def _check_names(config_class: Any, given: Mapping[str, Any]) -> None:
    known = set(config_class.__annotations__) - {"model_type"}
    for name, value in given.items():
        if name in _ARGUMENTS:
            raise ValueError(
                f"`{name}` is among the overrides, but an argument says it: two values would be given for one thing. "
                f"Pass `{_ARGUMENTS[name]}={value!r}` and leave it out of `overrides`."
            )
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"`{near[0]}`" if near else f"a field of {config_class.__name__}, such as `d_model`"
            raise ValueError(
                f"`{name}` is no field of {config_class.__name__}: it would be kept and never used. Give {hint}."
            )
        if name in _FIXED and value != _FIXED[name]:
            raise ValueError(
                f"`{name}={value!r}` among the overrides: forecasters are trained here by the squared error of every "
                "observed value, with one head for all channels. Leave it out, or build the model from "
                f"`{config_class.__name__}` and train it with the stock `Trainer`."
            )


def _check_values(own: Mapping[str, Any], context_length: int) -> None:
    counts = (
        "patch_length", "patch_stride", "d_model", "num_hidden_layers", "num_layers", "num_attention_heads", "ffn_dim",
        "expansion_factor", "self_attn_heads",
    )  # fmt: skip
    for name in counts:
        value = own.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}={value!r}`: no layer has that size. Give a positive integer.")
    if context_length < own["patch_length"] + own["patch_stride"]:
        raise ValueError(
            f"patch_length={own['patch_length']} and patch_stride={own['patch_stride']} leave less than two patches "
            f"in a context of {context_length} rows: nothing could relate them. Give shorter patches or a longer "
            "context."
        )
    for name, value in own.items():
        if "dropout" in name and not 0 <= value < 1:
            raise ValueError(f"`{name}={value}` is no probability below 1: nothing would pass. Give one such as 0.3.")
    choices = {
        "norm_type": ("batchnorm", "layernorm"),
        "norm_mlp": ("LayerNorm", "BatchNorm"),
        "mode": ("common_channel", "mix_channel"),
        "pooling_type": (None, "mean", "max"),
        "positional_encoding_type": ("sincos", "random"),
        "scaling": ("std", "mean", True, None),
        "mask_type": ("random", "forecast"),
    }
    for name, known in choices.items():
        if name in own and own[name] not in known:
            raise ValueError(
                f"`{name}={own[name]!r}` is none of {', '.join(map(repr, known))}: the model would fail or do "
                "something else. Give one of these."
            )
    heads = own.get("num_attention_heads", own.get("self_attn_heads", 1))
    if own["d_model"] % heads:
        raise ValueError(
            f"d_model={own['d_model']} is no multiple of {heads} attention heads: they could not share it evenly. "
            "Change one of them."
        )
