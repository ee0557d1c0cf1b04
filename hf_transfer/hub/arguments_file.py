"""`training_arguments.yaml`: the options of a run for people and for `--config`, in place of a pickle."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import get_token
from transformers import TrainingArguments

from hf_transfer.files import whole_file


ARGUMENTS_NAME = "training_arguments.yaml"

# Of the machine and the moment, not of the run.
_OF_THE_MACHINE = {
    *("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "cache_dir", "frozen_prefix_cache_dir"),
    *("local_rank", "push_to_hub", "do_train", "do_eval", "do_predict", "disable_tqdm", "use_cpu"),
    *("dataloader_pin_memory", "dataloader_num_workers", "log_level", "log_level_replica", "accelerator_config"),
    *("deepspeed", "report_to", "recipe_options"),
}
_OF_THE_MACHINE_BEGIN = ("hub_", "logging_dir", "trackio_", "ddp_backend", "jit_checkpoint")
_IMPLIED = {("metric_for_best_model", "loss")}
"""What `TrainingArguments` fills in where nothing is said."""
_PATH = re.compile(r"(^|[\s=:'\"])(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)")
_TOKEN = re.compile(r"\b(hf|sk|ghp|glpat)[_-][A-Za-z0-9]{16,}")

__all__ = ["ARGUMENTS_NAME", "changed_arguments", "save_training_arguments"]


def changed_arguments(args: TrainingArguments, options: Iterable[Any] = ()) -> dict[str, Any]:
    """
    The options of a run that differ from their defaults, as plain values in the order of their names.

    Tokens and paths of the machine are never among them, whatever the option is called, nor what only says where and
    how loud the run was (`output_dir`, `hub_*`, logs, workers). Of the seeds, `seed` is told even where it is the
    default.

    Args:
        args (`TrainingArguments`): of the loop.
        options (`Iterable`, *optional*): further argument classes, those of a recipe.

    Example:
        >>> from transformers import TrainingArguments
        >>> changed_arguments(TrainingArguments("out", max_steps=3, hub_token="secret"))
        {'max_steps': 3, 'seed': 42}
    """
    found: dict[str, Any] = {"seed": args.seed}
    secrets = {value for value in (args.hub_token, get_token()) if value}
    for source in (args, *options):
        for field in dataclasses.fields(source):
            value = _plain(getattr(source, field.name))
            default = field.default_factory() if callable(field.default_factory) else field.default
            told = field.init and not _hidden(field.name) and value != _plain(default)
            empty = (value is False or value in (None, "", [], {})) and default in (None, "", dataclasses.MISSING)
            implied = (field.name, str(value)) in _IMPLIED
            if told and not empty and not implied and not _private(value, secrets):
                found[field.name] = value
    return dict(sorted(found.items()))


def save_training_arguments(
    args: TrainingArguments, folder: str | os.PathLike[str], options: Iterable[Any] = ()
) -> Path:
    """
    Write [`changed_arguments`] as `training_arguments.yaml` into a folder. Atomic.

    The recipes take such a file by `--config`; what is missing in it, because it was a path, they ask for.

    Returns:
        `Path`: the file.
    """
    path = Path(folder) / ARGUMENTS_NAME
    text = yaml.safe_dump(changed_arguments(args, options), sort_keys=True, allow_unicode=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _hidden(name: str) -> bool:
    return name in _OF_THE_MACHINE or name.startswith(_OF_THE_MACHINE_BEGIN) or name.endswith(("token", "_key"))


def _plain(value: Any) -> Any:
    """A value as YAML has it; `None` for what YAML has not."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool)) else None


def _private(value: Any, secrets: set[str]) -> bool:
    """Whether a token or a path of the machine stands anywhere in a value."""
    words = [value] if isinstance(value, str) else re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(value))
    return any(
        _PATH.search(word) or _TOKEN.search(word) or any(secret in word for secret in secrets) or _is_path(word)
        for word in words
    )


def _is_path(word: str) -> bool:
    """Whether a word names something on this disk: `data/rows.csv` may, `user/model` too if there is one."""
    return os.sep in word and os.path.exists(word)
