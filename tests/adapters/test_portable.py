"""Saved adapters without the paths of this machine."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel

from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.portable import name_embedded_base, remove_machine_paths
from tests.adapters.saved import load_base, logits


def base_in(folder):
    stated = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    sidecar = folder / "task_config.json"
    return stated, json.loads(sidecar.read_text())["base_model"] if sidecar.is_file() else None


def rename(folder, name):
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("task_config.json", "base_model")):
        stated = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**stated, key: name}))


def test_local_base_is_named_in_no_file(saved, bases, tmp_path):
    folder = shutil.copytree(saved["text"][0], tmp_path / "copy")
    assert base_in(folder) == (str(bases["text"]), str(bases["text"]))
    assert str(bases["text"]) in (folder / "README.md").read_text()
    remove_machine_paths(folder)
    assert base_in(folder) == (None, None)
    for path in folder.iterdir():
        assert str(bases["text"]).encode() not in path.read_bytes()
    assert "base_model:" not in (folder / "README.md").read_text().split("---")[1]
    model, _ = load_adapter(folder, base_model=bases["text"])
    assert torch.equal(logits(model), saved["text"][1])
    stock = PeftModel.from_pretrained(load_base("text", bases["text"]), str(folder))
    assert torch.equal(logits(stock), saved["text"][1])


def test_twice_is_once(saved, tmp_path):
    folder = shutil.copytree(saved["image"][0], tmp_path / "copy")
    remove_machine_paths(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    remove_machine_paths(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_hub_id_stays(saved, tmp_path):
    folder = shutil.copytree(saved["image"][0], tmp_path / "copy")
    rename(folder, "user/name")
    remove_machine_paths(folder)
    assert base_in(folder) == ("user/name", "user/name")


def test_folder_of_the_cache_becomes_its_hub_id(saved, tmp_path):
    folder = shutil.copytree(saved["image"][0], tmp_path / "copy")
    rename(folder, f"/home/me/.cache/huggingface/hub/models--user--name/snapshots/{'0f' * 20}")
    remove_machine_paths(folder)
    assert base_in(folder)[0] == "user/name"


@pytest.mark.parametrize("clean", [name_embedded_base, remove_machine_paths])
def test_embedded_base_keeps_its_name(saved, tmp_path, clean):
    folder = shutil.copytree(saved["image"][0], tmp_path / "copy")
    config = json.loads((folder / "adapter_config.json").read_text())
    path = "/home/me/.cache/huggingface/hf_transfer/source_image_0123456789ab"
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": path}))
    clean(folder)
    assert base_in(folder)[0] == "embedded:image"


def test_adapters_in_subfolders(saved, tmp_path):
    shutil.copytree(saved["text"][0], tmp_path / "copy" / "second")
    remove_machine_paths(tmp_path / "copy")
    assert base_in(tmp_path / "copy" / "second") == (None, None)


def test_folder_without_an_adapter(tmp_path):
    name_embedded_base(tmp_path)
    remove_machine_paths(tmp_path)
    assert not list(tmp_path.iterdir())
