"""What a checkpoint holds besides the stock Trainer's: the objectives, running statistics, renamed weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME

from hf_transfer.files import whole_file
from hf_transfer.norms import has_statistics
from hf_transfer.objective import Objectives


OBJECTIVES_NAME = "objectives.safetensors"
"""File of a checkpoint that holds the parameters and buffers of the objectives."""

STATISTICS_NAME = "running_statistics.safetensors"
"""File beside an adapter that holds the running statistics of norms it leaves frozen."""

__all__ = [
    "OBJECTIVES_NAME",
    "STATISTICS_NAME",
    "check_checkpoint",
    "load_objectives",
    "load_renamed_weights",
    "load_statistics",
    "save_objectives",
    "save_statistics",
]


def check_checkpoint(folder: Path) -> None:
    """
    Refuse a folder that no run can be resumed from, before anything is loaded.

    Raises:
        ValueError: if the folder does not exist or holds no state of a run.
    """
    if not (folder / TRAINER_STATE_NAME).is_file():
        what = f"has no {TRAINER_STATE_NAME}" if folder.is_dir() else "does not exist"
        raise ValueError(
            f"{folder} is no checkpoint: it {what}, and the run would begin again from step 0. Name a folder "
            "`checkpoint-<step>` of the run to resume, or pass True for the last one in `output_dir`."
        )


def save_objectives(objectives: Objectives, folder: Path) -> None:
    """Write the state of the objectives into a checkpoint folder; nothing if they have none. Atomic."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in objectives.state_dict().items()}
    if state:
        with whole_file(folder / OBJECTIVES_NAME) as unfinished:
            save_file(state, unfinished)


def load_objectives(objectives: Objectives, folder: Path) -> None:
    """
    Restore the state of the objectives from a checkpoint folder.

    Raises:
        ValueError: if the folder lacks the file, or it holds the state of other objectives.
    """
    expected = objectives.state_dict()
    if not expected:
        return
    path = folder / OBJECTIVES_NAME
    if not path.is_file():
        raise ValueError(
            f"The checkpoint {folder} has no {OBJECTIVES_NAME}: it was written without {', '.join(objectives)}, whose "
            "parameters would start from scratch in the middle of a run. Resume from a checkpoint of a run with the "
            "same objectives, or start a new run from this model."
        )
    state = load_file(path)
    foreign = sorted(key for key in expected.keys() | state.keys() if _shape(expected, key) != _shape(state, key))
    if foreign:
        raise ValueError(
            f"{path} does not fit the objectives of this run; they differ in {', '.join(foreign[:5])}. A "
            "half-restored objective would train from a mixture of two states. Give the objectives the "
            "hyper-parameters of the first run."
        )
    objectives.load_state_dict(state)


def save_statistics(model: nn.Module, folder: Path) -> None:
    """
    Write the running statistics of batch normalisation beside an adapter that leaves the norms frozen: training moves
    them, and PEFT saves those of `modules_to_save` only. Nothing for other models, whose files hold them. Atomic.
    """
    state = {name: buffer.detach().cpu().contiguous() for name, buffer in _statistics(model).items()}
    if state:
        with whole_file(folder / STATISTICS_NAME) as unfinished:
            save_file(state, unfinished)


def load_statistics(model: nn.Module, folder: Path) -> None:
    """Restore what `save_statistics` wrote; nothing if the files are of another trainer."""
    path, buffers = folder / STATISTICS_NAME, _statistics(model)
    if buffers and path.is_file():
        for name, value in load_file(path).items():
            if name in buffers:  # those of copies, in files of earlier versions, came with the adapter
                buffers[name].copy_(value)


def _statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    if not hasattr(model, "peft_config"):  # told by attribute: `peft` is no dependency
        return {}
    norms = {name for name, module in model.named_modules() if has_statistics(module)}
    norms = {name for name in norms if not {"modules_to_save", "original_module"} & {*name.split(".")}}
    return {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[0] in norms}


def load_renamed_weights(model: nn.Module, folder: Path) -> None:
    """
    Load the weights of a checkpoint that the model knows under other names than the file.

    `save_pretrained` writes the names of the Hub, which are not those of the module for ViT and many others, and
    `Trainer` (transformers 5.23) reads them by `load_state_dict(strict=False)`: whatever was renamed silently stays
    as it is, on resume and for the best model. To go when transformers#43701 is mended.
    """
    from transformers import PreTrainedModel
    from transformers.utils import SAFE_WEIGHTS_NAME

    path = folder / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not path.is_file():
        return
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    if names <= model.state_dict().keys():
        return
    loaded = type(model).from_pretrained(folder, config=model.config, dtype=model.dtype)
    model.load_state_dict(loaded.state_dict(), strict=False)


def _shape(state: dict, key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
