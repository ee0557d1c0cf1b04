from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict

from hf_transfer.data.reading import read_splits


ROWS = {"text": ["good", "bad"], "label": [1, 0]}


@pytest.fixture
def table() -> Dataset:
    return Dataset.from_dict(ROWS)


def rows(split: Dataset) -> dict:
    return {name: split[name][:] for name in split.column_names}


def test_single_files(tmp_path, table):
    table.to_csv(tmp_path / "a.csv")
    table.to_csv(tmp_path / "a.tsv", sep="\t")
    table.to_json(tmp_path / "a.jsonl")
    table.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps([table[row] for row in range(2)]))
    for ending in ("csv", "tsv", "jsonl", "parquet", "json"):
        splits = read_splits(tmp_path / f"a.{ending}")
        assert list(splits) == ["train"] and rows(splits["train"]) == ROWS, ending


def test_files_by_split(tmp_path, table):
    table.to_csv(tmp_path / "a.csv")
    table.select([1]).to_csv(tmp_path / "b.csv")
    splits = read_splits({"train": tmp_path / "a.csv", "test": str(tmp_path / "b.csv")})
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "test": 1}


def test_folders_of_files(tmp_path, table):
    table.to_parquet(tmp_path / "train.parquet")
    table.to_parquet(tmp_path / "validation.parquet")
    assert list(read_splits(tmp_path)) == ["train", "validation"]


def test_image_folders(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("bees", "ants"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(folder / "0.png")
    splits = read_splits(str(tmp_path))
    assert splits["test"].features["label"].names == ["ants", "bees"]


def test_saved_datasets(tmp_path, table):
    table.save_to_disk(tmp_path / "one")
    DatasetDict(train=table, test=table).save_to_disk(tmp_path / "two")
    assert list(read_splits(tmp_path / "one")) == ["train"]
    assert list(read_splits(tmp_path / "two")) == ["train", "test"]


def test_embedded_sets():
    assert list(read_splits("embedded:reviews/books")) == ["train", "validation", "test"]
    with pytest.raises(ValueError, match="no embedded data set `mnist`.*`embedded:digits`"):
        read_splits("embedded:mnist")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere_at_all", "nowhere.csv", "a/b/c"])
def test_paths_that_do_not_exist(name):
    with pytest.raises(FileNotFoundError, match="does not exist; of it, `.*` does.*Check the spelling"):
        read_splits(name)


def test_missing_file_of_a_split(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv` does not exist"):
        read_splits({"train": tmp_path / "gone.csv"})


@pytest.mark.parametrize("name", ["nobody/nothing_of_that_name", "nothing_of_that_name"])
def test_names_the_hub_does_not_give_out(name):
    with pytest.raises(FileNotFoundError, match=f"`{name}` is neither a path here nor a data set.*Check the spelling"):
        read_splits(name)


def test_unknown_endings(tmp_path):
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match="endings `.xlsx` were given.*`.parquet`.*Convert them"):
        read_splits(tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match="endings `.csv`, `.xlsx` were given"):
        read_splits({"train": tmp_path / "a.csv", "test": tmp_path / "a.xlsx"})
