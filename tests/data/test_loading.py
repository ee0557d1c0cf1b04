from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from hf_transfer.data.loading import load_splits
from hf_transfer.data.mixing import mix_domains


def saved(path: Path, **splits: dict | Dataset) -> Path:
    tables = {name: rows if isinstance(rows, Dataset) else Dataset.from_dict(rows) for name, rows in splits.items()}
    DatasetDict(tables).save_to_disk(path)
    return path


def reviews(rows: int, *, first: str = "r") -> dict:
    return {"text": [f"{first}{row}" for row in range(rows)], "label": ["neg", "pos"] * (rows // 2)}


def test_text_with_string_labels(tmp_path):
    data = load_splits(saved(tmp_path, train={**reviews(6), "id": range(6)}, validation=reviews(2), test=reviews(4)))
    assert data.task == "text-classification" and data.input_columns == ("text",)
    assert data.label_names == ("neg", "pos") and data.num_labels == 2
    assert data.id2label == {0: "neg", 1: "pos"} and data.label2id == {"neg": 0, "pos": 1}
    assert data.eval is not None and data.test is not None
    for split, rows in ((data.train, 6), (data.eval, 2), (data.test, 4)):
        assert split.column_names == ["text", "label"] and len(split) == rows
        assert split.features["label"].names == ["neg", "pos"]
    assert data.train["label"][:] == [0, 1] * 3


def test_columns_get_their_common_names(tmp_path):
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "gold": [1, 0]}
    data = load_splits(saved(tmp_path, train=rows), label_column="gold")
    assert data.input_columns == ("text", "text_pair")
    assert data.train.to_dict() == {"text": ["a", "b"], "text_pair": ["c", "d"], "label": [1, 0]}
    assert data.label_names == ("0", "1") and data.eval is None and data.test is None


def test_input_columns_by_name(tmp_path):
    path = saved(tmp_path, train={"headline": ["a", "b"], "body": ["c", "d"], "label": [0, 1]})
    assert load_splits(path, input_columns="body").train["text"][:] == ["c", "d"]
    assert load_splits(path, input_columns=("headline", "body")).input_columns == ("text", "text_pair")
    with pytest.raises(ValueError, match="2 columns may be the input"):
        load_splits(path)


def test_images_are_not_decoded(tmp_path):
    features = Features({"img": Image(), "label": Value("int64")})
    broken = Dataset.from_dict({"img": [{"bytes": b"no image", "path": None}] * 20, "label": [3, 7] * 10}, features)
    data = load_splits(saved(tmp_path, train=broken), samples_per_class=2, validation_fraction=0.2)
    assert data.task == "image-classification" and data.input_columns == ("image",)
    assert data.label_names == ("3", "7") and len(data.train) == 4 and data.eval is not None and len(data.eval) == 4


def test_tokens(tmp_path):
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B"]))})
    tags = Dataset.from_dict({"tokens": [["a"], ["b", "c"]], "ner_tags": [[0], [1, 0]]}, features)
    data = load_splits(saved(tmp_path, train=tags, test=tags))
    assert data.task == "token-classification" and data.input_columns == ("tokens",)
    assert data.label_names == ("O", "B") and data.train["label"][:] == [[0], [1, 0]]
    with pytest.raises(ValueError, match="needs one class per row.*Pass `max_samples`"):
        load_splits(tmp_path, samples_per_class=1)


def test_regression(tmp_path):
    rows = {"sentence1": list("abcdefghij"), "sentence2": list("abcdefghij"), "label": [row / 2 for row in range(10)]}
    data = load_splits(saved(tmp_path, train=rows), validation_fraction=0.2)
    assert data.task == "regression" and data.label_names == () and data.num_labels == 1
    assert data.eval is not None and len(data.eval) == 2 and len(data.train) == 8


def test_splits_by_other_names(tmp_path):
    path = saved(tmp_path, training=reviews(4), dev=reviews(2), holdout=reviews(2, first="h"))
    data = load_splits(path, train_split="training", test_split="holdout")
    assert data.eval is not None and len(data.eval) == 2
    assert data.test is not None and data.test["text"][:] == ["h0", "h1"]
    as_eval = load_splits(path, train_split="training", eval_split="holdout")
    assert as_eval.eval is not None and as_eval.eval["text"][0] == "h0" and as_eval.test is None
    with pytest.raises(ValueError, match="no split `train` for train; the data set has `training`, `dev`, `holdout`"):
        load_splits(path)
    with pytest.raises(ValueError, match="no split `val` for eval.*eval_split="):
        load_splits(path, train_split="training", eval_split="val")


def test_validation_split_is_made_only_where_there_is_none(tmp_path):
    path = saved(tmp_path / "a", train=reviews(40), test=reviews(4))
    data = load_splits(path, validation_fraction=0.1, seed=1)
    assert data.eval is not None and sorted(data.eval["label"][:]) == [0, 0, 1, 1] and len(data.train) == 36
    assert not set(data.eval["text"][:]) & set(data.train["text"][:])
    again = load_splits(path, validation_fraction=0.1, seed=1)
    assert again.eval is not None and again.eval["text"][:] == data.eval["text"][:]
    given = load_splits(saved(tmp_path / "b", train=reviews(40), validation=reviews(6)), validation_fraction=0.1)
    assert given.eval is not None and len(given.eval) == 6 and len(given.train) == 40


def test_few_shot_subsets(tmp_path):
    path = saved(tmp_path, train=reviews(40), test=reviews(10))
    data = load_splits(path, samples_per_class=3, max_eval_samples=4)
    assert sorted(data.train["label"][:]) == [0] * 3 + [1] * 3
    assert data.test is not None and len(data.test) == 4
    assert data.train["text"][:] != load_splits(path, samples_per_class=3, seed=1).train["text"][:]
    assert len(load_splits(path, max_samples=7).train) == 7
    with pytest.raises(ValueError, match="samples_per_class=21, but class `neg` has 20 rows"):
        load_splits(path, samples_per_class=21)


def test_splits_with_hidden_labels_are_left_out(tmp_path):
    bare = {"text": ["x"]}
    path = saved(tmp_path, train=reviews(4), test=bare)
    assert load_splits(path).test is None
    with pytest.raises(ValueError, match="Split `test` lacks `label`, which split `train` has"):
        load_splits(path, test_split="test")


def test_data_without_labels(tmp_path):
    path = saved(tmp_path, train={"review": ["a", "b", "c"]}, test={"review": ["d"]})
    with pytest.raises(ValueError, match="Split `train` has no label column; its columns are `review`"):
        load_splits(path)
    data = load_splits(path, require_labels=False, max_samples=2)
    assert data.train.column_names == ["text"] and len(data.train) == 2 and data.label_names == ()
    assert data.task == "text-classification" and data.test is not None


def test_two_loaded_sets_can_be_mixed(tmp_path):
    source = load_splits(saved(tmp_path / "a", train={"sentence": ["a", "b"], "stars": [0, 1]}), label_column="stars")
    target = load_splits(saved(tmp_path / "b", train={"id": [1], "text": ["c"]}), require_labels=False)
    mixed = mix_domains(source.train, target.train)
    assert mixed.to_dict() == {"text": ["a", "b", "c"], "label": [0, 1, -100], "domain": [0, 0, 1]}
    assert mixed.features["label"].names == ["0", "1"]


def test_bad_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Split `test` holds the labels `mixed`, which split `train` has not"):
        load_splits(saved(tmp_path / "a", train=reviews(4), test={"text": ["x"], "label": ["mixed"]}))
    with pytest.raises(ValueError, match="only the class `neg`"):
        load_splits(saved(tmp_path / "b", train={"text": ["x", "y"], "label": ["neg", "neg"]}))


def test_an_empty_split_is_refused(monkeypatch):
    empty = Dataset.from_dict(reviews(2)).select([])
    monkeypatch.setattr("hf_transfer.data.loading.read_splits", lambda *_: {"train": empty})
    with pytest.raises(ValueError, match="Split `train` is empty.*Check the files"):
        load_splits("anything")


def test_csv_file_with_string_labels(tmp_path):
    Dataset.from_dict(reviews(4)).to_csv(tmp_path / "a.csv")
    assert load_splits(tmp_path / "a.csv").label_names == ("neg", "pos")


def test_embedded_digits():
    data = load_splits("embedded:digits/5-9", samples_per_class=4)
    assert data.task == "image-classification" and data.label_names == ("5", "6", "7", "8", "9")
    assert len(data.train) == 20 and data.eval is not None and data.test is not None
