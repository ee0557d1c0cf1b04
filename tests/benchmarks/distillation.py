"""
What a teacher costs a student, online and cached, in one run:

    python -m tests.benchmarks.distillation --rounds 3

A BERT of 4 layers learns from one of 12, hidden size 128, of random weights, with `LogitDistillation` under
`TransferTrainer`. Two things are measured and held against what they should be:

- The step without a cache, against the student's own step plus the teacher's forward: at most 1.05 times; and against
  the same step written by hand. All take turns on the same batch in every round. (On a CPU the teacher's forward is
  slower while the student's activations are kept, by hand as well.)
- Five epochs with the cache, the filling of it included, against five with the teacher online. With the times $s$ of
  a student step and $t$ of a teacher forward, the predicted speed-up is $5 (s + t) / (5 s + t)$; measured is at least
  90% of it. The runs alternate, and each fills a new cache.

12 layers are three times the student; as they run forward only, they cost about one of its steps. With `--layers 36`
the teacher's forward costs about three. The ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, default_data_collator, logging

from hf_transfer import LogitDistillation, TransferArguments, TransferTrainer, attach, cache_teacher
from hf_transfer.teacher import Teacher


CLASSES = 10
VOCABULARY = 1000
HIDDEN = 128
TOKENS = 32
STUDENT_LAYERS = 4


def bert_of(layers: int) -> Any:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=TOKENS,
    )
    config.num_labels = CLASSES
    return BertForSequenceClassification(config)


def rows_of(count: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    return Dataset.from_dict(
        {
            "input_ids": torch.randint(5, VOCABULARY, (count, TOKENS), generator=generator).tolist(),
            "attention_mask": torch.ones(count, TOKENS, dtype=torch.long).tolist(),
            "labels": torch.randint(0, CLASSES, (count,), generator=generator).tolist(),
        }
    )


def seconds(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Steps:
    """The three kinds of step on one batch."""

    def __init__(self, teacher: Teacher, batch_size: int):
        self.teacher, self.student = teacher, bert_of(STUDENT_LAYERS)
        self.batch = default_data_collator(list(rows_of(batch_size)))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-8)

    def plain(self) -> None:
        """Of the student alone."""
        self.student.train()
        self.student(**self.batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def forward(self) -> None:
        """Of the teacher, without gradient."""
        inputs = {name: value for name, value in self.batch.items() if name != "labels"}
        with torch.no_grad():
            self.teacher.model(**inputs)

    def by_hand(self) -> None:
        """Of distillation as it is written without this library."""
        self.student.train()
        output = self.student(**self.batch)
        inputs = {name: value for name, value in self.batch.items() if name != "labels"}
        with torch.no_grad():
            told = self.teacher.model(**inputs).logits
        ours, theirs = (F.log_softmax(logits / 2, -1) for logits in (output.logits, told))
        (output.loss + 4 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def times(self, steps: int) -> tuple[float, float, float, float]:
        """Medians of a student step, a teacher forward, a distillation step and one by hand."""
        self.plain()
        self.forward()
        plain, forward, distilled, by_hand = [], [], [], []
        for _ in range(steps):
            plain.append(seconds(self.plain))
            forward.append(seconds(self.forward))
            by_hand.append(seconds(self.by_hand))
            with attach(self.student, [LogitDistillation(self.teacher)]):
                distilled.append(seconds(self.plain))
        plain, forward, distilled, by_hand = map(statistics.median, (plain, forward, distilled, by_hand))
        return plain, forward, distilled, by_hand


def training(teacher: Teacher, data: Dataset, epochs: int, batch_size: int, *, cached: bool) -> float:
    """Seconds of a run of the trainer, with what fills the cache."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if cached:
            data = cache_teacher(teacher, data, batch_size=batch_size, cache_dir=f"{folder}/cache", progress=False)
        args = TransferArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            use_cpu=not torch.accelerator.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        objective = LogitDistillation(teacher)
        TransferTrainer(bert_of(STUDENT_LAYERS), args, train_dataset=data, objectives=[objective]).train()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps of each kind in a round")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12, help="of the teacher")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.manual_seed(0)
    teacher, data = Teacher(bert_of(options.layers)), rows_of(options.rows)
    steps = Steps(teacher, options.batch_size)
    # the first run looks at the teacher's accuracy, and imports what the next ones have
    training(teacher, data.select(range(options.batch_size)), 1, options.batch_size, cached=False)
    overheads, stock, costs, shares, speedups = [], [], [], [], []
    for number in range(options.rounds):
        before = steps.times(options.steps)
        online = training(teacher, data, options.epochs, options.batch_size, cached=False)
        cached = training(teacher, data, options.epochs, options.batch_size, cached=True)
        after = steps.times(options.steps)
        student, forward, distilled, by_hand = (
            (first + second) / 2 for first, second in zip(before, after, strict=True)
        )
        stock.append(distilled / by_hand)
        overheads.append(distilled / (student + forward))
        costs.append(forward / student)
        predicted = options.epochs * (student + forward) / (options.epochs * student + forward)
        speedups.append(online / cached)
        shares.append(online / cached / predicted)
        sys.stdout.write(
            f"round {number + 1}: student step {1e3 * student:.0f} ms, teacher forward {1e3 * forward:.0f} ms, "
            f"distillation step {1e3 * distilled:.0f} ms; {options.epochs} epochs online {online:.1f} s, cached "
            f"{cached:.1f} s, speed-up {online / cached:.2f} of {predicted:.2f} predicted\n"
        )
        sys.stdout.flush()
    sys.stdout.write(
        f"\n{torch.get_num_threads()} threads, teacher forward {statistics.median(costs):.2f} student steps\n"
        f"| what | measured | bar |\n|---|---|---|\n"
        f"| distillation step / (student step + teacher forward) | {statistics.median(overheads):.3f} | <= 1.05 |\n"
        f"| distillation step / the same by hand | {statistics.median(stock):.3f} | |\n"
        f"| {options.epochs} epochs, online / cached | {statistics.median(speedups):.2f} | |\n"
        f"| of the predicted speed-up | {statistics.median(shares):.1%} | >= 90% |\n"
    )


if __name__ == "__main__":
    main()
