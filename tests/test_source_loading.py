"""How a source model comes to be: copied, taken as it is, or loaded from a checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, BertModel, dynamic_module_utils
from transformers.models.auto import configuration_auto

from hf_transfer import L2SP, attach
from hf_transfer.source_loading import frozen_copy, in_place, load
from tests.models import bert_config, lora, tiny_bert


# --- of a model at hand


def shared(first: nn.Module, second: nn.Module) -> set[str]:
    own = {name: id(parameter) for name, parameter in first.named_parameters()}
    return {name for name, parameter in second.named_parameters() if own[name] == id(parameter)}


def test_a_copy_holds_weights_of_its_own():
    model = tiny_bert()
    model.bert.embeddings.requires_grad_(False)  # type: ignore[union-attr]  # by hand, and may be thawed
    copied: Any = frozen_copy(model, share=True)
    assert copied is not model and not shared(model, copied)
    before = copied.classifier.weight.clone()
    nn.init.zeros_(model.classifier.weight)  # type: ignore[union-attr]
    assert torch.equal(copied.classifier.weight, before) and before.any()


def test_only_what_peft_freezes_is_shared_and_only_if_it_may_be():
    model = lora(tiny_bert(), ["query"], "classifier")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert frozen and trained
    assert shared(model, frozen_copy(model, share=True)) == frozen
    assert shared(model, frozen_copy(model, share=False)) == set()


def test_in_place_is_the_model_itself():
    model = tiny_bert()
    assert in_place(model, None) is model and in_place(model, torch.float32) is model
    assert model.classifier.weight.dtype == torch.float32  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="`dtype=torch.bfloat16` with `copy=False`: the conversion would change"):
        in_place(model, torch.bfloat16)
    counts = nn.Linear(2, 2)
    counts.register_parameter("count", nn.Parameter(torch.ones(1, dtype=torch.long), requires_grad=False))
    assert in_place(counts, torch.float32) is counts  # integers have no float type


@pytest.mark.parametrize("take", [lambda model: frozen_copy(model, share=False), lambda model: in_place(model, None)])
def test_a_model_with_objectives_is_refused_until_they_are_gone(take):
    model = tiny_bert()
    attachment = attach(model, [L2SP()])
    with pytest.raises(ValueError, match="Objectives are attached.*their hooks would run.*`detach\\(\\)` first"):
        take(model)
    attachment.detach()
    assert isinstance(take(model), BertForSequenceClassification)


# --- of a checkpoint


def config_of(folder: Path, **changes: Any) -> None:
    """The config in a folder with some keys changed, or without those that are `None`."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.fixture
def folder(tmp_path) -> Path:
    model: Any = tiny_bert()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_class_that_the_config_names_with_all_its_weights(folder):
    torch.manual_seed(1)  # weights of its own would be others
    model, missing = load(str(folder), "main", False)
    torch.manual_seed(0)
    expected = BertForSequenceClassification.from_pretrained(folder)
    assert type(model) is BertForSequenceClassification and missing == []
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_float_type_is_that_which_is_asked_for(folder):
    model, _ = load(str(folder), "main", False, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    bare, _ = load(str(folder), "main", False)
    assert {parameter.dtype for parameter in bare.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("architectures", "said"),
    [(["BertForFun"], "names `BertForFun` under"), ([], "names no class under"), (None, "names no class under")],
)
def test_a_class_that_transformers_has_not(folder, architectures, said):
    config_of(folder, architectures=architectures)
    with pytest.raises(ValueError, match=f"{said} `architectures`.*with the head it was trained with. Load it your"):
        load(str(folder), "main", False)


def test_weights_that_the_checkpoint_lacks_are_named_in_order(tmp_path):
    bare: Any = BertModel(bert_config(), add_pooling_layer=False)
    bare.save_pretrained(tmp_path)
    config_of(tmp_path, architectures=["BertForSequenceClassification"])
    _, missing = load(str(tmp_path), "main", False)
    assert missing == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ]


def test_pickled_weights_are_never_opened(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_bert().state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("a pickle was opened"))
    with pytest.raises(OSError, match="safetensors"):
        load(str(folder), "main", False)


CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import BertConfig, BertForSequenceClassification

class OwnConfig(BertConfig):
    model_type = "{kind}"

class OwnClassifier(BertForSequenceClassification):
    config_class = OwnConfig
"""


def with_code(folder: Path, marker: Path, kind: str) -> str:
    (folder / "modeling.py").write_text(CODE.format(marker=str(marker), kind=kind))
    config_of(
        folder,
        model_type=kind,
        architectures=["OwnClassifier"],
        auto_map={
            "AutoConfig": "modeling.OwnConfig",
            "AutoModel": "modeling.SomethingElse",
            "AutoModelForSequenceClassification": "modeling.OwnClassifier",
        },
    )
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "own_kind"])
def test_code_of_the_repository_does_not_run_unless_it_is_trusted(folder, tmp_path, kind):
    marker = tmp_path / "it_ran"
    message = {
        "bert": "`OwnClassifier` under `architectures`.*`trust_remote_code=True` where",
        "own_kind": "custom code",
    }
    with pytest.raises(ValueError, match=message[kind]):
        load(with_code(folder, marker, kind), "main", False)
    assert not marker.exists()


def test_trusted_code_makes_the_class_that_the_config_names(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", sys.path.copy())  # which gets the folder above
    marker = tmp_path / "it_ran"
    model: Any
    model, missing = load(with_code(folder, marker, "own_kind"), "main", True)
    assert marker.exists() and type(model).__name__ == "OwnClassifier" and missing == []
    expected = BertForSequenceClassification.from_pretrained(folder, config=bert_config())
    assert torch.equal(model.classifier.weight, expected.classifier.weight)
    assert "own_kind" not in configuration_auto.CONFIG_MAPPING
