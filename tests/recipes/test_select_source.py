"""recipes/select_source.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    pipeline,
)

from hf_transfer.model_card.writing import is_ours
from hf_transfer.selection import SourceRanking
from tests.hub_server import HubServer
from tests.recipes.conftest import RECIPES


FAST = ("--scores", "logme", "leep", "--bootstrap", 6, "--folds", 3)


@pytest.fixture
def no_forward(monkeypatch):
    def forward(self, *args, **kwargs):
        pytest.fail("a model ran before the error")

    monkeypatch.setattr(PreTrainedModel, "__call__", forward)


def test_the_yaml_beside_it_ranks_and_keeps_a_model(run, tmp_path):
    results: Any = run("select_source", "--config", RECIPES / "select_source.yaml", "--bootstrap", 5)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= {
        "ranking.md",
        "ranking.png",
        "results.json",
        "distances.png",
        "model",
    }
    names = ["embedded:image", "embedded:image#random", "embedded:image#reinit:1"]
    assert set(results["candidates"]) == set(names) and results["recommended"] == "embedded:image"
    assert all("failed" not in own for own in results["candidates"].values())
    (distance,) = results["distances"]
    assert distance["source"] == "embedded:digits/0-4" and distance["a_distance"] > 1
    classify: Any = pipeline("image-classification", model=str(out / "model"), device="cpu")
    assert set(classify.model.config.label2id) == set("56789")
    card = (out / "model" / "README.md").read_text()
    assert is_ours(card) and "raw inputs" in card and "transferred from `embedded:image`" in card
    assert str(tmp_path) not in card
    ranking = SourceRanking.load(out)
    assert ranking.best() == "embedded:image" and "## Distance of source data" in (out / "ranking.md").read_text()


def test_the_kept_head_is_a_probe_on_the_frozen_backbone(run, tmp_path, images, image_model, convolutional_model):
    words = (
        "--dataset_name",
        images,
        "--model_name_or_path",
        image_model,
        convolutional_model,
        tmp_path / "none/of/it",
    )
    results: Any = run("select_source", *words, *FAST)
    assert results["recommended"] in map(str, (image_model, convolutional_model))
    assert "FileNotFoundError" in results["candidates"][str(tmp_path / "none/of/it")]["failed"]
    kept = load_file(tmp_path / "out" / "model" / "model.safetensors")
    start = load_file(Path(results["recommended"]) / "model.safetensors")
    assert all(torch.equal(start[name], kept[name]) for name in start if not name.startswith("classifier"))
    model: Any = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model")
    assert set(model.config.label2id) == {"cat", "dog"} and results["test_accuracy"] == 1.0


def test_a_second_run_scores_nothing_again(run, tmp_path, images, image_model, monkeypatch):
    words = ("--dataset_name", images, "--model_name_or_path", image_model, *FAST)
    first = run("select_source", *words)
    before = json.loads((tmp_path / "out" / "results.json").read_text())

    def scored(*args, **kwargs):
        pytest.fail("scores were computed again")

    monkeypatch.setattr("hf_transfer.selection.api.formula_scores", scored)
    assert run("select_source", *words) == first
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == before


def test_texts_and_tags_of_words(run, tmp_path, reviews, text_model, entities, token_model):
    words = ("--dataset_name", reviews, "--model_name_or_path", text_model, "--controls", "random", *FAST)
    results: Any = run("select_source", *words, "--layers", "mean")
    assert len(results["candidates"]) == 2 and results["eval_accuracy"] >= 0
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    words = ("--dataset_name", entities, "--label_column", "ner_tags", "--model_name_or_path", token_model, *FAST)
    results = run("select_source", *words, out="tags")
    assert results["transfer"] in ("positive", "negative", "undecided") and results["test_accuracy"] > 0
    AutoModelForTokenClassification.from_pretrained(tmp_path / "tags" / "model")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in tests/test_push_to_hub.py
def test_the_recommended_model_is_pushed_alone(run, tmp_path, images, image_model):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        words = ("--push_to_hub", "--hub_token", hub.token, "--hub_model_id", "user/chosen")
        run("select_source", "--dataset_name", images, "--model_name_or_path", image_model, *FAST, *words)
        files = hub.files("user/chosen")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(files)
    assert not [name for name in files if "/" in name or name in ("results.json", "ranking.md")]
    card = files["README.md"].decode()
    assert is_ours(card) and "user/chosen" in card and "linear probe" in card
    assert not [name for name, content in files.items() if hub.token.encode() in content or b"/tmp" in content]
    assert hub.token not in (tmp_path / "out" / "results.json").read_text()
    assert files["model.safetensors"] == (tmp_path / "out" / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--controls", "half"), "There is no control `half`"),
        (("--views", 2, "--augmentation", "light"), "`--views` and `--augmentation`.*Leave them out"),
        (("--pooling", "none"), "`--pooling none` keeps every token.*Choose mean, cls or last"),
        (("--resume_from_checkpoint", "x"), "nothing is trained here"),
        (("--source_dataset_of", "nobody"), "1 names for 0|`--source_dataset_of nobody` is no candidate"),
        (("--source_dataset", "embedded:reviews/books"), "no model reads both"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_runs(run, images, image_model, no_forward, words, match):
    with pytest.raises(ValueError, match=match):
        run("select_source", "--dataset_name", images, "--model_name_or_path", image_model, *words)


def test_no_candidate_that_can_be_scored_is_an_error_that_says_why(run, tmp_path, images):
    with pytest.raises(ValueError, match="No candidate has the score `probe`.*does not exist"):
        run("select_source", "--dataset_name", images, "--model_name_or_path", tmp_path / "no/such/model", *FAST)
    assert "failed" in (tmp_path / "out" / "ranking.md").read_text()
