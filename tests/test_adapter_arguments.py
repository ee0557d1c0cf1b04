"""Adapters as options: what they become, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers import HfArgumentParser

from hf_transfer import adapter_arguments
from hf_transfer.adapter_arguments import AdapterArguments, AdapterLoopArguments, AdapterOptions
from hf_transfer.adapters.loading import LoadedAdapter
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import LoopArguments, ModelArguments
from tests.models import tiny_bert, tiny_vit


PRETRAINED = ModelArguments(model_name_or_path="some/model")


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- the options of the config


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"adapter": "lora"}, {}),
        ({"adapter": "lora", "rank": 4}, {"r": 4, "lora_alpha": 4}),
        ({"adapter": "lora", "rank": 4, "alpha": 32}, {"r": 4, "lora_alpha": 32}),
        ({"adapter": "dora", "alpha": 32}, {"lora_alpha": 32}),
        ({"adapter": "rslora", "dropout": 0.1}, {"lora_dropout": 0.1}),
        ({"adapter": "adalora", "rank": 8}, {"target_r": 8, "init_r": 12, "lora_alpha": 8}),
        ({"adapter": "loha", "rank": 4, "dropout": 0.1}, {"r": 4, "alpha": 4, "rank_dropout": 0.1}),
        ({"adapter": "vera", "rank": 16, "dropout": 0.2}, {"r": 16, "vera_dropout": 0.2}),
        ({"adapter": "boft", "dropout": 0.2}, {"boft_dropout": 0.2}),
        ({"adapter": "lora", "rank": 4, "adapter_options": '{"bias": "all", "lora_alpha": 9}'}, None),
    ],
)
def test_options_have_the_names_of_the_config(given, options):
    expected = {"r": 4, "lora_alpha": 9, "bias": "all"} if options is None else options
    assert AdapterArguments(**given).options == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapter": "ia3", "rank": 8}, "`--rank 8` with `--adapter ia3`.*ignored. Leave it out.*`peft.IA3Config`"),
        ({"adapter": "oft", "rank": 8}, "`--rank 8` with `--adapter oft`"),
        ({"adapter": "vera", "alpha": 8}, "`--alpha 8` with `--adapter vera`"),
        ({"adapter": "prefix_tuning", "dropout": 0.1}, "`--dropout 0.1` with `--adapter prefix_tuning`"),
        ({"rank": 0}, "`--rank 0` is out of range: no adapter can be built. Give 1 or more"),
        ({"alpha": -1}, "`--alpha -1` is out of range.*Give a positive number"),
        ({"dropout": 1.0}, r"`--dropout 1.0` is out of range.*Give a share in \[0, 1\)"),
        ({"adapter": "lorra"}, "`lorra` is no method.*lora"),
        ({"adapter_options": "{bad}"}, "`--adapter_options {bad}` is no JSON object.*double quotes"),
        ({"train_blocks": -1}, "`--train_blocks -1` is no number of blocks. Give 0 or more"),
        ({"adapter": "none"}, "`--adapter none` leaves this recipe nothing to do.*recipes/finetune.py"),
        ({"adapter": "prefix_tuning", "merge": True}, "`--merge` with `--adapter prefix_tuning`.*such as lora"),
        ({"push_merged": True}, "`--push_merged` without `--merge`.*Pass both"),
        ({"adapter_name_or_path": "x/y", "rank": 4}, "--rank with `--adapter_name_or_path x/y`.*Leave them out"),
        ({"adapter_name_or_path": "x/y", "adapter": "ia3", "train_blocks": 1}, "--adapter and --train_blocks with"),
    ],
)
def test_options_that_cannot_be_meant(given, message):
    with pytest.raises(ValueError, match=message):
        AdapterArguments(**given)


def test_an_option_without_an_adapter():
    assert AdapterOptions().settings() == {}
    with pytest.raises(ValueError, match="--rank and --target_modules without an adapter.*such as `--adapter lora`"):
        AdapterOptions(rank=8, target_modules=["all"])


def test_settings_are_what_differs_from_the_defaults():
    chosen = AdapterOptions(adapter="lora", rank=4, adapter_options='{"bias": "all"}', target_modules=["mlp"])
    assert chosen.settings() == {
        "adapter": "lora",
        "rank": 4,
        "adapter_options": {"bias": "all"},
        "target_modules": ["mlp"],
    }


def test_the_rate_is_ten_times_that_of_full_fine_tuning():
    full, adapter = LoopArguments(use_cpu=True), AdapterLoopArguments(use_cpu=True)
    assert adapter.learning_rate == pytest.approx(10 * full.learning_rate)


def test_the_command_line():
    words = ["--adapter", "loha", "--target_modules", "attention", "--rank", "2", "--merge", "--adapter_options", "{}"]
    (parsed,) = HfArgumentParser([AdapterArguments]).parse_args_into_dataclasses(words)  # pyright: ignore
    assert (parsed.adapter, parsed.target_modules, parsed.rank, parsed.merge) == ("loha", ["attention"], 2, True)
    assert parsed.adapter_options == {}


# --- the model


def test_no_adapter_leaves_the_model():
    model = tiny_bert()
    assert AdapterOptions().add_to(model) is model


def test_words_and_names_of_targets():
    words = trained(AdapterOptions(adapter="lora", rank=2, target_modules=["attention"]).add_to(tiny_bert()))
    adapted = {name for name in words if "lora_" in name}
    assert adapted and all(".attention." in name for name in adapted) and any("classifier" in name for name in words)
    names = trained(AdapterOptions(adapter="lora", rank=2, target_modules=["query", "value"]).add_to(tiny_bert()))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names if "lora_" in name} == {"query", "value"}


def test_blocks_and_modules_in_full():
    model = AdapterArguments(train_blocks=1, modules_to_save=["bert.pooler"]).add_to(tiny_bert())
    names = trained(model)
    top = {name for name in names if "layer.2." in name}
    assert top and not any("lora_" in name for name in top)
    assert any("pooler" in name for name in names) and any("lora_" in name and "layer.1." in name for name in names)


# --- together with methods


@pytest.mark.parametrize(
    ("methods", "own", "message"),
    [
        ({"transfer_from": "x/y"}, {}, "`--transfer_from x/y` below an adapter.*lost. Start from that checkpoint by"),
        ({"reinitialize_blocks": 2}, {"train_blocks": 1}, "`--reinitialize_blocks 2` with `--train_blocks 1`.*Give"),
        ({"freeze": "backbone"}, {}, "`--freeze backbone` with an adapter.*never train. Leave"),
        ({}, {"merge": True, "push_merged": True}, "`--push_merged` without `--push_to_hub`.*Pass both"),
    ],
)
def test_methods_that_an_adapter_would_lose(methods, own, message):
    with pytest.raises(ValueError, match=message):
        AdapterArguments(**own).check(MethodArguments(**methods), PRETRAINED, LoopArguments(use_cpu=True))


def test_methods_that_go_with_an_adapter():
    methods = MethodArguments(reinitialize_blocks=1, l2sp=0.1, freeze="gradual")
    AdapterArguments(train_blocks=1).check(methods, PRETRAINED, LoopArguments(use_cpu=True))


def test_random_weights_below_an_adapter():
    with pytest.raises(ValueError, match="`--adapter lora` with `--model_type vit`.*lost. Pass a pretrained model"):
        AdapterOptions(adapter="lora").check_model(ModelArguments(model_type="vit"))
    AdapterOptions().check_model(ModelArguments(model_type="vit"))


def test_a_neck_that_is_drawn_anew_is_saved():
    drawn = MethodArguments(reinitialize_blocks=1)
    names = trained(AdapterArguments(train_blocks=1).put_on(tiny_bert(), drawn, PRETRAINED))
    assert any("pooler" in name for name in names)
    image = trained(AdapterArguments(train_blocks=1).put_on(tiny_vit(), drawn, PRETRAINED))
    assert any("layernorm" in name and "modules_to_save" in name for name in image)


# --- an adapter to train on


@pytest.fixture
def loads(monkeypatch):
    """What `load_adapter` was asked for; it gives a model for good and bad."""
    asked: dict[str, Any] = {}

    def load(name: str, **options: Any) -> LoadedAdapter:
        asked.update(options, name=name)
        config = SimpleNamespace(id2label={0: "neg", 1: "pos"}, num_labels=2)
        return LoadedAdapter(SimpleNamespace(config=config), "processor")

    monkeypatch.setattr(adapter_arguments, "load_adapter", load)
    return asked


def test_training_on(loads, tmp_path):
    arguments = AdapterArguments(adapter_name_or_path="user/lora", adapter_revision="v1")
    data: Any = SimpleNamespace(num_labels=2, label_names=("neg", "pos"))
    model, processor = arguments.load(ModelArguments(), data)
    assert processor == "processor"
    assert loads == {
        "name": "user/lora",
        "base_model": None,
        "revision": "v1",
        "trainable": True,
        "trust_remote_code": False,
    }
    assert arguments.put_on(model, MethodArguments(), PRETRAINED) is model
    arguments.load(ModelArguments(model_name_or_path=str(tmp_path)), data)
    assert Path(loads["base_model"]) == tmp_path


@pytest.mark.parametrize(("count", "names"), [(2, ("pos", "neg")), (3, ("a", "b", "c")), (3, ())])
def test_training_on_with_other_classes(loads, count, names):
    data: Any = SimpleNamespace(num_labels=count, label_names=names)
    told = re.escape(", ".join(f"`{name}`" for name in names) or "no classes")
    with pytest.raises(ValueError, match=f"`user/lora` tells `neg`, `pos` apart, the data {told}.*`--merge`"):
        AdapterArguments(adapter_name_or_path="user/lora").load(ModelArguments(), data)


@pytest.mark.parametrize(("given", "kept"), [("main", None), ("v1", "v1")])
def test_the_adapter_names_the_revision_of_its_base(given, kept):
    start = ModelArguments(model_name_or_path="some/model", model_revision=given)
    model = AdapterArguments().put_on(tiny_bert(), MethodArguments(), start)
    assert model.peft_config["default"].revision == kept
