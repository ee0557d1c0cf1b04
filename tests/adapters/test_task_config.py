"""`task_config.json`: what is written beside an adapter, and read back."""

from __future__ import annotations

import json
import os

import pytest
from peft import get_peft_model

from hf_transfer.adapters.task_config import TASK_CONFIG_NAME, TaskConfig, read_task_config, save_task_config, task_of
from tests.adapters.saved import LABELS, adapted, config_for, load_base
from tests.models import tiny_bert


@pytest.mark.parametrize(
    ("kind", "model_class", "task"),
    [
        ("text", "BertForSequenceClassification", "text-classification"),
        ("tokens", "BertForTokenClassification", "token-classification"),
        ("image", "ViTForImageClassification", "image-classification"),
        ("norms", "ResNetForImageClassification", "image-classification"),
    ],
)
def test_what_is_written_is_read_back(saved, bases, kind, model_class, task):
    read = read_task_config(saved[kind][0])
    assert read is not None
    assert (read.model_class, read.task, read.num_labels) == (model_class, task, 5)
    assert dict(read.id2label) == dict(enumerate(LABELS))
    assert read.base_model == str(bases[kind]) and read.base_commit is None
    assert read.base_fingerprint is not None and read.base_fingerprint[0] > 0
    assert read.base_dtype == "float32"
    assert read.versions.keys() == {"hf-transfer-learning", "transformers", "peft", "torch"}


def test_task_of_a_class():
    assert task_of("BertForSequenceClassification", 1) == "regression"
    assert task_of("BertForSequenceClassification", 2) == "text-classification"
    assert task_of("DeiTForImageClassificationWithTeacher", 1) == "image-classification"
    assert task_of("Wav2Vec2ForSequenceClassification", main_input="input_values") == "audio-classification"
    assert task_of("BertModel") == "feature-extraction"


def test_padding_and_vocabulary_go_along(bases, tmp_path):
    model = get_peft_model(load_base("text", bases["text"]), config_for("text"))
    read = read_task_config(save_task_config(model, tmp_path).parent)
    assert read is not None and dict(read.config) == {"pad_token_id": 0, "vocab_size": 50}


def test_no_config_json_beside_it(saved):
    # transformers' AutoModel takes a folder with both for a complete model
    assert not (saved["text"][0] / "config.json").exists() and (saved["text"][0] / TASK_CONFIG_NAME).is_file()


def test_folder_without_one(tmp_path):
    assert read_task_config(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"id2label": {"0": "a", "2": "c"}},
        {"id2label": ["a"]},
        {"num_labels": "five"},
        {"model_class": 3},
        {"base_model": ["user/x"]},
        {"base_fingerprint": [1.0]},
        {"base_fingerprint": ["a", "b"]},
    ],
)
def test_broken_file(saved, tmp_path, change):
    stated = json.loads((saved["text"][0] / TASK_CONFIG_NAME).read_text())
    (tmp_path / TASK_CONFIG_NAME).write_text(json.dumps({**stated, **change}))
    with pytest.raises(ValueError, match="task_config.json of the adapter cannot be read.*Save the adapter again"):
        read_task_config(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"id2label":'])
def test_no_json_or_another(tmp_path, content):
    (tmp_path / TASK_CONFIG_NAME).write_text(content)
    with pytest.raises(ValueError, match="the names of the labels would be guesses"):
        read_task_config(tmp_path)


def test_keys_of_later_versions_are_passed_over(saved, tmp_path):
    stated = json.loads((saved["text"][0] / TASK_CONFIG_NAME).read_text())
    (tmp_path / TASK_CONFIG_NAME).write_text(json.dumps({**stated, "later": 1}))
    assert isinstance(read_task_config(tmp_path), TaskConfig)


def test_model_without_an_adapter(tmp_path):
    with pytest.raises(TypeError, match="is no `PeftModel`.*put an adapter on it with `add_adapter` first"):
        save_task_config(tiny_bert(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_adapter_of_another_name(bases, tmp_path):
    model = get_peft_model(load_base("text", bases["text"]), config_for("text"))
    with pytest.raises(ValueError, match="has no adapter `other`.*it has default"):
        save_task_config(model, tmp_path, name="other")


def test_nothing_half_written(bases, tmp_path, monkeypatch):
    model = adapted("text", bases["text"])
    save_task_config(model, tmp_path)
    before = (tmp_path / TASK_CONFIG_NAME).read_text()

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        save_task_config(model, tmp_path)
    assert (tmp_path / TASK_CONFIG_NAME).read_text() == before and len(list(tmp_path.iterdir())) == 1
