"""`save_adapter`: which files, all or none of them; test_loading.py opens them."""

from __future__ import annotations

import os

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.saving import save_adapter
from hf_transfer.checkpoint import save_statistics
from tests.adapters.saved import adapted, config_for, load_base, logits, moved
from tests.models import tiny_bert


FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "task_config.json"}


def test_files_of_an_adapter(saved):
    for kind in ("text", "tokens", "image", "norms"):  # the norms of the last are in `modules_to_save`
        assert {path.name for path in saved[kind][0].iterdir()} == FILES
        assert os.stat(saved[kind][0]).st_mode & 0o055 == 0o055


def test_stock_peft_opens_it(saved, bases):
    model = PeftModel.from_pretrained(load_base("text", bases["text"]), str(saved["text"][0]))
    assert torch.equal(logits(model), saved["text"][1])


def test_processor_goes_along(bases, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(bases["text"])
    tokenizer.model_max_length = 7
    save_adapter(adapted("text", bases["text"]), tmp_path / "saved", processor=tokenizer)
    assert load_adapter(tmp_path / "saved").processor.model_max_length == 7  # that of the base has 16


def test_statistics_of_norms_that_are_not_saved_go_along(bases, tmp_path):
    model = adapted("norms", bases["norms"], config_for("norms", modules_to_save=["classifier"]))
    save_adapter(model, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {*FILES, "running_statistics.safetensors"}
    assert torch.equal(logits(load_adapter(tmp_path / "saved").model), logits(model))
    stock = PeftModel.from_pretrained(load_base("norms", bases["norms"]), str(tmp_path / "saved"))
    assert not torch.equal(logits(stock), logits(model))  # what the file is there for


def test_models_without_statistics_get_no_file_for_them(bases, tmp_path):
    save_statistics(adapted("text", bases["text"]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_over_an_older_adapter_leaves_other_files(bases, tmp_path):
    model = adapted("text", bases["text"])
    save_adapter(model, tmp_path / "saved")
    (tmp_path / "saved/all_results.json").write_text("{}")
    moved(model, seed=4)
    save_adapter(model, tmp_path / "saved")
    assert torch.equal(logits(load_adapter(tmp_path / "saved").model), logits(model))
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {*FILES, "all_results.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("there", [True, False], ids=["over", "new"])
def test_an_error_leaves_everything_as_it_was(bases, tmp_path, monkeypatch, there):
    model = adapted("text", bases["text"])
    if there:
        save_adapter(model, tmp_path / "saved")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def broken(model, folder, *, name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_transfer.adapters.saving.save_task_config", broken)
    with pytest.raises(OSError, match="No space"):
        save_adapter(moved(model, seed=4), tmp_path / "saved")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (tmp_path / "saved").exists() == there


def test_model_without_an_adapter(tmp_path):
    with pytest.raises(TypeError, match="has no adapter to save. Use `model.save_pretrained` for a whole model"):
        save_adapter(tiny_bert(), tmp_path / "saved")
    assert not list(tmp_path.iterdir())
