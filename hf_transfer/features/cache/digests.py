"""Short checksums of a model, of its processor and of data: what a cached feature depends on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from hf_transfer.features.cache.checksums import class_name, plain, tensor_digest, text_digest
from hf_transfer.features.cache.data_content import data_digest
from hf_transfer.features.cache.processor_state import processor_digest


# Of a configuration: what names the classes, and where the weights came from. The type of numbers is that of each
# tensor.
_UNUSED = {
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("_name_or_path", "transformers_version", "_commit_hash", "architectures", "dtype", "torch_dtype"),
}
# Of an adapter's configuration: the same, and what shows in the modules.
_UNUSED_BY_ADAPTERS = {
    *("base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version"),
    *("modules_to_save", "target_modules"),
}
# What a layer of PEFT applies, and how strongly: no tensor says that.
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling", "fan_in_fan_out")
# The child that `attach` adds; in evaluation mode it changes nothing.
_OBJECTIVES = "transfer_objectives"

__all__ = ["data_digest", "processor_digest", "weights_digest"]


def weights_digest(model: nn.Module, *, without: Iterable[str] = (), only: Iterable[str] | None = None) -> str:
    """
    A checksum of a model as it computes: classes, configuration, every parameter and buffer, adapters and their state.

    Names of the labels, their number and where the weights came from do not count, nor do objectives that [`attach`]
    put into the model: in evaluation mode they change nothing.

    Args:
        model (`nn.Module`):
            Any model, on any device, also under PEFT.
        without (`Iterable[str]`, *optional*):
            Names of modules or parameters to leave out, such as the head. The copies that PEFT keeps of a module that
            is trained in full (`modules_to_save`) are left out together.
        only (`Iterable[str]`, *optional*):
            Names of the modules or parameters to count, in place of all.

    Degenerate cases:
        Hooks and functions that a module calls do not count, unless the module's class is of another name. Tensors in
        plain attributes do not count either, since models keep what they computed last in them.

    Raises:
        ValueError: if a parameter has no data (meta device); if a name in `without` or `only` is not in the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> before = weights_digest(model), weights_digest(model, without=["1"])
        >>> _ = nn.init.zeros_(model[1].weight)
        >>> weights_digest(model) == before[0], weights_digest(model, without=["1"]) == before[1]
        (False, True)
    """
    left_out = [name.partition(".modules_to_save.")[0] for name in without]
    kept = None if only is None else list(only)
    tensors = dict(_tensors(model))
    modules = dict(model.named_modules(remove_duplicate=False))
    _require_names([*left_out, *(kept or ())], [*modules, *tensors])

    def counts(name: str, *, as_parent: bool = False) -> bool:
        if _OBJECTIVES in name.split(".") or any(_within(name, prefix) for prefix in left_out):
            return False
        if kept is None or any(_within(name, prefix) for prefix in kept):
            return True
        return as_parent and any(_within(prefix, name) for prefix in kept)

    known: dict[int, str] = {}  # tied parameters are read once
    parts: list[Any] = [_config(model)]
    for name, module in modules.items():
        if counts(name, as_parent=True):
            parts.append([name, class_name(module), module.extra_repr(), _adapter_state(module)])
    for name, tensor in tensors.items():
        if counts(name):
            if id(tensor) not in known:
                known[id(tensor)] = tensor_digest(tensor, name)
            parts.append([name, known[id(tensor)]])
    return text_digest(json.dumps(parts, sort_keys=True))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters; buffers, also those that are not saved; what quantised layers add when they are saved."""
    seen = set()
    sources: list[Any] = [
        model.named_parameters(remove_duplicate=False),
        model.named_buffers(remove_duplicate=False),
        model.state_dict(keep_vars=True).items(),
    ]
    for source in sources:
        for name, value in source:
            if name not in seen and isinstance(value, Tensor):
                seen.add(name)
                yield name, value


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    return plain(_without(config.to_dict(), _UNUSED)) if isinstance(config, PreTrainedConfig) else None


def _without(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """A copy without these keys at any depth: towers have configurations of their own."""
    return {
        name: _without(value, names) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name not in names
    }


def _adapter_state(module: nn.Module) -> Any:
    state = {}
    if type(module).__module__.startswith("peft."):  # optional, and the layers of its methods share no class
        found = {name: getattr(module, name, None) for name in _ADAPTER_STATE}
        state = {name: plain(value) for name, value in found.items() if value is not None and not callable(value)}
    configs = getattr(module, "peft_config", None)
    if isinstance(configs, Mapping):
        stored = {name: getattr(config, "to_dict", dict)() for name, config in configs.items()}
        state["configs"] = {name: plain(_without(config, _UNUSED_BY_ADAPTERS)) for name, config in stored.items()}
    if "forward" in vars(module):  # prompt learning is switched off, and mixed precision on, in this way
        forward = vars(module)["forward"]
        state["forward"] = getattr(forward, "__qualname__", class_name(forward))
    return state


def _within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + ".")


def _require_names(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            example = next((other for other in known if other), "")
            raise ValueError(
                f"The model has no module or parameter `{name}` - what should (not) count would not be told apart - "
                f"give a name as in `model.named_modules()`, such as `{example}`."
            )
