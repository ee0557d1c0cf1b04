"""Scale and shift in a checkpoint: beside the model's own weights, which keep their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_transfer.files import whole_file
from hf_transfer.meta.scale_shift import is_scale_shift, scale_shift_state, without_scale_shift
from hf_transfer.trainer import TransferTrainer


SCALE_SHIFT_NAME = "scale_shift.safetensors"
"""File of a checkpoint that holds scale and shift."""

__all__ = ["SCALE_SHIFT_NAME", "ScaleShiftTrainer", "load_scale_shift", "save_scale_shift"]


def save_scale_shift(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write scales and shifts, by name, into a checkpoint folder. Atomic."""
    with whole_file(folder / SCALE_SHIFT_NAME) as unfinished:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, unfinished)


def load_scale_shift(model: nn.Module, folder: Path) -> None:
    """
    Restore scale and shift of a model from a checkpoint folder; nothing for a model without.

    Raises:
        ValueError: if the folder lacks the file, or it is that of another model.
    """
    expected = {name: value for name, value in model.named_parameters() if is_scale_shift(name)}
    if not expected:
        return
    path = folder / SCALE_SHIFT_NAME
    state = load_file(path) if path.is_file() else {}
    if expected.keys() != state.keys() or any(value.shape != state[name].shape for name, value in expected.items()):
        raise ValueError(
            f"{folder} has no {SCALE_SHIFT_NAME} that fits this model: scale and shift would start from scratch in "
            "the middle of a run. Resume from a checkpoint of a run with the same model and `scale_shift`."
        )
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(state[name])


class ScaleShiftTrainer(TransferTrainer):
    """A `TransferTrainer` that saves ordinary weights of a model with scale and shift; any other it treats alike."""

    @contextmanager
    def _ordinary(self, folded: bool) -> Iterator[None]:
        with without_scale_shift(cast(nn.Module, self.accelerator.unwrap_model(cast(Any, self.model))), folded=folded):
            yield

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save an ordinary model, scale and shift folded in; in a checkpoint they stand beside the weights."""
        checkpoint = _internal_call and output_dir is not None  # a push names no folder
        state = scale_shift_state(cast(nn.Module, self.model)) if checkpoint else {}
        with self._ordinary(folded=not checkpoint):
            super().save_model(output_dir, _internal_call)
        if state and self.args.should_save:
            save_scale_shift(state, Path(str(output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._ordinary(folded=False):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_scale_shift(cast(nn.Module, self.model if model is None else model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        with self._ordinary(folded=False):
            super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            load_scale_shift(cast(nn.Module, self.model), Path(self.state.best_model_checkpoint))
