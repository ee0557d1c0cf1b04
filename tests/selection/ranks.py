"""`python -m tests.selection.ranks FOLDER`: rank on each rank; every one writes down its table and what it wrote."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from hf_transfer.selection import rank_models, storing
from tests.selection.planted import PROCESSOR, blind_vit, shades, vit


OPTIONS = {"scores": ["logme", "etran"], "folds": 3, "bootstrap": 6, "progress": False, "device": "cpu"}


def ranked(folder: Path, name: str):
    """The ranking of two models, kept in a folder that all ranks share."""
    models = {"good": (vit(), PROCESSOR), "blind": (blind_vit(), PROCESSOR)}
    return rank_models(models, shades(30), cache_dir=folder / f"{name}.cache", output_dir=folder / name, **OPTIONS)


def main(folder: str) -> None:
    written = []
    write = storing.write_results
    storing.write_results = lambda path, *rest: (written.append(path.name), write(path, *rest))[1]
    ranking = ranked(Path(folder), "out")
    rank = os.environ.get("RANK", "0")
    told = {"table": ranking.table(), "written": written}
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(told), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
