"""
What it saves to compute a frozen layer once: `python -m tests.benchmarks.reuse`.

Two comparisons on a BERT of MiniLM's size, or on `--model`, and the sentences of `tests.benchmarks.extraction`, or of
`--texts` (a CSV file with `text` and `label`):

- `FeatureExtractionTrainer`, its extraction included, against the stock `Trainer` with the backbone's `requires_grad`
  off, 10 epochs;
- `TransferArguments(cache_frozen_prefix=True)` with embeddings and 4 of 6 blocks frozen, 5 epochs, against the same
  schedule without the cache. A frozen block pass counts 1, a trained block 3 (forward and twice that backward): what
  the count predicts stands beside the ratio.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    logging,
    set_seed,
)

from hf_transfer import FeatureExtractionTrainer, TransferArguments, TransferTrainer, UnfreezingSchedule
from hf_transfer.metrics import compute_metrics_for
from tests.benchmarks.extraction import MAX_LENGTH, made_text_model, made_texts


HEAD_EPOCHS, PREFIX_EPOCHS, FROZEN, BLOCKS = 10, 5, 4, 6
LOOP: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "dataloader_pin_memory": False,
}


def rows_of(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Training and test rows with `text` and `labels`."""
    if options.texts:
        data = load_dataset("csv", data_files=options.texts, split="train")
        names = sorted(set(data["label"][:]))
        data = data.cast_column("label", ClassLabel(num_classes=len(names))) if isinstance(names[0], int) else data
        data = data.rename_column("label", "labels").select_columns(["text", "labels"]).shuffle(seed=0)
    else:
        data = made_texts(options.rows + options.rows // 2)
        data = data.add_column("labels", [row % 2 for row in range(len(data))])
    train = options.rows
    return data.select(range(train)), data.select(range(train, min(len(data), train + options.rows // 2)))


class Side:
    """One way of training: a fresh model each time, its seconds and its accuracy."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.raw = rows_of(options)
        self.tokenised = [
            part.map(
                lambda rows: self.tokenizer(rows["text"], truncation=True, max_length=MAX_LENGTH), batched=True
            ).remove_columns(["text"])
            for part in self.raw
        ]
        self.common = {
            "data_collator": DataCollatorWithPadding(self.tokenizer),
            "compute_metrics": compute_metrics_for("text-classification", ("0", "1")),
        }

    def model(self) -> Any:
        set_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=2)

    def timed(self, make: Callable[[], Trainer]) -> tuple[float, float]:
        """Seconds of building and training, and the accuracy on the test rows afterwards."""
        start = time.perf_counter()
        trainer = make()
        trainer.train()
        seconds = time.perf_counter() - start
        return seconds, trainer.evaluate(self.tokenised[1])["eval_accuracy"]

    def stock_frozen(self, out: str) -> Trainer:
        model = self.model()
        model.base_model.requires_grad_(False)
        args = TrainingArguments(out, num_train_epochs=HEAD_EPOCHS, learning_rate=3e-3, **LOOP)
        return Trainer(model, args, train_dataset=self.tokenised[0], **self.common)

    def from_features(self, out: str) -> Trainer:
        args = TransferArguments(out, num_train_epochs=HEAD_EPOCHS, learning_rate=3e-3, **LOOP)
        return FeatureExtractionTrainer(
            self.model(),
            args,
            train_dataset=self.tokenised[0],
            processing_class=self.tokenizer,
            extraction={"cache_dir": out, "max_length": MAX_LENGTH, "progress": False},
            **self.common,
        )

    def half_frozen(self, out: str, cached: bool) -> Trainer:
        args = TransferArguments(
            out,
            num_train_epochs=PREFIX_EPOCHS,
            learning_rate=5e-5,
            cache_frozen_prefix=cached,
            frozen_prefix_cache_dir=out,
            **LOOP,
        )
        schedule = UnfreezingSchedule([{"train": [f"block.{FROZEN}-{BLOCKS - 1}", "neck", "head"]}])
        return TransferTrainer(
            self.model(),
            args,
            train_dataset=self.tokenised[0],
            processing_class=self.tokenizer,
            callbacks=[schedule],
            **self.common,
        )


def predicted() -> float:
    """Block passes of the training without the cache, over those with it."""
    trained = 3 * (BLOCKS - FROZEN)
    return PREFIX_EPOCHS * (FROZEN + trained) / (FROZEN + PREFIX_EPOCHS * trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a text encoder with 6 blocks (default: made up)")
    parser.add_argument("--texts", help="CSV file with `text` and `label` of two classes (default: made up)")
    parser.add_argument("--rows", type=int, default=400)
    options = parser.parse_args()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as made:
        side = Side(options, options.model or made_text_model(Path(made, "model")))
        comparisons: list[tuple[str, Callable[[str], Trainer], Callable[[str], Trainer]]] = [
            (f"`FeatureExtractionTrainer`, {HEAD_EPOCHS} epochs", side.from_features, side.stock_frozen),
            (
                f"`cache_frozen_prefix`, {FROZEN} of {BLOCKS} blocks, {PREFIX_EPOCHS} epochs",
                lambda out: side.half_frozen(out, cached=True),
                lambda out: side.half_frozen(out, cached=False),
            ),
        ]
        write = sys.stdout.write
        write(f"threads: {torch.get_num_threads()}, {len(side.raw[0])} rows\n\n")
        write("| what | with | without | faster by | accuracy with | without |\n|---|---|---|---|---|---|\n")
        for number, (title, ours, stock) in enumerate(comparisons):
            outs = [str(Path(made, f"{number}_{name}")) for name in ("ours", "stock")]
            (with_it, right), (without, stock_right) = (
                side.timed(lambda make=make, out=out: make(out)) for make, out in zip((ours, stock), outs, strict=True)
            )
            write(
                f"| {title} | {with_it:.1f} s | {without:.1f} s | {without / with_it:.2f} | {right:.3f} | "
                f"{stock_right:.3f} |\n"
            )
        write(f"\ncounting block passes predicts {predicted():.2f} for the frozen prefix\n")


if __name__ == "__main__":
    main()
