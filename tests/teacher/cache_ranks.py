"""`python -m tests.teacher.cache_ranks OUT`: cache a teacher on each rank; each saves what it got."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

from hf_transfer.teacher import cache
from tests.features.extraction.extraction_data import inputs_for
from tests.models import tiny_bert


__all__ = ["said"]


def said(folder: Path) -> np.ndarray:
    """What the teacher says of 23 rows in shards of five, with the work of the ranks that there are."""
    torch.manual_seed(0)
    cache.shard_rows_for = lambda source, tokens: 5  # type: ignore[assignment]
    teacher = tiny_bert()
    result = cache.cache_teacher(
        teacher, inputs_for(teacher, 23, padded="right"), batch_size=4, cache_dir=folder, progress=False
    )
    return np.array(result["teacher_logits"][:], np.float32)


def main(out: str) -> None:
    written: list[int] = []
    write = cache.Entry.write
    cache.Entry.write = lambda self, shard, *args: written.append(shard) or write(self, shard, *args)  # type: ignore
    logits = said(Path(out).parent / "cache")
    np.savez(f"{out}.{os.environ.get('RANK', '0')}.npz", logits=logits, written=np.array(written))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
