"""Running statistics of norms that an adapter leaves frozen: training moves them, and PEFT does not save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_transfer.checkpoint import STATISTICS_NAME
from hf_transfer.files import whole_file
from hf_transfer.norms import has_statistics


__all__ = ["load_frozen_statistics", "save_frozen_statistics"]


def save_frozen_statistics(model: Any, folder: Path) -> None:
    """Write the running statistics that are in no `modules_to_save`; nothing if there are none. Atomic."""
    state = {name: buffer.detach().cpu().contiguous() for name, buffer in _frozen_statistics(model).items()}
    if state:
        with whole_file(folder / STATISTICS_NAME) as unfinished:
            save_file(state, unfinished)


def load_frozen_statistics(model: Any, folder: Path) -> None:
    """Restore what [`save_frozen_statistics`], or a checkpoint of `TransferTrainer`, wrote."""
    path = folder / STATISTICS_NAME
    buffers = _frozen_statistics(model)
    if buffers and path.is_file():
        for name, value in load_file(path).items():
            if name in buffers and buffers[name].shape == value.shape:
                buffers[name].copy_(value)


def _frozen_statistics(model: Any) -> dict[str, Tensor]:
    norms = {name for name, module in model.named_modules() if has_statistics(module)}
    buffers = {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[0] in norms}
    return {
        name: buffer
        for name, buffer in buffers.items()
        if not {"modules_to_save", "original_module"} & {*name.split(".")}
    }
