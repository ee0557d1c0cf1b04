"""Labelled series from files, of one length."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features

from hf_transfer.time_series.labelled import read_labelled_series


def rows(count: int = 12, *, length: int = 5, channels: int = 2, seed: int = 0) -> dict[str, list]:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, length, channels)).astype(np.float32)
    return {"values": values.tolist(), "label": [("no", "yes", "maybe")[row % 3] for row in range(count)]}


def write(path, columns: dict[str, list]) -> str:
    Dataset.from_dict(columns).to_parquet(str(path))
    return str(path)


def test_parquet_by_split_is_read_with_its_classes_and_parts(tmp_path):
    made = {name: rows(seed=seed) for seed, name in enumerate(("train", "val", "test"))}
    files = {name: write(tmp_path / f"{name}.parquet", columns) for name, columns in made.items()}
    data = read_labelled_series(files)
    assert (data.channels, data.length, data.label_names) == (2, 5, ("maybe", "no", "yes"))
    assert data.eval is not None and data.test is not None
    for split, name in ((data.train, "train"), (data.eval, "val"), (data.test, "test")):
        assert split.column_names == ["values", "label"] and np.allclose(split["values"], made[name]["values"])
        assert [data.label_names[label] for label in split["label"]] == made[name]["label"]


def test_json_arrays_and_single_channels_are_read(tmp_path):
    lines = [{"series": [1.0, None, row], "kind": row % 2} for row in range(4)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    data = read_labelled_series(str(path), label_column="kind")
    assert (data.channels, data.length, data.eval, data.test) == (1, 3, None, None)
    assert np.array_equal(data.train[2]["values"], [[1], [np.nan], [2]], equal_nan=True)
    features = Features({"values": Array2D((4, 3), "float32"), "label": ClassLabel(names=["a", "b"])})
    values = np.arange(48, dtype=np.float32).reshape(4, 4, 3)
    DatasetDict(
        {"train": Dataset.from_dict({"values": values, "label": [0, 1, 0, 1]}, features=features)}
    ).save_to_disk(tmp_path / "saved")
    data = read_labelled_series(tmp_path / "saved")
    assert (data.channels, data.length) == (3, 4) and np.array_equal(data.train["values"], values)


def test_shorter_series_are_padded_on_the_left_with_missing_values(tmp_path):
    made = rows()
    made["values"][1] = made["values"][1][:2]
    test = rows(length=7, seed=1)
    files = {"train": write(tmp_path / "a.parquet", made), "test": write(tmp_path / "b.parquet", test)}
    data = read_labelled_series(files)
    assert data.length == 7 and data.test is not None
    padded = np.array(data.train[1]["values"])
    assert np.isnan(padded[:5]).all() and np.allclose(padded[5:], made["values"][1])
    assert np.isnan(np.array(data.train[0]["values"])[:2]).all() and np.allclose(data.test["values"], test["values"])


def test_rows_are_chosen_by_the_seed_and_held_out_by_class():
    one, again, other = (
        read_labelled_series("embedded:series/classes", samples_per_class=3, seed=seed) for seed in (0, 0, 1)
    )
    assert np.bincount(one.train["label"]).tolist() == [3, 3, 3, 3]
    assert one.train["values"] == again.train["values"] and one.train["values"] != other.train["values"]
    assert len(read_labelled_series("embedded:series/classes", max_samples=7).train) == 7


def test_a_validation_part_is_held_out_where_there_is_none(tmp_path):
    path = write(tmp_path / "train.parquet", rows(60))
    data = read_labelled_series(path, validation_fraction=0.2)
    assert data.eval is not None and (len(data.train), len(data.eval)) == (48, 12)
    assert np.bincount(data.eval["label"]).tolist() == [4, 4, 4]
    seen = {json.dumps(row) for row in data.train["values"]}
    assert not seen & {json.dumps(row) for row in data.eval["values"]}


def changed(**columns) -> dict[str, list]:
    return rows() | columns


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            changed(values=[[[1.0, 2.0], [3.0]]] + rows()["values"][1:]),
            "Series 0 .* a row of 1 values.*of the split 2",
        ),
        (
            changed(values=rows()["values"][:4] + rows(length=5, channels=3)["values"][4:]),
            "Series 4 of split `train` has a row of 3 values.*channels could not be told apart.*transpose",
        ),
        (changed(values=[*rows()["values"][:11], []]), "Series 11 of split `train` has no rows.*Drop it"),
        (changed(values=[*rows()["values"][:11], [[np.inf, 1.0]]]), "Series 11 of split `train` is infinite"),
        (
            changed(values=[*rows()["values"][:11], [[np.nan, np.nan]]]),
            "Series 11 .* has no value at all.*drop series",
        ),
        (changed(values=["text"] * 12), "There are 0 columns of lists of numbers.*Pass `values_column`"),
        (changed(values=["text"] * 12, a=[[1.0]] * 12, b=[[1.0]] * 12), r"There are 2 columns .*\(`a`, `b`\)"),
        (changed(label=[0.5] * 12), "Column `label` holds .*float64.*one class a series"),
        (changed(label=["same"] * 12), "only the class `same`"),
    ],
)
def test_bad_rows_are_refused_with_their_number(tmp_path, made, message):
    with pytest.raises(ValueError, match=message):
        read_labelled_series(write(tmp_path / "train.parquet", made))


def test_splits_must_agree(tmp_path):
    train = write(tmp_path / "train.parquet", rows())
    wide = write(tmp_path / "wide.parquet", rows(channels=3))
    with pytest.raises(ValueError, match="split `test` have 3 channels, those of split `train` 2.*same channels"):
        read_labelled_series({"train": train, "test": wide})
    saved = {"train": rows(), "test": {"series": rows()["values"], "label": rows()["label"]}}
    DatasetDict({name: Dataset.from_dict(columns) for name, columns in saved.items()}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="Split `test` lacks `values`.*could not be scored"):
        read_labelled_series(tmp_path / "saved")
    with pytest.raises(ValueError, match="no split `train` in .*only `test`.*Name the files by split"):
        read_labelled_series({"test": train})
    with pytest.raises(ValueError, match="`embedded:series/target` holds no series with a class each.*series/classes"):
        read_labelled_series("embedded:series/target")
    with pytest.raises(ValueError, match="Column `label` is not a column of series; those are `values`"):
        read_labelled_series(train, values_column="label", label_column="label")


def test_many_long_series_are_read_without_lists_of_python(tmp_path):
    import time

    values = np.random.default_rng(0).normal(size=(400, 500, 3)).astype(np.float32)
    pd.DataFrame({"label": np.arange(400) % 2}).assign(values=[one.tolist() for one in values]).to_parquet(
        tmp_path / "train.parquet"
    )
    began = time.process_time()
    data = read_labelled_series(str(tmp_path / "train.parquet"))
    assert time.process_time() - began < 5 and data.length == 500
    assert np.array_equal(data.train.with_format("numpy")[7]["values"], values[7])
