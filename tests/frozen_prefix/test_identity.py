from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding, default_data_collator

from hf_transfer.frozen_prefix.identity import (
    collator_digest,
    lengths_of,
    repeats,
    rows_digest,
)


ROWS = [{"input_ids": [1, 2, 3], "labels": 0}, {"input_ids": [4], "labels": 1}]
LABELS = {"labels"}


def table(rows):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list(rows)


@pytest.mark.parametrize("kind", [list, table])
def test_inputs_count_and_labels_do_not(kind):
    ours = rows_digest(kind(ROWS), LABELS)
    assert rows_digest(kind([{**row, "labels": 5} for row in ROWS]), LABELS) == ours
    assert rows_digest(kind([ROWS[1], ROWS[0]]), LABELS) != ours
    assert rows_digest(kind([{**ROWS[0], "input_ids": [1, 2, 4]}, ROWS[1]]), LABELS) != ours
    assert rows_digest(kind([{**ROWS[0], "input_ids": [1, 2]}, {**ROWS[1], "input_ids": [3, 4]}]), LABELS) != ours
    assert rows_digest(kind(ROWS), set()) != ours


def test_types_and_shapes_count():
    def digest(value):
        return rows_digest([{"x": value}], set())

    different = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), np.zeros(4), "0000", ["0", "0"]]
    assert len({digest(value) for value in different}) == len(different)


def test_collators_that_only_pad_are_known_by_class_others_by_what_they_do():
    assert collator_digest(default_data_collator) == collator_digest(default_data_collator)
    padding = DataCollatorWithPadding(tokenizer=None)  # type: ignore[arg-type]
    assert collator_digest(padding) == collator_digest(DataCollatorWithPadding(tokenizer=None, max_length=3))  # type: ignore[arg-type]
    short, long = (lambda examples, limit=limit: examples[:limit] for limit in (3, 4))
    assert len({collator_digest(collate) for collate in (default_data_collator, padding, short, long)}) == 4


@pytest.mark.parametrize("kind", [list, table])
def test_lengths(kind):
    assert lengths_of(kind(ROWS), "input_ids").tolist() == [3, 1]
    if kind is table:
        assert lengths_of(table(ROWS).select([1, 0, 1]), "input_ids").tolist() == [1, 3, 1]


def collate(examples):
    return {"x": torch.tensor([example["x"] for example in examples])}


class Noisy:
    """Rows with a random number from one of the global generators."""

    def __init__(self, draw):
        self.draw = draw

    def __getitem__(self, row):
        return {"x": float(row) + self.draw()}


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(()))])
def test_random_rows_are_told_and_the_generators_go_on_as_if_nothing_was_read(draw):
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = [draw() for _ in range(3)]
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    assert not repeats(Noisy(draw), collate, [0, 1])
    assert [draw() for _ in range(3)] == expected


def test_rows_that_stay_are_told_also_where_they_are_not_numbers():
    assert repeats(Noisy(lambda: 0.0), collate, [0, 1])
    assert repeats(Noisy(lambda: float("nan")), collate, [0, 1])
    assert not repeats(Noisy(lambda: 0.0), lambda examples: {"x": torch.rand(len(examples))}, [0, 1])
    assert not repeats(Noisy(lambda: 0.0), lambda examples: {"x": torch.zeros(random.randrange(10**6) + 1)}, [0])
