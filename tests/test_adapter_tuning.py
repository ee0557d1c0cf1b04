"""The closing steps of an adapter's run, without the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_transfer import adapter_tuning
from hf_transfer.adapter_arguments import AdapterArguments, AdapterLoopArguments
from hf_transfer.adapter_tuning import AdapterTuning
from hf_transfer.adapters.loading import load_adapter
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import DataArguments, ModelArguments
from tests.models import tiny_bert
from tests.recipes.conftest import saved_text_model, write_reviews


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(saved_text_model(tmp_path_factory.mktemp("model"), tiny_bert))


@pytest.fixture
def make(tmp_path, model):
    """`make(methods={...}, **options of the adapter)` is a run of one epoch on eight reviews."""

    def make(methods: dict[str, Any] | None = None, **options: Any) -> AdapterTuning:
        write_reviews(tmp_path / "reviews.csv", "book", ["pos", "neg"] * 4)
        args = AdapterLoopArguments(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, max_steps=1)
        return AdapterTuning(
            str(tmp_path / "reviews.csv"),
            AdapterArguments(**{"adapter": "lora", **options}),
            MethodArguments(**(methods or {})),
            ModelArguments(model_name_or_path=model),
            DataArguments(),
            args,
        )

    return make


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    caplog.set_level(logging.INFO, "hf_transfer")
    return caplog


def test_the_table_comes_before_the_training(make, messages):
    make(rank=2)
    assert "What trains:" in messages.text and "lora" in messages.text.lower()


def test_without_a_test_split_training_rows_are_compared(make, messages):
    make(rank=2).run()
    assert "gives the same logits on 8 rows (largest difference 0)" in messages.text


def test_an_adapter_that_does_not_come_back_as_it_was(make, monkeypatch):
    def other(name: str, **options: Any):
        loaded = load_adapter(name, **options)
        with torch.no_grad():
            next(p for n, p in loaded.model.named_parameters() if "lora_B" in n).add_(1.0)
        return loaded

    monkeypatch.setattr(adapter_tuning, "load_adapter", other)
    run = make(rank=2)
    with pytest.raises(ValueError, match="loaded back from .*differ by up to .*not the model that was scored"):
        run.run()


def test_a_merged_model_that_is_another(make, monkeypatch):
    merge = adapter_tuning.merge_adapter

    def other(model: Any, **options: Any) -> Any:
        merged: Any = merge(model, **options)
        with torch.no_grad():
            merged.classifier.bias.add_(1.0)
        return merged

    monkeypatch.setattr(adapter_tuning, "merge_adapter", other)
    run = make(rank=2, merge=True)
    with pytest.raises(ValueError, match="The merged model in .* differ by up to 1 "):
        run.run()


def test_logits_that_are_undefined_in_both_are_the_same(make):
    run = make(rank=2)
    with torch.no_grad():
        next(p for n, p in run.model.named_parameters() if "classifier" in n and "modules_to_save" in n).fill_(
            torch.nan
        )
    assert run._verified(run.model, "It") == 0


def test_mixing_weights_that_lie_on_no_line_is_refused_before_training(make):
    with pytest.raises(ValueError, match="adapters are of the kind DoRA.*Use LoRA"):
        make({"wise_ft": True, "probe_first": True}, adapter="dora")


def test_one_seed_one_adapter(make):
    first, second = (
        {name: value.clone() for name, value in make(rank=2).model.state_dict().items()} for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_costs_count_what_is_there(make, tmp_path):
    run = make(rank=2, train_blocks=1)
    whole: Any = tiny_bert(num_labels=2)
    facts = run._costs(str(Path(tmp_path)))
    assert facts["model_parameters"] == sum(p.numel() for p in whole.parameters())
    assert facts["model_bytes"] == 4 * facts["model_parameters"]
    assert facts["trainable_parameters"] == sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert facts["adapter_bytes"] == 0  # nothing is saved yet
