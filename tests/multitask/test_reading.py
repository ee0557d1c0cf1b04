from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk

from hf_transfer.multitask.reading import read_column, row_lengths


ROWS = [[1, 2], [3], [], [4, 5, 6], None]
DATA = Dataset.from_dict({"text": list("abcde"), "ids": ROWS, "label": [0, 1, None, 3, 4]})


def views(tmp_path) -> dict[str, Dataset]:
    DATA.save_to_disk(tmp_path)
    return {
        "whole": DATA,
        "selected": DATA.select([4, 0, 0, 3]),
        "slice": DATA.select(range(1, 4)),
        "shuffled": DATA.shuffle(seed=1),
        "joined": concatenate_datasets([DATA.shuffle(seed=2), DATA.select([1])]),
        "disk": load_from_disk(tmp_path).shuffle(seed=3),
        "none": DATA.select([]),
    }


@pytest.mark.parametrize("name", ["whole", "selected", "slice", "shuffled", "joined", "disk", "none"])
def test_as_the_rows_are_read_one_by_one(name, tmp_path):
    data = views(tmp_path)[name]
    rows = [data[number] for number in range(len(data))]
    assert read_column(data, "label").to_pylist() == [row["label"] for row in rows]
    assert read_column(data, "ids").to_pylist() == [row["ids"] for row in rows]
    assert row_lengths(data, "ids").tolist() == [len(row["ids"] or []) for row in rows]


def test_no_transform_is_applied():
    def refuse(batch):
        raise AssertionError("inputs were decoded")

    assert read_column(DATA.with_transform(refuse), "label").to_pylist() == [0, 1, None, 3, 4]
    assert row_lengths(DATA.with_format("torch"), "ids").dtype == np.int64
