"""What a run was made with and what it took: versions, device, time, and emissions where they were measured."""

from __future__ import annotations

import csv
import importlib.metadata
import math
import platform
from pathlib import Path
from typing import Any

import torch


LIBRARIES = {
    "hf_transfer": "hf-transfer-learning",
    "transformers": "transformers",
    "peft": "peft",
    "torch": "torch",
    "accelerate": "accelerate",
    "datasets": "datasets",
}

__all__ = ["device_name", "emissions", "seconds_of_training", "versions"]


def versions(*, with_peft: bool) -> dict[str, str]:
    """The versions of Python and of the libraries that a run depends on."""
    found = {"Python": platform.python_version()}
    for name, distribution in LIBRARIES.items():
        if name == "peft" and not with_peft:
            continue
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(args: Any) -> str:
    """What trained: the GPU by its name and how many, or the CPU and its threads."""
    device, ranks = args.device, args.world_size
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        name = f"CPU ({torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)})"
    else:
        name = device.type
    return f"{ranks} x {name}" if ranks > 1 else name


def seconds_of_training(history: list[dict[str, Any]]) -> float | None:
    """Seconds of training in the log of a trainer; of the last session where the run was resumed."""
    return next((float(entry["train_runtime"]) for entry in reversed(history) if "train_runtime" in entry), None)


def emissions(trainer: Any) -> float | None:
    """
    Emissions of training in kg CO2 equivalent as `CodeCarbonCallback` measured them; `None` where it did not run.

    Read off its tracker, or off the last line of the `emissions.csv` that it leaves in the output folder.
    """
    trackers = [getattr(own, "tracker", None) for own in trainer.callback_handler.callbacks]
    for value in (getattr(tracker, "final_emissions", None) for tracker in trackers):
        if isinstance(value, float) and math.isfinite(value):
            return value
    path = Path(str(trainer.args.output_dir)) / "emissions.csv"
    if not any(trackers) or not path.is_file():
        return None  # a file that another run left says nothing of this one
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return float(rows[-1]["emissions"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
