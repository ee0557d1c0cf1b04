"""What runs of a comparison depend on, and what they came to, in the form that is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list

from hf_transfer.recipe_arguments import LoopArguments


# what changes neither weights nor scores of a run
_IRRELEVANT = (
    *("output_dir", "logging", "log_", "report_to", "run_name", "hub_", "push_to_hub", "disable_tqdm"),
    *("save_", "resume_from_checkpoint", "per_device_eval", "dataloader_"),
)
_TIMINGS = ("_runtime", "_per_second", "_preparation_time", "epoch")

__all__ = ["finite", "loop_settings", "shared", "without_timings"]

T = TypeVar("T")


def loop_settings(args: LoopArguments) -> dict[str, Any]:
    """The options of the loop that all runs have in common and their results depend on, and the number of ranks."""
    names = [field.name for field in fields(args) if field.init and field.name != "seed"]
    loop = {name: getattr(args, name) for name in names if not name.startswith(_IRRELEVANT)}
    return {**loop, "world_size": args.world_size}


def shared(value: T) -> T:
    """The value that the first rank has, on all."""
    return broadcast_object_list([value])[0]


def finite(scores: Mapping[str, float]) -> dict[str, Any]:
    """
    Scores for JSON, which knows no NaN: `None` instead.

    Example:
        >>> finite({"loss": math.nan, "accuracy": 0.5})
        {'loss': None, 'accuracy': 0.5}
    """
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def without_timings(scores: Mapping[str, float]) -> dict[str, float]:
    """
    Scores without how long it took to find them.

    Example:
        >>> without_timings({"test_accuracy": 0.5, "test_runtime": 2.0, "epoch": 3.0})
        {'test_accuracy': 0.5}
    """
    return {name: value for name, value in scores.items() if not name.endswith(_TIMINGS)}
