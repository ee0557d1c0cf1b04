"""The proof that a run which skips its frozen blocks computes what the whole model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.frozen_prefix.extent import Unsuitable
from hf_transfer.frozen_prefix.recording import Recording
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.tap import first_tensor


__all__ = ["Trial", "compare", "inputs_of", "logits_of", "proof_rows", "refuse_layer_drop", "with_seed"]

_SEED = 20240229
# Relative; where values are small by cancellation, what they are made of is not: hence the absolute part.
_SMALL = 1e-6
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Trial:
    """A batch, and what the whole model makes of it."""

    rows: list[int]
    inputs: dict[str, Any]
    recording: Recording
    logits: Tensor

    @property
    def mask(self) -> Tensor | None:
        """Its attention mask, if it has one."""
        return self.inputs.get("attention_mask")


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returns."""
    logits = output["logits"] if isinstance(output, dict) and "logits" in output else first_tensor(output)
    assert logits is not None
    return logits


def proof_rows(rows: int, lengths: np.ndarray | None) -> list[list[int]]:
    """
    The rows of two batches that differ in size, and in how much their rows are padded where lengths differ.

    Example:
        >>> proof_rows(9, None)
        [[0, 1, 2], [0, 1]]
        >>> proof_rows(5, np.array([3, 9, 1, 4, 2]))
        [[1, 2, 4], [2, 4]]
    """
    order = list(range(rows)) if lengths is None else np.argsort(lengths, kind="stable").tolist()
    if lengths is None:
        first = order[:3]
    else:
        first = list(dict.fromkeys([order[-1], *order[:2]]))
    second = order[:2]
    return [first] if len(second) == len(first) else [first, second]


def with_seed(model: nn.Module, run: Callable[[], Any]) -> Any:
    """
    What `run` returns, in training mode, with random numbers from a seed; buffers and generators are put back.

    Dropout above the frozen part is on, and the same whenever the frozen part draws no random number.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with random_numbers_put_back(_SEED):
            return run()
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in before and before[name].shape == buffer.shape:
                    buffer.copy_(before[name])


def compare(ours: Any, theirs: Any, mask: Tensor | None, what: str) -> None:
    """
    Refuse where two outputs differ by more than rounding.

    Args:
        ours (`Tensor`): with what was stored.
        theirs (`Tensor`): by the whole model.
        mask (`Tensor`, *optional*): attention mask `(B, T)`; what belongs to padding is left out.
        what (`str`): for the message.

    Raises:
        Unsuitable: as said.
    """
    if ours.shape != theirs.shape:
        difference, size = float("inf"), 1.0
    else:
        ours, theirs = ours.detach(), theirs.detach()
        if mask is not None and ours.shape[:2] == mask.shape and ours.dim() > 2:
            kept = mask.bool()
            ours, theirs = ours[kept], theirs[kept]
        dtype = ours.dtype
        difference = float((ours.double() - theirs.double()).abs().max())
        size = float(theirs.double().abs().max())
        if difference <= _TOLERANCE.get(dtype, 1e-4) * size + _SMALL:
            return
    raise Unsuitable(
        f"{what} differ by {difference:.2g} (of {size:.2g}) from those of the whole model - blocks pass on more than "
        "a hidden state, padding counts, or the frozen part draws random numbers (dropout, layer drop) - train "
        "without `cache_frozen_prefix`, or set these probabilities to 0 in the model's configuration."
    )


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a batch, without labels: objectives then have no part in the forward."""
    return {name: value for name, value in batch.items() if name != "labels"}


def refuse_layer_drop(model: nn.Module, block: str) -> None:
    """
    Refuse models that leave out frozen blocks at random: a proof of a few batches may not show it.

    Raises:
        Unsuitable: if what holds the block is in training mode and the configuration has a layer drop above 0.
    """
    config: Any = getattr(model, "config", None)
    drops = {name: getattr(config, name, 0) or 0 for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")}
    holder = block.rpartition(".")[0]
    while holder and isinstance(model.get_submodule(holder), (nn.ModuleList, nn.Sequential)):
        holder = holder.rpartition(".")[0]
    if any(drops.values()) and model.get_submodule(holder).training:
        name, value = next(item for item in drops.items() if item[1])
        raise Unsuitable(
            f"The model has {name}={value} - it leaves out frozen blocks at random, and what it then computes is not "
            f"stored - set model.config.{name} = 0.0."
        )
