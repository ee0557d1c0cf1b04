"""`load_adapter` from folders: every task bit for bit, adapters of stock PEFT, and what does not fit."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import pipeline

from hf_transfer.adapters.loading import load_adapter
from hf_transfer.adapters.saving import save_adapter
from tests.adapters.saved import LABELS, adapted, config_for, load_base, logits, moved, save_base


KINDS = ("text", "tokens", "image", "norms")


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of a saved adapter that a test may spoil."""

    def copied(kind):
        return shutil.copytree(saved[kind][0], tmp_path / kind)

    return copied


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_saved_model_bit_for_bit(saved, kind):
    folder, expected = saved[kind]
    model, processor = load_adapter(folder)
    assert isinstance(model, PeftModel) and not model.training
    assert torch.equal(logits(model), expected)
    assert list(model.config.id2label.values()) == LABELS and model.config.label2id["pink"] == 4
    assert processor is not None
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("kind", KINDS)
def test_merged_it_is_a_plain_model(saved, kind):
    folder, expected = saved[kind]
    model, _ = load_adapter(folder, merge=True)
    assert not isinstance(model, PeftModel) and not model.training
    assert not [name for name in model.state_dict() if "lora" in name or "base_layer" in name]
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert list(model.config.id2label.values()) == LABELS


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize(
    ("kind", "task", "example"),
    [
        ("text", "text-classification", "the book is good"),
        ("tokens", "token-classification", "anna is fine"),
        ("image", "image-classification", Image.new("RGB", (9, 9), "red")),
        ("norms", "image-classification", Image.new("RGB", (9, 9), "blue")),
    ],
)
def test_pipelines_take_model_and_processor(saved, kind, task, example, merge):
    model, processor = load_adapter(saved[kind][0], merge=merge)
    given = {"image_processor" if task.startswith("image") else "tokenizer": processor}
    found: Any = pipeline(task, model=model, **given)(example)
    assert found and {row.get("label", row.get("entity")) for row in found} <= set(LABELS)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_sidecar_the_head_is_counted(copied, saved, kind, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    folder = copied(kind)
    (folder / "task_config.json").unlink()
    model, _ = load_adapter(folder)
    assert torch.equal(logits(model), saved[kind][1])
    assert list(model.config.id2label.values()) == [f"LABEL_{number}" for number in range(5)]
    assert "has 5 outputs, for which nobody wrote down names" in caplog.text


def test_without_the_sidecar_names_of_the_base_are_kept_where_they_fit(bases, tmp_path):
    names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    adapted("image", bases["image"], labels=names).save_pretrained(tmp_path / "stock")
    model, _ = load_adapter(tmp_path / "stock")
    assert list(model.config.id2label.values()) == names and model.config.num_labels == 3


@pytest.mark.parametrize(
    ("labels", "problem", "task"),
    [(["score"], "regression", "regression"), (LABELS, "multi_label_classification", "text-classification")],
)
def test_regression_and_several_labels(bases, tmp_path, labels, problem, task):
    model = load_base("text", bases["text"], labels, problem_type=problem)
    model = moved(get_peft_model(model, config_for("text")))
    save_adapter(model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved/task_config.json").read_text())["task"] == task
    loaded, tokenizer = load_adapter(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config.problem_type == problem and loaded.config.num_labels == len(labels)
    scores: Any = pipeline("text-classification", model=loaded, tokenizer=tokenizer, top_k=None)(["good book"])
    total = sum(row["score"] for row in scores[0])
    assert total != pytest.approx(1.0)  # neither is a softmax


METHODS = {
    "pissa": LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights="pissa"),
    "olora": LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights="olora"),
    "dora": LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], use_dora=True),
    "rslora": LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], use_rslora=True),
    "biases": LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], bias="all"),
    "ia3": peft.IA3Config(task_type="SEQ_CLS", target_modules=["query", "value"], feedforward_modules=[]),
    "vera": peft.VeraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]),
    "oft": peft.OFTConfig(task_type="SEQ_CLS", target_modules=["query", "value"], oft_block_size=4, r=0),
    "prompt": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
    "prefix": peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_logits(bases, tmp_path, method):
    model = adapted("text", bases["text"], METHODS[method])
    save_adapter(model, tmp_path / "saved")
    loaded, _ = load_adapter(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(model))
    if METHODS[method].is_prompt_learning:
        with pytest.raises(ValueError, match="prompts are inputs: `merge=True` cannot be done. Leave it out"):
            load_adapter(tmp_path / "saved", merge=True)
        with pytest.raises(ValueError, match="PEFT keeps the prompts alone: `trainable=True` cannot be done"):
            load_adapter(tmp_path / "saved", trainable=True)
    else:
        merged, _ = load_adapter(tmp_path / "saved", merge=True)
        torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)


