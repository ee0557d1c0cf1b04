"""The state of objectives on disk: `objectives.safetensors` beside the model of a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from hf_transfer.objective import Objectives


OBJECTIVES_NAME = "objectives.safetensors"
"""File of a checkpoint that holds the parameters and buffers of the objectives."""

__all__ = ["OBJECTIVES_NAME", "load_objectives", "save_objectives"]


def save_objectives(objectives: Objectives, folder: Path) -> None:
    """Write the state of the objectives into a checkpoint folder; nothing if they have none. Atomic."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in objectives.state_dict().items()}
    if state:
        temporary = folder / f".{OBJECTIVES_NAME}.tmp"
        save_file(state, temporary)
        os.replace(temporary, folder / OBJECTIVES_NAME)


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


def _shape(state: dict, key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
