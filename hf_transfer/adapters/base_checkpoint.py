"""The base model of an adapter: where it came from, and whether its weights are still the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hf_transfer._blocks import OBJECTIVES
from hf_transfer.functional.fingerprint import fingerprint
from hf_transfer.models import EMBEDDED


# `~/.cache/huggingface/hf_transfer/source_image_0123456789ab`, see `hf_transfer.data.source_models`
_EMBEDDED_FOLDER = re.compile(r"source_(image|text)_[0-9a-f]{12}")
_SNAPSHOT = re.compile(r"models--(?P<name>[^/\\]+)[/\\]snapshots[/\\](?P<commit>[0-9a-f]{40})[/\\]?$")

__all__ = ["frozen_fingerprint", "frozen_weights", "stated_base", "stated_name"]


def stated_name(name: str) -> tuple[str, str | None]:
    """
    A base model's name as another machine knows it, and its commit where the name is a folder of the Hub's cache.

    Example:
        >>> stated_name("/cache/hf_transfer/source_image_0123456789ab")
        ('embedded:image', None)
        >>> stated_name("user/name")
        ('user/name', None)
    """
    path = Path(name)
    embedded = _EMBEDDED_FOLDER.fullmatch(path.name)
    if embedded and path.parent.name == "hf_transfer":
        return EMBEDDED + embedded[1], None
    snapshot = _SNAPSHOT.search(name)
    if snapshot:
        return snapshot["name"].replace("--", "/", 1), snapshot["commit"]
    return name, None


def stated_base(model: Any, name: str = "default") -> tuple[str | None, str | None]:
    """
    Name and commit of the checkpoint under an adapter; None for what is unknown.

    transformers 5.23 does not note the commit with the model. It is the one that the Hub's cache has for the revision
    in the adapter's config, or for `main`.
    """
    config = model.peft_config[name]
    base = model.get_base_model()
    source = getattr(base, "name_or_path", None) or config.base_model_name_or_path
    if not source:
        return None, None
    stated, commit = stated_name(source)
    return stated, commit or getattr(base.config, "_commit_hash", None) or _cached_commit(stated, config.revision)


def _cached_commit(name: str, revision: str | None) -> str | None:
    if name.startswith(EMBEDDED) or name.count("/") > 1 or os.path.exists(name):
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision or "main")
    snapshot = _SNAPSHOT.search(os.path.dirname(found)) if isinstance(found, str) else None
    return snapshot["commit"] if snapshot else None


def frozen_weights(model: Any, name: str = "default") -> Iterator[tuple[str, Tensor]]:
    """
    The weights that an adapter leaves as the base checkpoint has them, under the base model's names.

    Left out are the adapters, what the adapter `name` keeps a copy of (`modules_to_save`), and the biases where its
    method trains them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    base: nn.Module = model.get_base_model()
    own: set[int] = set()
    for module in base.modules():
        kept: nn.Module | None = None
        if isinstance(module, BaseTunerLayer):
            kept = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper) and name not in module.modules_to_save:
            kept = module.original_module
        elif not isinstance(module, AuxiliaryTrainingWrapper):
            continue
        spared = set() if kept is None else set(map(id, kept.parameters()))
        own.update(id(parameter) for parameter in module.parameters() if id(parameter) not in spared)
    bias = getattr(model.peft_config[name], "bias", "none") not in (None, "none")
    for parameter_name, parameter in base.named_parameters():
        trained = bias and parameter_name.endswith(".bias")
        if id(parameter) not in own and not trained and OBJECTIVES not in parameter_name.split("."):
            yield parameter_name.replace(".base_layer", "").replace(".original_module", ""), parameter


def frozen_fingerprint(model: Any, name: str = "default") -> Tensor | None:
    """
    The [`~hf_transfer.functional.fingerprint.fingerprint`] of [`frozen_weights`], in the order of their names.

    None where it says nothing: with an adapter merged into the weights, and for weights that are sharded or quantised.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules()):
        return None
    weights = dict(sorted(frozen_weights(model, name)))
    if not weights or any(
        isinstance(weight, DTensor) or weight.is_meta or not weight.is_floating_point() for weight in weights.values()
    ):
        return None
    return fingerprint(weights.values())