def test_initialisation_changed_the_base_under_pissa(bases):
    # what the test above relies on: without the change, equal logits would prove nothing
    model = get_peft_model(load_base("text", bases["text"]), METHODS["pissa"])
    name = "bert.encoder.layer.0.attention.self.query"
    residual = model.get_base_model().get_submodule(name).base_layer.weight
    assert not torch.allclose(residual, load_base("text", bases["text"]).get_submodule(name).weight, atol=1e-3)


def test_trainable_it_trains_on(saved):
    model, _ = load_adapter(saved["text"][0], trainable=True)
    assert model.training
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in trained if "lora" in name} == {"default"}
    assert [name for name in trained if "classifier.modules_to_save.default" in name]
    assert all("lora_" in name or "classifier.modules_to_save" in name for name in trained)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = {"input_ids": torch.tensor([[2, 5, 3]]), "labels": torch.tensor([1])}
    model(**batch).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == trained


def test_merged_and_trainable_is_refused(saved):
    with pytest.raises(ValueError, match="a merged adapter is part of the weights.*Pass one of them"):
        load_adapter(saved["text"][0], merge=True, trainable=True)


def test_number_format(saved):
    model, _ = load_adapter(saved["text"][0], dtype=torch.bfloat16)
    assert model.get_base_model().bert.embeddings.word_embeddings.weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits(model).float(), saved["text"][1], rtol=0.1, atol=0.1)


# --- several adapters


def test_several_adapters_of_one_repository(bases, tmp_path):
    model = adapted("text", bases["text"])
    model.add_adapter("second", config_for("text"))
    model.set_adapter("second")
    moved(model, seed=5)
    second = logits(model)
    model.set_adapter("default")
    first = logits(model)
    save_adapter(model, tmp_path / "both")
    assert torch.equal(logits(load_adapter(tmp_path / "both").model), first)
    loaded = load_adapter(tmp_path / "both", name="second").model
    assert list(loaded.peft_config) == ["second"] and torch.equal(logits(loaded), second)


def test_adapter_onto_a_model_that_has_one(bases, saved, tmp_path):
    other = moved(get_peft_model(load_base("text", bases["text"], ["no", "yes"]), config_for("text")), seed=7)
    save_adapter(other, tmp_path / "other")
    model = load_adapter(saved["text"][0]).model
    both, processor = load_adapter(tmp_path / "other", base_model=model, name="mood")
    assert both is model and processor is None
    assert torch.equal(logits(both), logits(other))  # its head has two outputs, the other one five
    assert list(both.config.id2label.values()) == ["no", "yes"]
    both.set_adapter("default")
    assert torch.equal(logits(both), saved["text"][1])
    with pytest.raises(ValueError, match="has an adapter `mood` already, which would be overwritten"):
        load_adapter(tmp_path / "other", base_model=both, name="mood")


def test_both_are_saved_with_their_own_labels(bases, saved, tmp_path):
    other = moved(get_peft_model(load_base("text", bases["text"], ["no", "yes"]), config_for("text")), seed=7)
    save_adapter(other, tmp_path / "other")
    model = load_adapter(saved["text"][0]).model
    load_adapter(tmp_path / "other", base_model=model, name="mood")
    save_adapter(model, tmp_path / "both")
    mood = load_adapter(tmp_path / "both", name="mood").model
    assert list(mood.config.id2label.values()) == ["no", "yes"] and torch.equal(logits(mood), logits(other))
    assert torch.equal(logits(load_adapter(tmp_path / "both").model), saved["text"][1])


# --- what does not fit


def test_base_that_is_not_there(copied):
    folder = copied("image")
    for file in ("adapter_config.json", "task_config.json"):
        text = (folder / file).read_text()
        key = "base_model_name_or_path" if file.startswith("adapter") else "base_model"
        stated = json.loads(text)
        (folder / file).write_text(json.dumps({**stated, key: "/no/such/folder"}))
    with pytest.raises(FileNotFoundError, match="is the folder `/no/such/folder`, which is not on this machine: the"):
        load_adapter(folder)


