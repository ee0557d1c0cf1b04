"""Adapters of PEFT in the words of a card."""

from __future__ import annotations

import re

import pytest
from peft import AdaLoraConfig, IA3Config, LNTuningConfig, LoraConfig, PeftType, VeraConfig, get_peft_model

from hf_transfer.model_card.adapters import active_config, adapter_papers, adapter_settings, adapter_strategy
from hf_transfer.model_card.papers import PAPERS, VARIANTS
from tests import models


def adapted(config):
    return get_peft_model(models.tiny_bert(), config)  # pyright: ignore[reportArgumentType]


def test_sentence_names_method_rank_modules_and_counts():
    config = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
    said = adapter_strategy(adapted(config), config)
    assert "LoRA of rank 2 on 6 modules (`query`, `value`)" in said
    assert f"{16 * 3 + 3 + 6 * 64} of" in said and said.endswith("among them all of `classifier`.")


@pytest.mark.parametrize(
    "options, name, number",
    [
        ({"use_dora": True}, "LoRA with DoRA", "2402.09353"),
        ({"use_rslora": True}, "LoRA with rsLoRA", "2312.03732"),
        ({"init_lora_weights": "pissa_niter_4"}, "LoRA with PiSSA", "2404.02948"),
        ({"init_lora_weights": "olora"}, "LoRA with OLoRA", "2406.01775"),
    ],
)
def test_kinds_of_lora_are_told_apart(options, name, number):
    config = LoraConfig(target_modules=["query"], **options)
    assert adapter_settings(config)["type"] == name
    first, second = adapter_papers(config)
    assert "2106.09685" in first and number in second


@pytest.mark.parametrize(
    "config, name",
    [
        (IA3Config(target_modules=["query"], feedforward_modules=[]), "IA3"),
        (LNTuningConfig(), "tuning of the norms"),
        (VeraConfig(target_modules=["query"]), "VeRA"),
        (AdaLoraConfig(target_modules=["query"], total_step=10), "AdaLoRA"),
    ],
)
def test_other_methods_have_name_and_paper(config, name):
    assert adapter_settings(config)["type"].startswith(name) and len(adapter_papers(config)) == 1


def test_number_in_a_list_has_the_name_of_the_list():
    config = LoraConfig(target_modules=["a.b.query"], modules_to_save=["resnet.classifier.1", "x.normalization"])
    found = adapter_settings(config)
    assert found["modules_to_save"] == "[classifier.1, normalization]" and found["target_modules"] == "[query]"


def test_every_paper_is_of_a_method_that_peft_has():
    assert set(PAPERS) <= {kind.value for kind in PeftType}
    links = [
        re.search(r"https://huggingface.co/papers/\d{4}\.\d{5}$", paper) for paper in (PAPERS | VARIANTS).values()
    ]
    assert all(links) and len({link[0] for link in links if link}) == len(links)


def test_config_is_that_of_the_active_adapter():
    model = adapted(LoraConfig(r=2, target_modules=["query"]))
    model.add_adapter("other", LoraConfig(r=4, target_modules=["query"]))
    model.set_adapter("other")
    assert active_config(model).r == 4 and active_config(models.tiny_bert()) is None
