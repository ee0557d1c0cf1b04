"""The one pass over the training rows in which a frozen prefix runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_transfer.frozen_prefix.extent import Unsuitable
from hf_transfer.frozen_prefix.recording import Recording, by_row
from hf_transfer.frozen_prefix.table import Table
from hf_transfer.modes import at_rest
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.tap import first_tensor


__all__ = ["fill", "hidden_states"]


class _Reached(Exception):
    """The hidden state is there: the rest of the forward is not needed."""


def fill(
    table: Table,
    model: nn.Module,
    recording: Recording,
    dataset: Any,
    collate: Callable[[list[Any]], Any],
    shards: list[int],
    *,
    batch_size: int,
    num_workers: int = 0,
    progress: bool = True,
) -> None:
    """
    Write some shards of a table.

    Args:
        table (`Table`): where to.
        model (`nn.Module`): the model; it runs in evaluation mode as far as the last frozen block.
        recording (`Recording`): which block that is.
        dataset (`Any`): the training rows.
        collate (`Callable`): makes a batch of them.
        shards (`list[int]`): numbers of the shards.
        batch_size (`int`): rows per forward.
        num_workers (`int`, *optional*, defaults to 0): processes that read rows.
        progress (`bool`, *optional*, defaults to `True`): whether to show a bar.

    Raises:
        Unsuitable: if the hidden states of two batches do not make one table.
        OSError: if the disk is full.
    """
    if not shards:
        return
    ranges = table.entry.ranges()
    plan = [(shard, rows) for shard in shards for rows in _batches(ranges[shard], table.layout.lengths, batch_size)]
    loader = DataLoader(
        dataset,
        batch_sampler=[rows for _, rows in plan],  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=num_workers,
        generator=torch.Generator(),  # the global one is not touched
    )
    total = sum(len(rows) for _, rows in plan)
    done: dict[int, np.ndarray] = {}
    bar = tqdm(total=total, unit=" examples", desc="Frozen prefix", disable=not progress)
    with bar, random_numbers_put_back(), at_rest(model):
        for (shard, rows), batch in zip(plan, loader, strict=True):
            mask = batch.get("attention_mask")
            hidden = by_row(hidden_states(model, recording, batch), len(rows))
            done.update(zip(rows, table.flat(hidden, mask), strict=True))
            bar.update(len(rows))
            if len(done) == len(ranges[shard]):
                table.write(shard, [done[row] for row in ranges[shard]])
                done = {}


def _batches(rows: range, lengths: np.ndarray | None, size: int) -> Iterator[list[int]]:
    """Batches of rows; of rows of about one length, the longest first, where lengths differ."""
    order = list(rows)
    if lengths is not None:
        order.sort(key=lambda row: -lengths[row])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def hidden_states(model: nn.Module, recording: Recording, batch: Mapping[str, Any]) -> Tensor:
    """What the last frozen block returns for a batch; nothing above it runs."""
    device = next(model.parameters()).device
    found: list[Tensor] = []

    def reach(module: nn.Module, args: Any, output: Any) -> None:
        found.append(first_tensor(output))  # type: ignore[arg-type]
        if len(found) == recording.calls:
            raise _Reached

    hook = model.get_submodule(recording.boundary).register_forward_hook(reach)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    try:
        with torch.no_grad():
            model(**send_to_device(inputs, device))
    except _Reached:
        return found[-1]
    finally:
        hook.remove()
    raise Unsuitable(
        f"`{recording.boundary}` ran {len(found)} times for one batch and {recording.calls} times for another - its "
        "hidden state cannot be stored - train without `cache_frozen_prefix`."
    )
