"""Small runs whose cards are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizerFast, ViTImageProcessorPil  # pyright: ignore

from hf_transfer import TransferArguments, TransferTrainer
from tests import models
from tests.invariants.run import rows


def arguments(folder: Path | str, *, of: Any = TransferArguments, **options: Any) -> Any:
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 0.01,
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return of(**{**defaults, **options})


def trainer(folder: Path | str, model: Any = None, *, of: Any = TransferTrainer, args: Any = None, **options: Any):
    torch.manual_seed(0)
    model = models.tiny_bert() if model is None else model
    return of(model, args or arguments(folder), **{"train_dataset": rows(8, 0, True, False), **options})


def trained(folder: Path | str, model: Any = None, **options: Any):
    made = trainer(folder, model, **options)
    made.train()
    return made


def tokenizer(folder: Path) -> BertTokenizerFast:
    """A tokenizer of as many words as the tiny models know."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "text", "of", "your", "own", "."]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*words, *(f"w{n}" for n in range(models.VOCABULARY - len(words)))]))
    return BertTokenizerFast(vocab=str(vocabulary))


def image_processor(size: int = 8) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": size, "width": size})
