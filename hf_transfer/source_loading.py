"""How a source model comes to be: a frozen copy of one in training, the model itself, or a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hf_transfer.attach import CHILD


_ATTACHED = (
    "Objectives are attached to the model that is to be the source: their hooks would run in its forward too. "
    "Make the `Source` before `attach`, or `detach()` first."
)

__all__ = ["frozen_copy", "in_place", "load"]


def frozen_copy(model: nn.Module, *, share: bool) -> nn.Module:
    """A copy, which of a PEFT model may share what is frozen."""
    if hasattr(model, CHILD):
        raise ValueError(_ATTACHED)
    # PEFT never trains its frozen weights, so the copy may hold the same ones. A parameter frozen by hand may be
    # thawed, and would then move under the source.
    kept = [p for p in model.parameters() if not p.requires_grad] if share and hasattr(model, "peft_config") else []
    return copy.deepcopy(model, {id(parameter): parameter for parameter in kept})


def in_place(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The model itself, which must be of that type already."""
    if hasattr(model, CHILD):
        raise ValueError(_ATTACHED)
    if dtype is not None and any(p.is_floating_point() and p.dtype != dtype for p in model.parameters()):
        raise ValueError(
            f"`dtype={dtype}` with `copy=False`: the conversion would change the model that you hold. Load it in that "
            "type, `from_pretrained(..., dtype=...)`, or leave `copy` out."
        )
    return model


def load(
    name: str, revision: str, trust_remote_code: bool, dtype: torch.dtype | None = None
) -> tuple[nn.Module, list[str]]:
    """The model of a checkpoint and the names of the weights that the checkpoint lacks."""
    import transformers

    from hf_transfer.models import resolve_name

    path = resolve_name(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(path, **options)
    architecture = next(iter(config.architectures or ()), "")
    remote: Mapping[str, Any] = getattr(config, "auto_map", None) or {}
    if trust_remote_code:
        owner = next((auto for auto, target in remote.items() if str(target).endswith(f".{architecture}")), None)
        architecture = owner or architecture
    model_class = getattr(transformers, architecture, None) if architecture else None
    if model_class is None:
        raise ValueError(
            f"The config of `{name}` names {f'`{architecture}`' if architecture else 'no class'} under "
            "`architectures`, which transformers does not have: the source cannot be loaded with the head it was "
            "trained with. Load it yourself and pass the model, or give `trust_remote_code=True` where the "
            "repository brings its own code and you trust it."
        )
    if dtype is not None:
        options["dtype"] = dtype  # at once, and not by way of the type it is stored in
    model, info = model_class.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
    return model, sorted(info["missing_keys"])