def test_base_that_nobody_names(copied, bases, saved):
    folder = copied("image")
    for file, key in (("adapter_config.json", "base_model_name_or_path"), ("task_config.json", "base_model")):
        stated = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**stated, key: None}))
    with pytest.raises(ValueError, match="does not say which base model it belongs to.*Name it"):
        load_adapter(folder)
    model, processor = load_adapter(folder, base_model=bases["image"])
    assert torch.equal(logits(model), saved["image"][1]) and processor is not None


def test_base_whose_weights_changed(copied, bases, saved, tmp_path, caplog, monkeypatch):
    changed = load_base("image", bases["image"])
    with torch.no_grad():
        changed.vit.layers[0].attention.k_proj.weight[0, 0] += 0.5
    changed.save_pretrained(tmp_path / "changed")
    with pytest.raises(ValueError, match="are not those it was trained on.*Name the revision they had"):
        load_adapter(saved["image"][0], base_model=tmp_path / "changed")
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    load_adapter(saved["image"][0], base_model=changed)  # on one's own responsibility
    assert "are not those it was trained on" in caplog.text


def test_head_of_another_size(saved, bases):
    with pytest.raises(ValueError, match="has another size than that of the model.*it was trained for other labels"):
        load_adapter(saved["image"][0], base_model=load_base("image", bases["image"], ["a", "b"]))


def test_model_of_another_class(saved, bases):
    with pytest.raises(ValueError, match="is an adapter of a `vit` model .*but .* is of type `bert`.*Pass its own"):
        load_adapter(saved["image"][0], base_model=bases["text"])


def test_model_in_hand_of_another_class(saved, bases):
    with pytest.raises(ValueError, match="does not fit BertForSequenceClassification .*of another architecture"):
        load_adapter(saved["image"][0], base_model=load_base("text", bases["text"]))


def test_weights_that_match_nothing(copied):
    folder = copied("text")
    state = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("bert.encoder.layer.0", "bert.encoder.layer.9"): state[name] for name in state}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="does not fit .*weights match nothing, such as base_model.*Pass its own"):
        load_adapter(folder)


def test_base_of_another_width(copied, tmp_path):
    from tests.models import tiny_bert

    tiny_bert(hidden_size=32).save_pretrained(tmp_path / "wide")  # type: ignore[operator]
    folder = copied("text")
    with pytest.raises(ValueError, match=r"does not fit BertFor.* is \[.*\] there and \[.*\] here"):
        load_adapter(folder, base_model=tmp_path / "wide")


def test_weights_that_nobody_has(bases, tmp_path):
    # an adapter without its head, on a base without one: stock PEFT predicts at random
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(load_base("image", bases["image"]), config).save_pretrained(tmp_path / "headless")
    (tmp_path / "base").mkdir()
    base = shutil.copytree(bases["image"], tmp_path / "base", dirs_exist_ok=True)
    state = load_file(base / "model.safetensors")
    kept = {name: state[name] for name in state if "classifier" not in name}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="classifier.bias, classifier.weight are in neither .* nor its base model"):
        load_adapter(tmp_path / "headless", base_model=base)
    model, _ = load_adapter(tmp_path / "headless", base_model=base, trainable=True)
    assert model.training


def test_random_initialisation_that_changed_the_base_is_told(bases, tmp_path):
    config = config_for("text", init_lora_weights="pissa_niter_2")
    from hf_transfer.adapters.task_config import save_task_config

    model = adapted("text", bases["text"], config)
    model.save_pretrained(tmp_path / "saved")
    save_task_config(model, tmp_path / "saved")
    with pytest.raises(ValueError, match="are not those it was trained on"):
        load_adapter(tmp_path / "saved")


def test_without_peft(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'owns the adapters. Install it with `pip install "hf-transfer-learning'):
        load_adapter(saved["text"][0])


def test_base_saved_as_a_pickle(saved, tmp_path):
    base = save_base("image", tmp_path / "base")
    state = load_file(base / "model.safetensors")
    torch.save(state, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(OSError, match="has no model.safetensors: a pickle may run any code when opened. Convert"):
        load_adapter(saved["image"][0], base_model=base)
