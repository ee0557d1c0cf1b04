"""What a model costs: parameters, size on disk, latency and throughput on a device."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn

from hf_transfer.modes import undisturbed
from hf_transfer.source import inputs_of


WARM_UP = 5
"""Forwards before the first that counts: kernels are chosen and memory is taken then."""

__all__ = ["Cost", "measure", "size_on_disk"]


@dataclass(frozen=True)
class Cost:
    """
    What a model costs.

    Args:
        parameters (`int`): weights, each counted once.
        bytes (`int`, *optional*): size of its safetensors files.
        latency_ms (`float`): median time of a forward of one row, in milliseconds.
        latency_p90_ms (`float`): the time that nine of ten such forwards stay below.
        throughput (`float`): rows per second in batches of `batch_size`, from the median time.
        batch_size (`int`): rows of these batches.
        device (`str`): where it ran.
        dtype (`str`): float type of its weights.
        threads (`int`): of the CPU.
    """

    parameters: int
    bytes: int | None
    latency_ms: float
    latency_p90_ms: float
    throughput: float
    batch_size: int
    device: str
    dtype: str
    threads: int


def measure(
    model: nn.Module,
    one: Mapping[str, Any],
    many: Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    repeats: int = 30,
) -> Cost:
    """
    Time forwards of a model in evaluation mode, where it is, after a warm-up. Modes and random numbers are put back.

    Args:
        model (`nn.Module`): any classifier of transformers.
        one (`Mapping[str, Any]`): a batch of one row.
        many (`Mapping[str, Any]`): a batch of several.
        folder (`str` or path, *optional*): where it is saved, for its size.
        repeats (`int`, *optional*, defaults to 30): forwards of which the median is taken, 20 or more.

    Raises:
        ValueError: if `repeats` is less than 20.
    """
    if repeats < 20:
        raise ValueError(
            f"`repeats={repeats}` is too few for a 90% quantile: one slow forward would be it. Give 20 or more."
        )
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    device = parameter.device
    single, several = inputs_of(model, one, device), inputs_of(model, many, device)
    rows = next(len(value) for value in several.values() if isinstance(value, torch.Tensor))
    with undisturbed(model):
        times = _times(lambda: model(**single), device, repeats)
        batches = _times(lambda: model(**several), device, repeats)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=None if folder is None else size_on_disk(folder),
        latency_ms=1e3 * statistics.median(times),
        latency_p90_ms=1e3 * statistics.quantiles(times, n=10, method="inclusive")[-1],
        throughput=rows / statistics.median(batches),
        batch_size=rows,
        device=str(device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def size_on_disk(folder: str | os.PathLike[str]) -> int | None:
    """Bytes of the safetensors files of a folder, or of a Hub id in the cache; `None` where there are none."""
    folder = _in_cache(folder) or folder
    sizes = [path.stat().st_size for path in Path(folder).glob("*.safetensors")]
    return sum(sizes) or None


def _in_cache(name: str | os.PathLike[str]) -> str | None:
    """The folder in which the files of a Hub id lie, if they were fetched."""
    if Path(name).exists() or not isinstance(name, str) or name.count("/") > 1:
        return None
    config = try_to_load_from_cache(name, "config.json")
    return os.path.dirname(config) if isinstance(config, str) else None


def _times(forward: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each forward."""
    for _ in range(WARM_UP):
        forward()
    _wait(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        forward()
        _wait(device)
        times.append(time.perf_counter() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
