"""recipes/extract_features.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import runpy
import sys

import numpy as np
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_transfer.hub import repository
from tests.hub_server import HubServer
from tests.recipes.conftest import QUIET, RECIPES


@pytest.fixture
def extract(monkeypatch, tmp_path):
    """Runs the recipe, and opens what it left as a user does."""

    def extract(*words: object, out: str = "out") -> dict:
        folder = tmp_path / out
        script = str(RECIPES / "extract_features.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, words), *QUIET, "--output_dir", str(folder)])
        runpy.run_path(script, run_name="__main__")
        return load_dataset(str(folder), cache_dir=str(tmp_path / "opened"))

    return extract


def test_the_yaml_beside_it_leaves_a_data_set(extract):
    opened = extract("--config", RECIPES / "extract_features.yaml", "--max_samples", 40, "--max_eval_samples", 20)
    assert {name: len(split) for name, split in opened.items()} == {"train": 40, "validation": 20, "test": 20}
    assert opened["train"].column_names == ["features", "block.0", "block.1", "id", "labels"]
    assert opened["train"].features["labels"].names == ["negative", "positive"]
    assert np.asarray(opened["test"]["block.1"][:]).shape == (20, 64)


def test_features_are_what_enters_the_head(extract, reviews, text_model):
    opened = extract("--model_name_or_path", text_model, "--dataset_name", reviews)
    test = opened["test"]
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(text_model, ignore_mismatched_sizes=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    seen: list[torch.Tensor] = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    rows = (reviews / "test.csv").read_text().splitlines()[1:]
    with torch.no_grad():
        for row in rows:
            model(**tokenizer(row.split(",")[0], return_tensors="pt"))
    np.testing.assert_allclose(test["features"][:], torch.cat(seen).numpy(), atol=1e-6)
    assert test["id"][:] == list(range(len(rows)))
    names = test.features["labels"].names
    assert [names[label] for label in test["labels"][:]] == [row.split(",")[1] for row in rows]


def test_half_precision_and_pooling(extract, reviews, text_model):
    options = ("--model_name_or_path", text_model, "--dataset_name", reviews, "--taps", "block.-1", "--pooling", "cls")
    whole = extract(*options)["test"]
    half = extract(*options, "--feature_dtype", "float16", out="half")["test"]
    assert half.features["block.2"].feature.dtype == "float16"
    np.testing.assert_allclose(np.asarray(half["block.2"][:]), np.asarray(whole["block.2"][:]), atol=0.05)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in tests/test_push_to_hub.py
def test_pushed_they_are_a_data_set_on_the_hub(extract, reviews, text_model, tmp_path):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        extract(
            *("--model_name_or_path", text_model, "--dataset_name", reviews, "--push_to_hub"),
            *("--hub_model_id", "user/features", "--hub_token", hub.token, "--hub_private_repo", "true"),
        )
        files = set(hub.files("user/features", kind="dataset"))
        assert {"data/train.parquet", "data/validation.parquet", "data/test.parquet"} <= files
        assert not [name for name in files if name.endswith((".bin", ".tmp"))]
        assert hub.repository("user/features", kind="dataset").private
        card = hub.files("user/features", kind="dataset")["README.md"].decode()
        assert "path: data/validation.parquet" in card and "BertForSequenceClassification" in card
        assert str(tmp_path) not in card and hub.token not in card
        assert [ask.route for ask in hub.requests][:3] == [
            "create",
            "preupload",
            "info",
        ]  # before anything was computed


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_push_that_fails_leaves_everything(extract, reviews, text_model, tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "WAITS", ())
    with HubServer() as hub, hub.connected(tmp_path / "home", hub.token):
        hub.fail("commit", 503)
        words = ("--model_name_or_path", text_model, "--dataset_name", reviews, "--push_to_hub")
        with pytest.raises(SystemExit, match="answered 503.*python -m hf_transfer push .* user/f --dataset`"):
            extract(*words, "--hub_model_id", "user/f")
        assert (tmp_path / "out" / "data" / "test.parquet").is_file() and (tmp_path / "out" / "README.md").is_file()


def test_nothing_half_written(extract, reviews, text_model, tmp_path, monkeypatch):
    def broken(self, path, *args, **kwargs):
        with open(path, "wb") as file:
            file.write(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datasets.Dataset.to_parquet", broken)
    with pytest.raises(OSError, match="No space"):
        extract("--model_name_or_path", text_model, "--dataset_name", reviews)
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_no_tap_of_that_name(extract, reviews, text_model):
    with pytest.raises(ValueError, match="block.9"):
        extract("--model_name_or_path", text_model, "--dataset_name", reviews, "--taps", "block.9")
