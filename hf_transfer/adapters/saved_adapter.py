"""A saved adapter as it lies in its folder: config, sidecar and the shapes of its weights, none of it trusted."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_transfer._blocks import bare_name
from hf_transfer.adapters.repository import CONFIG_NAME, WEIGHTS_NAME, refuse_pickle
from hf_transfer.adapters.task_config import TaskConfig, read_task_config


# Under which names PEFT keeps a layer's weights: it wraps the model twice, for prompts once.
_PREFIXES = ("base_model.model.", "base_model.")

__all__ = ["SavedAdapter", "read_adapter"]


@dataclass(frozen=True)
class SavedAdapter:
    """
    Args:
        source (`str`): what the user called it, for messages.
        folder (`Path`): where it lies.
        config (`PeftConfig`): from `adapter_config.json`.
        task (`TaskConfig`, *optional*): from `task_config.json`; None for what PEFT alone saved.
        shapes (`dict[str, tuple[int, ...]]`): of the weights, by their names in the file.
    """

    source: str
    folder: Path
    config: Any
    task: TaskConfig | None
    shapes: dict[str, tuple[int, ...]]

    @property
    def whole_weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the names that the base model gives its weights; those of the adapters match none of them."""
        stripped = {}
        for name, shape in self.shapes.items():
            prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
            stripped[bare_name(name.removeprefix(prefix))] = shape
        return stripped


def read_adapter(folder: Path, source: str) -> SavedAdapter:
    """
    Read what says how an adapter is to be loaded, but for the weights themselves.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if a file is broken, the weights are a pickle, or the config names code outside of transformers.
    """
    stated = _stated(folder, source)
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        refuse_pickle((path.name for path in folder.iterdir()), f"`{source}`")
        raise FileNotFoundError(
            f"`{source}` has an {CONFIG_NAME} but no {WEIGHTS_NAME}: the adapter would be untrained. Push or copy it "
            "again, with all its files."
        )
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{WEIGHTS_NAME} of `{source}` is no whole safetensors file ({error}): it is cut off or of another kind. "
            "Download or save it again."
        ) from error
    return SavedAdapter(source, folder, _config(stated, source), read_task_config(folder), shapes)


def _stated(folder: Path, source: str) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(stated, dict) or not isinstance(stated.get("peft_type"), str):
            raise ValueError("it names no `peft_type`")
        return stated
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{CONFIG_NAME} of `{source}` cannot be read ({error}): it says which adapter goes where. Download or "
            "save the adapter again."
        ) from error


def _config(stated: dict[str, Any], source: str) -> Any:
    from peft import PeftConfig

    if stated.get("megatron_config"):
        raise ValueError(
            f"`{source}` asks PEFT for layers of Megatron (`megatron_config`), whose module the file names: it would "
            "be imported, whatever it is. Remove the entry, or load the adapter with PEFT if you trust it."
        )
    library = (stated.get("auto_mapping") or {}).get("parent_library")
    if library is not None and str(library).split(".")[0] != "transformers":
        raise ValueError(
            f"`{source}` belongs to a model class of `{library}`, not of transformers: importing that could run any "
            "code. If you trust it, load the model yourself: load_adapter(..., base_model=model)."
        )
    try:
        with warnings.catch_warnings():
            # an adapter of a later PEFT has settings that this one does not know
            warnings.filterwarnings("ignore", "Unexpected keyword arguments", UserWarning)
            return PeftConfig.from_peft_type(
                **{key: entry for key, entry in stated.items() if key != "runtime_config"}
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{CONFIG_NAME} of `{source}` is for `{stated['peft_type']}` and this PEFT cannot read it ({error!r}): "
            "the adapter would be another one. Upgrade PEFT (`pip install -U peft`), or save the adapter again."
        ) from error
