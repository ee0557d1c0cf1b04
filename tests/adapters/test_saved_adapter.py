"""What lies in the folder of an adapter: read, and refused where it is broken, a pickle, or asks for foreign code."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import torch
from peft import LoraConfig

from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.repository import adapter_folder, check_names, refuse_pickle, unreachable
from hf_transfer.adapters.saved_adapter import read_adapter


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved["image"][0], tmp_path / "image")


def change(folder, **entries):
    stated = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**stated, **entries}))


def test_shapes_and_names(saved):
    read = read_adapter(saved["text"][0], "mine")
    assert isinstance(read.config, LoraConfig) and read.task is not None and read.source == "mine"
    assert read.whole_weights["classifier.weight"] == (5, 16)
    assert read.shapes["base_model.model.classifier.bias"] == (5,)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was opened",)


@pytest.mark.parametrize("kept", [True, False], ids=["renamed", "beside"])
def test_pickle_is_refused_unopened(folder, kept):
    weights = folder / "adapter_model.safetensors"
    weights.unlink()
    with open(folder / ("adapter_model.bin" if kept else "adapter_model.pt"), "wb") as file:
        pickle.dump(Bomb(), file)
    with pytest.raises(ValueError, match=r"as a pickle \(adapter_model.*any code.*safetensors.torch.save_file"):
        load_adapter(folder)


def test_pickle_under_the_name_of_safetensors(folder):
    torch.save({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is no whole safetensors file .*Download or save it again"):
        load_adapter(folder)


def test_weights_cut_off(folder):
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_adapter(folder)


def test_no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no adapter_model.safetensors: the adapter would be untrained"):
        load_adapter(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"peft_type": 3}', "\xff"])
def test_broken_config(folder, content):
    (folder / "adapter_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="adapter_config.json of .* cannot be read .*says which adapter goes where"):
        load_adapter(folder)


def test_method_that_peft_does_not_know(folder):
    change(folder, peft_type="NEXT_YEARS")
    with pytest.raises(ValueError, match="is for `NEXT_YEARS` and this PEFT cannot read it.*pip install -U peft"):
        load_adapter(folder)


def test_settings_of_a_later_peft_are_passed_over(folder):
    change(folder, setting_of_next_year=True)
    load_adapter(folder)


def test_class_of_a_foreign_library(folder):
    change(folder, auto_mapping={"base_model_class": "Model", "parent_library": "evil.module"})
    with pytest.raises(ValueError, match="a model class of `evil.module`, not of transformers: importing that could"):
        load_adapter(folder)


def test_module_to_import(folder):
    change(folder, megatron_config={"x": 1}, megatron_core="evil")
    with pytest.raises(ValueError, match="asks PEFT for layers of Megatron .*would be imported"):
        load_adapter(folder)


@pytest.mark.parametrize("name", ["NoSuchModelForImageClassification", "AutoConfig", "os.system", "pipeline"])
def test_class_that_is_no_model_of_transformers(folder, name):
    stated = json.loads((folder / "task_config.json").read_text())
    (folder / "task_config.json").write_text(json.dumps({**stated, "model_class": name}))
    with pytest.raises(ValueError, match="which transformers does not have.*`trust_remote_code=True` if you trust"):
        load_adapter(folder)


def test_no_class_is_named(folder):
    (folder / "task_config.json").unlink()
    change(folder, auto_mapping=None, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="has `task_type` CAUSAL_LM and names no class of the base model"):
        load_adapter(folder)


# --- where it lies


def test_no_adapter_there(tmp_path, bases):
    with pytest.raises(FileNotFoundError, match="has no adapter_config.json: without it there is no adapter to load"):
        adapter_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="it holds a complete model, for `AutoModel"):
        adapter_folder(bases["text"])


@pytest.mark.parametrize("name", ["/no/such", "./no-such", "~/no-such", "a/b/c", "nothing"])
def test_path_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a Hub id"):
        adapter_folder(name)


def test_file_instead_of_a_folder(saved):
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a Hub id"):
        adapter_folder(saved["text"][0] / "adapter_config.json")


def test_name_that_cannot_be_a_hub_id():
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a Hub id"):
        adapter_folder("user/what is this?")


def test_which_of_several(saved, tmp_path):
    for name in ("mood", "topic"):
        shutil.copytree(saved["text"][0], tmp_path / name)
    with pytest.raises(FileNotFoundError, match='Choose from mood, topic: load_adapter.*name="mood"'):
        adapter_folder(tmp_path)
    assert adapter_folder(tmp_path, name="topic") == tmp_path / "topic"


def test_link_out_of_the_folder(folder, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    os.symlink(secret, folder / "tokenizer.json")
    with pytest.raises(ValueError, match="`tokenizer.json` in the folder of the adapter is a link that leaves it"):
        load_adapter(folder)


def test_link_within_the_folder(folder):
    os.rename(folder / "adapter_config.json", folder / "kept.json")
    os.symlink("kept.json", folder / "adapter_config.json")
    load_adapter(folder)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..\\x", "C:\\x", "\\\\server\\x", ""])
def test_names_that_leave(name):
    with pytest.raises(ValueError, match="Here names the file .*, which would lie outside of its folder"):
        check_names([name], of="Here")


def test_names_that_stay():
    check_names(["a.json", "a/b.json", "..hidden", "a..b", "x/.gitattributes"], of="Here")
    refuse_pickle(["adapter_model.safetensors", "optimizer.bin"], "Here")


def test_errors_of_another_kind_are_not_explained():
    assert unreachable(ValueError("x"), "it", "do so") is None
