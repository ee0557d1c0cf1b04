"""Which files of a folder belong to a push, and which files of a repository a push makes old."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Collection
from pathlib import Path

from hf_transfer.checkpoint import OBJECTIVES_NAME


PICKLES = ("*.bin", "*.ckpt", "*.joblib", "*.pickle", "*.pkl", "*.pt", "*.pth")
"""Never pushed but in a checkpoint, where the stock `Trainer` writes optimizer, schedule and random state so."""

_RESUMING = ("comparison.json", "rates.json", "time.json")  # by which a comparison goes on
_LEFT_OUT = (".*", "_*", "*.log", "*.tmp", "*.py[co]", "trainer_state.json", *_RESUMING, *PICKLES)
_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
_WHOLE = re.compile(r"(config\.json|(model|pytorch_model)[^/]*\.(safetensors|bin)(\.index\.json)?)")
_ADAPTED = re.compile(
    r"(adapter_config\.json|adapter_model[^/]*\.(safetensors|bin)|task_config\.json|running_statistics\.safetensors)"
)
_BESIDE = re.compile(r"(training_args\.bin|objectives\.safetensors)")
_PROCESSOR = re.compile(
    r"(tokenizer[^/]*|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt|[^/]*\.model|"
    r"(preprocessor|processor|image_processor|video_processor)_config\.json|chat_template\.(jinja|json))"
)
_FOLDERS = ("additional_chat_templates",)

__all__ = ["PICKLES", "is_stale", "pushed_files"]


def pushed_files(
    folder: str | os.PathLike[str], *, adapter: bool | None = None, objectives: bool = False
) -> dict[str, Path]:
    """
    What of an output folder is pushed: the files at its top, and the folders of further adapters of PEFT.

    Left out are checkpoints, the folders of runs and logs, hidden and unfinished files, `trainer_state.json` (it holds
    paths of the machine), the state of the objectives, and every pickle. Of a folder that holds a whole model and an
    adapter, because two runs wrote into it, only the one asked for is taken.

    Args:
        folder (`str` or path): what a run left.
        adapter (`bool`, *optional*): whether it is to be pushed as an adapter; by default as what it holds.
        objectives (`bool`, *optional*, defaults to `False`): take the state of the objectives too.

    Returns:
        The files by their path in the repository.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it to push.
        ValueError: if it holds both, and `adapter` does not say which is meant.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}: nothing can be pushed from it. Name the `--output_dir` of a finished run."
        )
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and _kept(path.name)}
    whole = _CONFIG in found and any(_WHOLE.fullmatch(name) for name in found if name != _CONFIG)
    if adapter is None and whole and _ADAPTER in found:
        raise ValueError(
            f"{folder} holds a whole model and an adapter: whoever loads the repository would get one with the "
            "weights of the other. Save the one that is meant into a folder of its own, or push by the trainer."
        )
    if adapter is None:
        adapter = _ADAPTER in found
    other = _WHOLE if adapter else _ADAPTED
    found = {name: path for name, path in found.items() if not other.fullmatch(name)}
    if not objectives:
        found.pop(OBJECTIVES_NAME, None)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name in _FOLDERS or (adapter and (inner / _ADAPTER).is_file() and _kept(inner.name)):
            inside = [path for path in sorted(inner.iterdir()) if path.is_file() and _kept(path.name)]
            found |= {f"{inner.name}/{path.name}": path for path in inside}
    if not found:
        raise FileNotFoundError(
            f"{folder} holds nothing to push: no model, adapter or card. Name the `--output_dir` of a finished run."
        )
    return found


def is_stale(path: str, pushed: Collection[str]) -> bool:
    """
    Whether a file of the repository belongs to the model that this push takes the place of.

    Configurations and weights of a whole model or an adapter, shards among them, and what goes with these; the files
    of a processor where the push brings one. Nothing else is touched: it may be of the owner.

    Args:
        path (`str`): of a file in the repository.
        pushed (`Collection[str]`): the paths of this push.

    Example:
        >>> now = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        >>> [is_stale(path, now) for path in ("model-00001-of-00002.safetensors", "config.json", "notes.md")]
        [True, True, False]
    """
    if path in pushed:
        return False
    brings_model = any(_WHOLE.fullmatch(name) or _ADAPTED.fullmatch(name) for name in pushed)
    model = _WHOLE.fullmatch(path) or _ADAPTED.fullmatch(path) or _BESIDE.fullmatch(path)
    brings_processor = any(_PROCESSOR.fullmatch(name) for name in pushed)
    return bool((brings_model and model) or (brings_processor and _PROCESSOR.fullmatch(path)))


def _kept(name: str) -> bool:
    return not any(fnmatch.fnmatch(name, pattern) for pattern in _LEFT_OUT)
