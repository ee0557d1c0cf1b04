"""Save adapters so that they open again anywhere: PEFT's files, the sidecar, the processor, all or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hf_transfer.adapters.repository import CONFIG_NAME, WEIGHTS_NAME
from hf_transfer.adapters.task_config import TASK_CONFIG_NAME, save_task_config
from hf_transfer.checkpoint import save_statistics


__all__ = ["save_adapter"]

# The last file makes a folder that of an adapter, so it comes when the others are there.
_LAST = (WEIGHTS_NAME, TASK_CONFIG_NAME, CONFIG_NAME)


def save_adapter(model: Any, folder: str | os.PathLike[str], *, processor: Any = None) -> Path:
    """
    Write the adapters of a model in PEFT's layout, with what PEFT leaves out, so that [`load_adapter`] opens them.

    The adapter `default` lies in the folder, each other one in a subfolder of its name. Beside them are
    `task_config.json` (labels, class and commit of the base model), the running statistics that training moved, and
    the processor. The files are written to a folder of their own and take their names when all are there; a new
    `folder` appears whole.

    Args:
        model (`PeftModel`):
            The model with the adapters.
        folder (`str` or path):
            Where they go; other files there stay.
        processor (*optional*):
            Tokenizer or image processor to save with them.

    Returns:
        `Path`: the folder.

    Raises:
        TypeError: if the model has no adapter.
        OSError: if it cannot be written; what was there is as it was.

    Relations:
        [`remove_machine_paths`] makes the folder fit for the Hub where the base model is a folder of this machine.
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "save_pretrained"):
        raise TypeError(
            f"`{type(model).__name__}` is no `PeftModel`: it has no adapter to save. Use `model.save_pretrained` for "
            "a whole model, or put an adapter on it with `add_adapter` first."
        )
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that renaming cannot cross file systems
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.save_pretrained(str(unfinished))
        for name in model.peft_config:
            place = unfinished if name == "default" else unfinished / name
            save_task_config(model, place, name=name)
            save_statistics(model, place)
        if processor is not None:
            processor.save_pretrained(str(unfinished))
        os.chmod(unfinished, 0o755)  # mkdtemp makes it private
        _publish(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _publish(unfinished: Path, target: Path) -> None:
    if not target.exists():
        os.rename(unfinished, target)
        return
    files = [path for path in unfinished.rglob("*") if path.is_file()]
    files.sort(key=lambda path: _LAST.index(path.name) if path.name in _LAST else -1)
    for path in files:
        goal = target / path.relative_to(unfinished)
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, goal)
