"""What the recipes share: arguments from the command line and a YAML file, early checks, the final scores."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments


Arguments = TypeVar("Arguments")

__all__ = ["check_output_dir", "parse", "score"]


def parse(script: str, *dataclass_types: type) -> tuple[Any, ...]:
    """
    The arguments of a recipe: the command line, over the YAML file beside the script (or given by `--config`), over the
    defaults of the dataclasses.

    Args:
        script (`str`): `__file__` of the recipe.
        dataclass_types (`type`): the argument classes, as for `HfArgumentParser`.

    Returns:
        An instance of each class.

    Raises:
        ValueError: if the YAML file has a key that no class knows.
        FileNotFoundError: if the file given by `--config` does not exist.
    """
    words = sys.argv[1:]
    path = Path(script).with_suffix(".yaml")
    if "--config" in words:
        position = words.index("--config")
        path = Path(words[position + 1])
        del words[position : position + 2]
        if not path.is_file():
            raise FileNotFoundError(
                f"`--config {path}`: there is no such file, and the run would take other settings than you think. "
                f"Give a YAML file like `{Path(script).with_suffix('.yaml').name}` beside the recipe."
            )
    settings = yaml.safe_load(path.read_text()) or {} if path.is_file() else {}
    known = {field.name for kind in dataclass_types for field in dataclasses.fields(kind)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(
            f"{path} has {', '.join(unknown)}, which no option is called: the setting would be lost. Run the recipe "
            "with `--help` for the names."
        )
    parser = HfArgumentParser(dataclass_types, description=sys.modules["__main__"].__doc__)
    parser.set_defaults(**settings)
    return parser.parse_args_into_dataclasses(words)


def check_output_dir(args: TrainingArguments) -> None:
    """
    Fail now rather than after training if the results could not be written.

    Raises:
        PermissionError: if the folder cannot be made or written to.
    """
    try:
        os.makedirs(args.output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.output_dir):
            pass
    except OSError as error:
        raise PermissionError(
            f"`--output_dir {args.output_dir}` cannot be written to ({error.strerror}): the trained model would be lost. "
            "Name a folder of your own."
        ) from error


def score(trainer: Trainer, dataset: Any, prefix: str) -> dict[str, float]:
    """Evaluate on `dataset`, print the scores through the trainer and add them to `all_results.json`."""
    metrics = trainer.evaluate(dataset, metric_key_prefix=prefix)
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)
    return metrics
