"""What is written into an adapter's config."""

from __future__ import annotations

import pytest
from torch import nn

from hf_transfer import anatomy
from hf_transfer.adapters.choices import choose_saved, choose_targets
from hf_transfer.adapters.methods import METHODS, make_config
from tests.models import tiny_bert, tiny_resnet, tiny_vit


def _targets(model: nn.Module, word: str, saved=("classifier",), asked=None, **options):
    config = make_config(word, options)
    choose_targets(model, anatomy(model), config, METHODS[word], list(saved), asked=asked)
    return config


def test_what_is_saved_whole_is_no_target_and_needs_no_longer_name():
    with_pooler = _targets(tiny_bert(), "lora", ["classifier", "bert.pooler"])
    assert with_pooler.target_modules == {"dense", "key", "query", "value"}
    frozen_pooler = _targets(tiny_bert(), "lora")
    assert frozen_pooler.target_modules == {"intermediate.dense", "output.dense", "key", "query", "value"}


def test_widths_that_a_block_does_not_divide_are_left_out():
    model = tiny_vit()
    model.vit.layers[0].mlp.extra = nn.Linear(16, 9)
    assert "extra" not in _targets(model, "boft").target_modules
    assert "extra" in _targets(model, "lora").target_modules
    with pytest.raises(ValueError, match=r"C3AConfig adapts Linear layers, of widths that its block size divides"):
        _targets(tiny_vit(), "c3a", block_size=7)


def test_names_of_the_other_group_are_not_scaled_on_the_wrong_side():
    # PEFT looks for the layers whose input is scaled with a bare `endswith`: `2` is the end of `fc2` and of `conv2`
    config = _targets(tiny_vit(), "ia3")
    names = [name for name, module in tiny_vit().named_modules() if isinstance(module, nn.Linear)]
    forward = [name for name in names if name.endswith(tuple(config.feedforward_modules))]
    assert {name.rpartition(".")[2] for name in forward} == {"fc2"}


def test_experts_alone():
    config = make_config("lora", {"target_parameters": ["mlp.experts.down_proj"]})
    model = tiny_bert()
    choose_targets(model, anatomy(model), config, METHODS["lora"], [])
    assert config.target_modules is None


def test_names_to_save_stand_in_place_of_the_neck():
    model = tiny_bert()
    found = anatomy(model)
    config = make_config("lora", {})
    assert choose_saved(model, found, config, "SEQ_CLS") == ["bert.pooler", "classifier"]
    given = choose_saved(model, found, config, "SEQ_CLS", given=["bert.embeddings.LayerNorm"])
    assert given == ["bert.embeddings.LayerNorm", "classifier"]


def test_norms_that_are_tuned_are_not_saved_twice():
    model = tiny_resnet()
    config = make_config("ln_tuning", {})
    assert choose_saved(model, anatomy(model), config, None) == ["classifier.1"]
