"""Tiny sentence classifiers, and checkpoints of sentence encoders with the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertModel, LlamaModel

from hf_transfer import sentence_classifier
from tests.models import bert_config, llama_config


def encoder(kind: str = "bert", **options: Any) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaModel(llama_config(**options)).eval()
    return BertModel(bert_config(**options)).eval()


def classifier(kind: str = "bert", *, num_labels: int = 3, pooling: str | None = None, **options: Any) -> Any:
    made = encoder(kind, **options)
    torch.manual_seed(1)
    return sentence_classifier(made, num_labels=num_labels, pooling=pooling)


def checkpoint(
    folder: Path, modules: list[tuple[str, str]] | None = None, settings: Any = None, inside: str = ""
) -> Any:
    """Save an encoder, with `modules.json` of these kinds and paths and the config of the pooling; returns it."""
    made = encoder()
    made.save_pretrained(folder / inside)
    if modules is not None:
        listed = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (kind, path) in enumerate(modules)]
        (folder / "modules.json").write_text(json.dumps(listed))
    if settings is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return made


def batch(*, left: bool = False) -> dict[str, torch.Tensor]:
    """Three rows of 5, 2 and 1 tokens, padded on one side."""
    ids, mask = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 5, dtype=torch.long)
    for row, count in enumerate((5, 2, 1)):
        place = slice(5 - count, None) if left else slice(count)
        ids[row, place], mask[row, place] = torch.arange(3, 3 + count) + row, 1
    return {"input_ids": ids, "attention_mask": mask}
