"""recipes/load_adapter.py as a user runs it, in this process."""

from __future__ import annotations

import csv
import json
import runpy
import sys

import pytest
import yaml
from huggingface_hub import HfApi

from hf_transfer.adapters.embedded import embedded_adapter
from hf_transfer.adapters.portable import remove_machine_paths
from hf_transfer.adapters.saving import save_adapter
from tests.adapters.saved import LABELS, adapted
from tests.hub_server import HubServer
from tests.recipes.conftest import RECIPES


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the recipe in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> None:
        script = str(RECIPES / "load_adapter.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(script, run_name="__main__")

    return run


@pytest.fixture
def text_adapter(text_model, tmp_path):
    return save_adapter(adapted("text", text_model), tmp_path / "text_adapter")


@pytest.fixture
def image_adapter(image_model, tmp_path):
    return save_adapter(adapted("image", image_model), tmp_path / "image_adapter")


@pytest.mark.slow
def test_without_arguments_it_classifies_embedded_reviews(run, tmp_path):
    run()
    with open(tmp_path / "outputs/load_adapter/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    settings = yaml.safe_load((RECIPES / "load_adapter.yaml").read_text())
    assert [row["input"] for row in rows] == settings["inputs"]
    assert [row["label"] for row in rows] == ["positive", "negative"]
    folder = embedded_adapter("text")  # the one that was just made
    stated = json.loads((folder / "adapter_config.json").read_text())
    assert stated["base_model_name_or_path"] == "embedded:text"


def test_sentences_to_csv(run, text_adapter, tmp_path):
    (tmp_path / "more.txt").write_text("the pan is poor\n")
    words = ("--inputs", "the book is good", tmp_path / "more.txt", "--output_file", "out.csv", "--merge")
    run("--adapter_name_or_path", text_adapter, *words)
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["input"] for row in rows] == ["the book is good", "the pan is poor"]
    assert {row["label"] for row in rows} <= set(LABELS)


def test_folder_of_images_to_json_lines(run, image_adapter, images):
    run("--adapter_name_or_path", image_adapter, "--inputs", images / "test", "--output_file", "out.jsonl")
    with open("out.jsonl") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 12 and set(rows[0]["probabilities"]) == set(LABELS)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in tests/test_push_to_hub.py
def test_revision_on_the_hub(run, text_adapter, text_model, tmp_path):
    remove_machine_paths(text_adapter)
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        api = HfApi(token=hub.token)
        api.create_repo("user/adapter")
        commit = api.upload_folder(repo_id="user/adapter", folder_path=str(text_adapter))
        api.delete_file("adapter_model.safetensors", "user/adapter")
        words = ("--adapter_name_or_path", "user/adapter", "--base_model", text_model, "--inputs", "good")
        run(*words, "--revision", commit.oid)
        with pytest.raises(FileNotFoundError, match="has an adapter_config.json but no adapter_model"):
            run(*words)


def test_no_such_embedded_adapter(run):
    with pytest.raises(ValueError, match="no embedded adapter `sound`.*Pass `embedded:text`"):
        run("--adapter_name_or_path", "embedded:sound", "--inputs", "x")
