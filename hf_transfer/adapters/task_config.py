"""`task_config.json`: what an adapter needs to be opened again, and PEFT does not write down."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hf_transfer.adapters.base_checkpoint import frozen_fingerprint, stated_base
from hf_transfer.adapters.heads import labels_of
from hf_transfer.adapters.portable import name_embedded_base
from hf_transfer.files import whole_file


TASK_CONFIG_NAME = "task_config.json"
"""Not `config.json`: beside an adapter, `transformers` would take that for the config of a complete model."""

_VERSIONED = ("hf-transfer-learning", "transformers", "peft", "torch")
_TASKS = {
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForAudioClassification": "audio-classification",
}

__all__ = ["TASK_CONFIG_NAME", "TaskConfig", "read_task_config", "save_task_config", "task_of"]


@dataclass(frozen=True)
class TaskConfig:
    """
    The content of `task_config.json`.

    Args:
        model_class (`str`): class of the base model with its head, such as `ViTForImageClassification`.
        task (`str`): `text-classification`, `regression`, `image-classification`, ...
        num_labels (`int`): outputs of the head.
        id2label (`Mapping[int, str]`): their names.
        problem_type (`str`, *optional*): as in the config of the model.
        base_model (`str`, *optional*): Hub id, `embedded:...`, or folder; None if the model came from no checkpoint.
        base_commit (`str`, *optional*): the commit on the Hub that the base was loaded from.
        base_fingerprint (`tuple[float, float]`, *optional*): of the weights that PEFT keeps frozen, see
            [`~hf_transfer.functional.fingerprint.fingerprint`].
        base_dtype (`str`, *optional*): type of these weights when the fingerprint was taken.
        config (`Mapping[str, int]`, *optional*): what else was changed in the config of the base (`pad_token_id`,
            `vocab_size`).
        versions (`Mapping[str, str]`): of the libraries that wrote it.
    """

    model_class: str
    task: str
    num_labels: int
    id2label: Mapping[int, str]
    problem_type: str | None = None
    base_model: str | None = None
    base_commit: str | None = None
    base_fingerprint: tuple[float, float] | None = None
    base_dtype: str | None = None
    config: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def task_of(model_class: str, num_labels: int = 2, *, main_input: str = "input_ids") -> str:
    """The task of a class of `transformers`; one output for text is a regression, a sequence may be sound."""
    for ending, task in _TASKS.items():
        if ending in model_class:  # in and not at the end: `ForImageClassificationWithTeacher`
            if task == "text-classification" and main_input != "input_ids":
                return "audio-classification"
            regression = task == "text-classification" and num_labels == 1
            return "regression" if regression else task
    return "feature-extraction"


def save_task_config(model: nn.Module, folder: str | os.PathLike[str], *, name: str = "default") -> Path:
    """
    Write `task_config.json` beside the `adapter_config.json` of an adapter, atomically.

    Where the base is an embedded model, `adapter_config.json` gets its name too in place of a folder of this machine.

    Args:
        model (`PeftModel`): the model with the adapter.
        folder (`str` or path): where PEFT saved the adapter.
        name (`str`, *optional*, defaults to `"default"`): which adapter; another one lies in the folder of that name.

    Returns:
        `Path`: the file.

    Raises:
        TypeError: if the model has no adapter.
        ValueError: if it has none of that name.
    """
    adapters: Mapping[str, Any] | None = getattr(model, "peft_config", None)
    if adapters is None or not hasattr(model, "get_base_model"):
        raise TypeError(
            f"`{type(model).__name__}` is no `PeftModel`: a whole model says in its own config.json what it is for. "
            "Use `model.save_pretrained`, or put an adapter on it with `add_adapter` first."
        )
    if name not in adapters:
        raise ValueError(
            f"The model has no adapter `{name}`, so there is nothing to describe; it has {', '.join(adapters)}. Pass "
            "one of these as `name`."
        )
    path = Path(folder) / TASK_CONFIG_NAME
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(asdict(_task_config(model, name)), indent=2) + "\n", encoding="utf-8")
    name_embedded_base(path.parent)
    return path


def read_task_config(folder: str | os.PathLike[str]) -> TaskConfig | None:
    """
    The `task_config.json` of a folder; None where there is none, as beside any adapter saved by PEFT alone.

    Args:
        folder (`str` or path): the folder of an adapter.

    Raises:
        ValueError: if the file is broken.
    """
    path = Path(folder) / TASK_CONFIG_NAME
    if not path.is_file():
        return None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        known = {key: stated[key] for key in (entry.name for entry in fields(TaskConfig)) if key in stated}
        names = {int(number): str(label) for number, label in dict(known["id2label"]).items()}
        read = TaskConfig(**{**known, "id2label": names})
        texts = (read.model_class, read.task, *(text for text in (read.base_model, read.base_commit) if text))
        whole = all(isinstance(text, str) for text in texts) and isinstance(read.num_labels, int)
        if not whole or sorted(names) != list(range(read.num_labels)):
            raise ValueError("its entries do not fit each other")
        if read.base_fingerprint is not None:
            first, second = map(float, read.base_fingerprint)
            read = TaskConfig(**{**vars(read), "base_fingerprint": (first, second)})
        return read
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name} of the adapter cannot be read ({error!r}): the base model and the names of the labels would "
            "be guesses. Save the adapter again with `save_adapter`, or delete the file to have them inferred."
        ) from error


def _task_config(model: Any, name: str) -> TaskConfig:
    base = model.get_base_model()
    config = base.config
    text_config = config.get_text_config()
    stated = {key: getattr(text_config, key, None) for key in ("pad_token_id", "vocab_size")}
    base_name, commit = stated_base(model, name)
    frozen = frozen_fingerprint(model, name)
    labels = labels_of(model, name)  # of this adapter; the config shows those of the active one
    return TaskConfig(
        model_class=type(base).__name__,
        task=task_of(type(base).__name__, labels.num_labels, main_input=base.main_input_name),
        num_labels=labels.num_labels,
        id2label={int(number): str(label) for number, label in labels.id2label.items()},
        problem_type=labels.problem_type,
        base_model=base_name,
        base_commit=commit,
        base_fingerprint=None if frozen is None else (frozen[0].item(), frozen[1].item()),
        base_dtype=None if frozen is None else _bare(base.dtype),
        config={key: value for key, value in stated.items() if isinstance(value, int)},
        versions={package: _version(package) for package in _VERSIONED},
    )


def _bare(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
