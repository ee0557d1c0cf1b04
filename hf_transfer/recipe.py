"""What the recipes share: arguments from the command line or a YAML file, early checks, the final scores."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.utils import logging as hf_logging

from hf_transfer.arguments import TransferArguments
from hf_transfer.files import whole_file
from hf_transfer.hub.repository import check_push
from hf_transfer.model_card.recipes import over_seeds
from hf_transfer.repeats import repeats_table, summarise


logger = hf_logging.get_logger(__name__)

__all__ = ["parse", "prepare_run", "save_summary", "score", "show_messages"]


def parse(script: str, *dataclass_types: Any) -> tuple[Any, ...]:
    """
    The arguments of a recipe: those of the command line, over those of the YAML file named by `--config`. Without any
    argument, the YAML file beside the script, which runs on embedded data.

    Args:
        script (`str`):
            `__file__` of the recipe.
        dataclass_types (`type`):
            The argument classes, as for `HfArgumentParser`.

    Returns:
        An instance of each class.

    Raises:
        ValueError: if the YAML file has a key that no class knows, or no keys but something else.
        FileNotFoundError: if the file named by `--config` does not exist.
    """
    words = sys.argv[1:] or ["--config", str(Path(script).with_suffix(".yaml"))]
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" in words:
        position = words.index("--config")
        path = Path(words[position + 1]) if position + 1 < len(words) else Path()
        known = {field.name for kind in dataclass_types for field in dataclasses.fields(kind)}
        words = [*_words(_read(path), known, path), *words[:position], *words[position + 2 :]]
    parser = HfArgumentParser(
        dataclass_types,
        description=sys.modules["__main__"].__doc__,
        usage="%(prog)s [--config FILE] [--option value ...]",
        formatter_class=_HelpFormatter,
    )
    parsed = parser.parse_args_into_dataclasses(words)
    for args in parsed:
        if isinstance(args, TransferArguments):
            args.recipe_options = [other for other in parsed if other is not args]
    return parsed


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and shows the defaults."""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"`--config {path}`: there is no such file, and the run would take other settings than you think. Give a "
            "YAML file of options, like those beside the recipes."
        )
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"`--config {path}` is no YAML ({error}): none of it can be taken. Write one `name: value` a line, like "
            "the files beside the recipes."
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"`--config {path}` holds a {type(settings).__name__}, not options: none of it would be taken. Write one "
            "`name: value` a line, like the files beside the recipes."
        )
    return settings


def _words(settings: Mapping[str, Any], known: set[str], path: Path) -> list[str]:
    """Settings as they would stand on the command line, where later words win."""
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(
            f"{path} has {', '.join(unknown)}, which is no option: the setting would be lost. Run the recipe with "
            "`--help` for the names."
        )
    words = []
    for key, value in settings.items():
        if value is None:
            continue  # the default, which no word on the command line stands for
        values = value if isinstance(value, list) else [value]
        words += [f"--{key}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in values)]
    return words


def show_messages(level: int = logging.INFO) -> None:
    """Make the library's own messages visible from a level on."""
    own = logging.getLogger("hf_transfer")
    if not own.handlers:
        own.addHandler(logging.StreamHandler())
    own.setLevel(level)


def prepare_run(args: TrainingArguments, *, repo_type: str = "model") -> None:
    """
    Make the library's own messages visible on the main process, and fail now if the results could not be written, or
    not be pushed where `--push_to_hub` asks for it. A Hub that is out of reach is a warning only.

    Args:
        args (`TrainingArguments`): of the run.
        repo_type (`str`, *optional*, defaults to `"model"`): what is pushed, or `"dataset"`.

    Raises:
        PermissionError: if the output folder cannot be made or written to, or the Hub refuses the repository.
        ValueError: if the repository has no name that it can have.
    """
    show_messages(logging.INFO if args.should_log else logging.WARNING)
    try:
        os.makedirs(str(args.output_dir), exist_ok=True)
        with tempfile.TemporaryFile(dir=args.output_dir):
            pass
    except OSError as error:
        raise PermissionError(
            f"`--output_dir {args.output_dir}` cannot be written to ({error.strerror}): the trained model would be "
            "lost. Name a folder of your own."
        ) from error
    if args.push_to_hub:
        check_push(args, repo_type=repo_type)


def score(trainer: Trainer, dataset: Any, prefix: str) -> dict[str, float]:
    """Evaluate on `dataset`, print the scores and add them to `all_results.json` in the output folder."""
    # The Trainer (transformers 5.23) drops the last rows of evaluations too.
    trainer.args.dataloader_drop_last = False
    metrics = trainer.evaluate(dataset, metric_key_prefix=prefix)
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)
    return metrics


def save_summary(
    scores: Mapping[int, Mapping[str, float]], args: TrainingArguments, *, soup: Mapping[str, float] | None = None
) -> None:
    """
    Write what several seeds scored into `all_results.json` of the output folder, and print it as a table.

    For every score there are its mean under its own name, `<name>_std`, `<name>_interval` (95%, Student) and
    `<name>_by_seed`. Where a seed has a score that is not finite, mean, deviation and interval are null.

    Args:
        scores (`Mapping[int, Mapping[str, float]]`): the scores of each seed by name.
        args (`TrainingArguments`): names the folder; only the main process writes.
        soup (`Mapping[str, float]`, *optional*): the scores of the average of the models, added as `soup_<name>`.
    """
    if not args.should_save:
        return
    timings = ("_runtime", "_per_second", "_preparation_time", "epoch")
    names = [name for name in next(iter(scores.values())) if not name.endswith(timings)]
    summary: dict[str, Any] = {"seeds": list(scores)}
    finite: dict[str, dict[int, float]] = {}
    for name in names:
        values = {seed: own[name] for seed, own in scores.items()}
        mean = std = interval = None
        if all(map(math.isfinite, values.values())):
            finite[name] = values
            result = summarise(values)
            mean, std, interval = result.mean, result.std, result.interval
        else:
            logger.warning(f"`{name}` is not finite for every seed: it has no mean. See {name}_by_seed.")
        summary |= {name: mean, f"{name}_std": std, f"{name}_interval": interval}
        summary[f"{name}_by_seed"] = [value if math.isfinite(value) else None for value in values.values()]
    averaged = {f"soup_{name}": (soup or {})[name] for name in names if name in (soup or {})}
    if finite:
        logger.info(f"Over {len(scores)} seeds:\n{repeats_table(finite).replace('| method |', '| score |')}")
    if averaged:
        logger.info(f"The soup: {', '.join(f'{name} {value:.4f}' for name, value in averaged.items())}")
    with whole_file(Path(str(args.output_dir)) / "all_results.json") as unfinished:
        unfinished.write_text(json.dumps(summary | averaged, indent=4), encoding="utf-8")
    over_seeds(str(args.output_dir), finite)
