"""Commands: the one that made a comparison, and those that run one strategy of it alone with the same settings."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_transfer.hub.arguments_file import changed_arguments
from hf_transfer.recipe_arguments import DataArguments, LoopArguments


SCRIPT = "accelerate launch recipes/compare.py"
# what is at another default in a comparison than in the loop of other recipes, and says nothing
_IMPLIED = ("eval_strategy", "save_strategy", "load_best_model_at_end", "logging_strategy", "metric_for_best_model")
_LEFT_OUT = (*_IMPLIED, "greater_is_better", "remove_unused_columns", "report_to", "save_total_limit")

__all__ = ["SCRIPT", "command", "loop_words"]


def command(settings: Mapping[str, Any], *, strategy: str | None = None, model: str | None = None) -> str:
    """
    A command line of `recipes/compare.py`.

    Args:
        settings (`Mapping[str, Any]`): options by name, in the order of the line. What is `None`, empty or `False` is
            left out; `True` is written out.
        strategy (`str`, *optional*): run this one alone, without a learning curve and a budget.
        model (`str`, *optional*): on this model alone.

    Example:
        >>> options = {"model_name_or_path": ["a/b", "c"], "dataset_name": "my data", "budget": "30m"}
        >>> command(options)
        "accelerate launch recipes/compare.py --model_name_or_path a/b c --dataset_name 'my data' --budget 30m"
        >>> command(options, strategy="lora", model="c").removeprefix(SCRIPT)
        " --model_name_or_path c --dataset_name 'my data' --strategies lora --curve false"
    """
    options = dict(settings)
    if model is not None:
        options["model_name_or_path"] = [model]
    if strategy is not None:
        for name in ("budget", "halving", "curve"):
            options.pop(name, None)
        options |= {"strategies": [strategy], "curve": "false"}
    words: list[str] = []
    for name, value in options.items():
        if value in (None, "", False) or value == []:
            continue
        words += [f"--{name}", *_written(value)]
    return " ".join([SCRIPT, shlex.join(words)]).strip()


def loop_words(args: LoopArguments, data_args: DataArguments) -> dict[str, Any]:
    """The options of the loop and of the data that are not at their defaults, without paths of outputs and tokens."""
    loop = {name: value for name, value in changed_arguments(args).items() if name not in _LEFT_OUT}
    if args.max_steps > 0:
        loop.pop("num_train_epochs", None)
    if loop["seed"] == type(args).__dataclass_fields__["seed"].default:
        loop.pop("seed")
    own = {field.name: getattr(data_args, field.name) for field in dataclasses.fields(data_args)}
    defaults = {field.name: field.default for field in dataclasses.fields(data_args)}
    return {**{name: value for name, value in own.items() if value != defaults[name]}, **loop}


def _written(value: Any) -> Sequence[str]:
    if isinstance(value, Mapping):
        return [json.dumps(value)]
    if isinstance(value, str) or not isinstance(value, Iterable):
        whole = isinstance(value, float) and value.is_integer()
        return ["true" if value is True else str(int(value) if whole else value)]
    return [str(own) for own in value]
