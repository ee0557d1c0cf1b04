"""The folder of one task: an ordinary model that says what the model of all tasks says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from hf_transfer import MultiTask, Task, as_task, attach, export_task
from hf_transfer.adapters import add_adapter
from hf_transfer.multitask.view import multi_task_of
from tests.models import TINY, batch_for, tiny_bert, tiny_gpt2, tiny_resnet, tiny_token_bert
from tests.multitask.running_rows import STARS, TASKS, TOPIC, WORDS


AUTO = {"vit": AutoModelForImageClassification, "resnet": AutoModelForImageClassification}


def attached(make=tiny_bert, tasks=TASKS, *, peft=False):
    torch.manual_seed(0)
    model = make()
    if peft:
        model = add_adapter(model, "lora")
    attach(model, [MultiTask(tasks)])
    for name, parameter in model.named_parameters():
        if "lora_B" in name or name.startswith("transfer_objectives") and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def inputs(model):
    return {name: value for name, value in batch_for(model).items() if name not in ("labels", "domain")}


@torch.no_grad()
def both(model, auto, task, folder):
    """The logits of the model as the task, and of what was exported."""
    plain = auto.from_pretrained(export_task(model, task.name, folder))
    with as_task(model.eval(), task.name):
        expected = model(**inputs(model)).logits
    return expected, plain(**inputs(model)).logits, plain


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "resnet"])
def test_it_opens_as_an_ordinary_model_of_the_same_logits(name, peft, tmp_path):
    model = attached(TINY[name], peft=peft)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for task in TASKS:
        expected, found, plain = both(
            model, AUTO.get(name, AutoModelForSequenceClassification), task, tmp_path / task.name
        )
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        config = plain.config
        assert config.num_labels == task.num_labels and config.problem_type == task.problem_type
        assert not [key for key in plain.state_dict() if "lora" in key or "transfer_objectives" in key]
    assert AUTO.get(name, AutoModelForSequenceClassification).from_pretrained(tmp_path / "topic").config.label2id == {
        "art": 0,
        "law": 1,
        "sport": 2,
    }
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("peft", [False, True])
def test_tasks_of_tokens_become_models_for_tokens(peft, tmp_path):
    for make, tasks in ((tiny_bert, (TOPIC, WORDS)), (tiny_token_bert, (WORDS,))):
        model = attached(make, tasks, peft=peft)
        folder = tmp_path / make.__name__
        expected, found, plain = both(model, AutoModelForTokenClassification, WORDS, folder)
        assert found.shape == (4, 6, 2) and plain.config.id2label == {0: "O", 1: "B-X"}
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_model_goes_on_as_it_was(tmp_path):
    model = attached(peft=True).train()
    batch = {**inputs(model), "labels": torch.full((4,), -100)}
    columns = {"labels_topic": torch.arange(4) % 3, "labels_stars": torch.ones(4), "labels_tags": torch.ones(4, 2)}
    model(**batch, **columns).loss.backward()  # tensors of a forward with a graph are lying about
    state = torch.get_rng_state()
    export_task(model, "stars", tmp_path / "stars")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    model(**batch, **columns).loss.backward()
    assert multi_task_of(model).heads["stars"].weight.grad is not None


def test_a_model_in_half_precision_keeps_its_type(tmp_path):
    model = attached(lambda: tiny_bert().to(torch.bfloat16))
    plain = AutoModelForSequenceClassification.from_pretrained(export_task(model, "topic", tmp_path / "topic"))
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}


def test_the_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    model = attached(lambda: tiny_resnet())
    # as if the model scaled what its head returns
    monkeypatch.setattr("hf_transfer.multitask.export.logits_of", lambda model, inputs: torch.rand(4, 3) + 1)
    with pytest.raises(ValueError, match="of task `topic` differs from the model of all tasks by .* Nothing was writ"):
        export_task(model, "topic", tmp_path / "topic")
    assert not list(tmp_path.iterdir())


def test_what_was_there_is_replaced(tmp_path):
    model = attached()
    (tmp_path / "topic").mkdir()
    (tmp_path / "topic" / "notes.txt").write_text("mine")
    for value in (0.0, 1.0):
        torch.nn.init.constant_(multi_task_of(model).heads["topic"].bias, value)
        plain = AutoModelForSequenceClassification.from_pretrained(export_task(model, "topic", tmp_path / "topic"))
        assert plain.classifier.bias.tolist() == [value] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["topic"]
    names = sorted(path.name for path in (tmp_path / "topic").iterdir())
    assert names == ["config.json", "model.safetensors", "notes.txt"]


def test_what_it_refuses(tmp_path):
    with pytest.raises(ValueError, match="no tasks attached"):
        export_task(tiny_bert(), "topic", tmp_path / "x")
    with pytest.raises(ValueError, match="no task `mood`"):
        export_task(attached(), "mood", tmp_path / "x")
    decoder = attached(tiny_gpt2)
    head = multi_task_of(decoder).heads["topic"]
    head.bias = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="`score`, has no bias, and that of task `topic` has: its constants would be"):
        export_task(decoder, "topic", tmp_path / "x")
    head.bias = None  # which is as it should be
    export_task(decoder, "topic", tmp_path / "x")


def test_a_kind_of_model_without_a_class_for_tokens_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(AutoModelForTokenClassification, "_model_mapping", {})
    with pytest.raises(ValueError, match="no token classifier for models of type `bert`: task `words` has no class"):
        export_task(attached(tasks=(STARS, WORDS)), "words", tmp_path / "x")


def test_numbers_stand_for_labels_without_names_and_a_pipeline_opens_it(tmp_path):
    from tests.recipes.conftest import saved_text_model

    tokenizer = saved_text_model(tmp_path / "model", tiny_bert)
    from transformers import AutoTokenizer

    processor = AutoTokenizer.from_pretrained(tokenizer)
    model = attached(tasks=(Task("mood", num_labels=2), STARS))
    folder: Path = export_task(model, "mood", tmp_path / "mood", processor)
    found = pipeline("text-classification", model=str(folder), device="cpu")("the book is good")
    assert found[0]["label"] in ("LABEL_0", "LABEL_1")
