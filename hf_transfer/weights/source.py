"""Where weights come from: a folder or file of safetensors, the Hub, a state dict or a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import file_exists
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME
from transformers.utils.hub import cached_file

from hf_transfer.attach import CHILD
from hf_transfer.weights.slots import base_of, has_adapters, slots


PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_ADAPTER_PARTS = ("lora_", "ia3_l", "hada_", "lokr_", "vera_lambda_", "oft_", "boft_", "base_layer", "modules_to_save")
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")

__all__ = ["Checkpoint", "Source", "open_source"]

Checkpoint = str | os.PathLike[str] | Mapping[str, Tensor] | nn.Module
"""What weights can be taken from."""


@dataclass
class Source:
    """
    The tensors of a checkpoint by name, read only when asked for.

    Args:
        title (`str`): what to call it in messages.
        shapes (`dict[str, tuple[int, ...]]`): the shape of every tensor.
        settings (`dict`): its configuration as in `config.json`; empty if there is none.
        as_module (`bool`): whether the names are those of a module, not those of a file on the Hub.
        prefix (`str`): the `base_model_prefix` of a model.
    """

    title: str
    shapes: dict[str, tuple[int, ...]]
    settings: dict[str, Any]
    _where: dict[str, Any]
    as_module: bool = False
    prefix: str = ""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names, on the CPU if they come from files."""
        tensors: dict[str, Tensor] = {}
        by_file: dict[Path, list[str]] = {}
        for name in names:
            where = self._where[name]
            if isinstance(where, Tensor):
                tensors[name] = where.detach()
            else:
                by_file.setdefault(where[0], []).append(name)
        for path, inside in by_file.items():
            with safe_open(path, framework="pt") as file:
                tensors.update((name, file.get_tensor(self._where[name][1])) for name in inside)
        return tensors

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the outputs; `None` if nothing tells."""
        if not self.settings:
            return None
        # a config with the two labels every config has by default does not write them down
        named = self.settings.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
        return tuple(str(named[key]) for key in sorted(named, key=int))


def open_source(checkpoint: Checkpoint, *, revision: str = "main") -> Source:
    """
    Open a checkpoint without reading its tensors.

    Args:
        checkpoint (`str`, path, `Mapping[str, Tensor]` or `nn.Module`):
            Folder with `model.safetensors` or its shards, `.safetensors` file, Hub id, state dict or model.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit on the Hub.

    Raises:
        ValueError: if the weights are pickled, are adapters, or the file is damaged.
        FileNotFoundError: if there is no such path, or it holds no weights.
        OSError: if the Hub has no such model.
        TypeError: if it is nothing of the kind.
    """
    if isinstance(checkpoint, nn.Module):
        return _from_model(checkpoint)
    if isinstance(checkpoint, Mapping):
        return _from_tensors(checkpoint)
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(
            f"The checkpoint is a {type(checkpoint).__name__}: there are no named tensors in it. Pass a folder, a "
            "`.safetensors` file, a Hub id, a state dict or a model."
        )
    return _from_files(os.fspath(checkpoint), revision)


def _from_model(model: nn.Module) -> Source:
    for wrapper in ("_orig_mod", "module"):
        inner = getattr(model, wrapper, None)
        model = inner if isinstance(inner, nn.Module) else model
    if has_adapters(model):
        raise ValueError(
            f"The source {type(base_of(model)).__name__} carries adapters of PEFT: the weights of its layers are not "
            "the weights in effect. Pass what `merge_and_unload()` returns, on a copy if you go on training it."
        )
    found = {alias: slot.tensor for slot in slots(model).values() for alias in slot.aliases}
    config: Any = getattr(model, "config", None)
    return Source(
        title=type(model).__name__,
        shapes={name: tuple(tensor.shape) for name, tensor in found.items()},
        settings=config.to_dict() if hasattr(config, "to_dict") else {},
        _where=found,
        as_module=True,
        prefix=getattr(model, "base_model_prefix", ""),
    )


def _from_tensors(state: Mapping[str, Tensor]) -> Source:
    _refuse_adapters(state, "The state dict")
    found = {_unwrapped(name): tensor for name, tensor in state.items() if CHILD not in name.split(".")}
    odd = [name for name, tensor in found.items() if not isinstance(tensor, Tensor)]
    if odd or not found:
        what = f"`{odd[0]}` is a {type(found[odd[0]]).__name__}" if odd else "it is empty"
        raise ValueError(
            f"The mapping is no state dict: {what}, where every value should be a tensor. Pass the inner mapping that "
            "`model.state_dict()` gave."
        )
    return Source("state dict", {name: tuple(tensor.shape) for name, tensor in found.items()}, {}, dict(found))


def _from_files(name: str, revision: str) -> Source:
    files = _weight_files(name, revision)
    where: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    if CHILD not in key.split("."):
                        where[_unwrapped(key)] = (path, key)
                        shapes[_unwrapped(key)] = tuple(file.get_slice(key).get_shape())
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no whole safetensors file ({error}): its weights cannot be told. Copy or download it anew."
            ) from error
    _refuse_adapters([key for _, key in where.values()], name)
    settings = files[0].parent / CONFIG_NAME
    if not Path(name).exists():
        found = cached_file(
            name, CONFIG_NAME, revision=revision, _raise_exceptions_for_missing_entries=False
        )  # beside the weights in the cache, but only if asked for
        settings = Path(found) if found else settings
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    return Source(title=name, shapes=shapes, settings=config, _where=where)


def _weight_files(name: str, revision: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise _unsafe(path.name) if path.suffix in PICKLED else _no_weights(name)
        return [path]
    if path.is_dir():
        index, single = path / SAFE_WEIGHTS_INDEX_NAME, path / SAFE_WEIGHTS_NAME
        if single.is_file():
            return [single]
        if not index.is_file():
            if (path / "adapter_model.safetensors").is_file():
                raise _adapters(name)
            pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
            raise _unsafe(f"{name} ({', '.join(pickled[:3])})") if pickled else _no_weights(name)
        shards = [path / shard for shard in _shards(index)]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{name} lacks {', '.join(missing[:3])} of the {len(shards)} shards in its index: parts of the model "
                "would silently stay as they are. Copy the whole checkpoint."
            )
        return shards
    if path.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1:
        raise FileNotFoundError(
            f"The path {name} does not exist: there are no weights to transfer. Check the spelling, or pass a Hub id "
            "such as `user/name`."
        )
    return _hub_files(name, revision)


def _hub_files(name: str, revision: str) -> list[Path]:
    def fetch(file: str) -> str | None:
        return cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)

    if single := fetch(SAFE_WEIGHTS_NAME):
        return [Path(single)]
    if index := fetch(SAFE_WEIGHTS_INDEX_NAME):
        return [Path(cached_file(name, shard, revision=revision) or shard) for shard in _shards(Path(index))]
    if fetch("adapter_config.json"):
        raise _adapters(name)
    with suppress(OSError):  # asked without downloading it; offline nobody can tell
        if file_exists(name, WEIGHTS_NAME, revision=revision):
            raise _unsafe(f"{name} ({WEIGHTS_NAME})")
    raise _no_weights(name)


def _shards(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _unwrapped(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def _refuse_adapters(names: Iterable[str], title: str) -> None:
    if any(part.startswith(_ADAPTER_PARTS) for name in names for part in name.split(".")):
        raise _adapters(title)


def _adapters(title: str) -> ValueError:
    return ValueError(
        f"{title} holds adapters of PEFT: they are changes of weights, not weights. Load them on their base model "
        "with `PeftModel.from_pretrained`, and pass what `merge_and_unload()` returns."
    )


def _unsafe(what: str) -> ValueError:
    return ValueError(
        f"{what} is pickled: opening such a file runs whatever code is in it. Load it where you trust it and write it "
        "with `save_pretrained`, then pass that folder."
    )


def _no_weights(name: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} has no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}: there are no weights to transfer. Pass "
        "a folder that `save_pretrained` wrote, or a `.safetensors` file."
    )
