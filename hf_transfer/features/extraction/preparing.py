"""How many threads decode, tokenise and pad while the model runs, and how many rows it runs on at once."""

from __future__ import annotations

from torch import nn

from hf_transfer.features.extraction.inputs import Source
from hf_transfer.features.extraction.prefetch import cores


_MOST = 8  # what PIL and NumPy leave under Python's lock keeps more threads from helping
_IMAGES = 16

__all__ = ["rows_per_forward", "threads_for"]


def threads_for(model: nn.Module, source: Source) -> int:
    """
    Threads that prepare rows beside the model.

    Beside an accelerator all cores are free. A model on the CPU uses them too: half of them decode, since more would
    only slow the forward, and none tokenises. Measured with MobileNet on two cores; processes in place of threads cost
    a fork, and a copy of every batch.

    Args:
        model (`nn.Module`): the model, on its device.
        source (`Source`): the data.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    # a transform of the user's may hold what two threads must not use at once, such as a tokenizer
    if source.kind != "fetched" or source.processor is None:
        return 0 if on_cpu else 1
    return min(max(cores() // 2, 1) if on_cpu else cores(), _MOST)


def rows_per_forward(model: nn.Module, source: Source, batch_size: int) -> int:
    """At most that many rows; fewer images on a CPU, whose caches the maps of a larger batch would not fit."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    images = source.kind == "fetched" and "pixel_values" in source.reads
    return min(batch_size, _IMAGES) if images and on_cpu else batch_size
