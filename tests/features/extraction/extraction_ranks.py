"""`python -m tests.features.extraction.extraction_ranks OUT [KILL]`: extract on each rank; rank 0 saves the result."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from hf_transfer.features.cache.entry import Entry
from hf_transfer.features.extraction import extract as extraction
from tests.features.extraction.extraction_data import inputs_for, stack
from tests.models import tiny_bert


def main(out: str, kill: str = "") -> None:
    torch.manual_seed(0)
    extraction.shard_rows_for = lambda source, tokens: 5  # type: ignore[assignment]
    model = tiny_bert()
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    if kill:
        write = Entry.write

        def dying(self: Entry, shard: int, *args) -> None:
            if shard == int(kill):
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, shard, *args)

        Entry.write = dying  # type: ignore[method-assign]
    data = inputs_for(model, 23)
    cache = Path(out).parent / "cache"
    features = extraction.extract_features(model, data, cache_dir=cache, progress=False)
    rank = os.environ.get("RANK", "0")
    np.savez(
        f"{out}.{rank}.npz", features=stack(features), id=features["id"], labels=features["labels"], rows=sum(rows)
    )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
