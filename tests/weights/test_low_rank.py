"""The factors of LoRA layers, by the names of the parameters."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_transfer.weights.low_rank import check_adapters, low_rank_pairs
from tests.models import lora, tiny_bert, tiny_resnet


def test_pairs_are_names_of_parameters():
    model = lora(tiny_bert(), ["query", "value"], "classifier")
    parameters = dict(model.named_parameters())
    pairs = low_rank_pairs(model)
    assert len(pairs) == 6
    for pair in pairs:
        up, down = parameters[pair.up], parameters[pair.down]
        assert (up @ down).shape == model.get_submodule(pair.layer).base_layer.weight.shape


def test_every_factor_is_in_a_pair():
    model = lora(tiny_resnet(), r".*encoder.*convolution", "classifier")
    named = {name for pair in low_rank_pairs(model) for name in (pair.up, pair.down)}
    assert named == {name for name, _ in model.named_parameters() if "lora_" in name}


def test_embeddings_start_from_a_zero_of_the_other_side():
    model = get_peft_model(tiny_bert(), LoraConfig(r=2, target_modules=["word_embeddings"]))
    (pair,) = low_rank_pairs(model)
    assert not model.get_parameter(pair.down).any() and model.get_parameter(pair.up).any()


def test_several_adapters():
    model = lora(tiny_bert(), ["query"])
    model.add_adapter("second", LoraConfig(r=3, target_modules=["query"]))
    assert len(low_rank_pairs(model)) == 6


def test_models_without_adapters_pass():
    assert low_rank_pairs(tiny_bert()) == []
    check_adapters(tiny_bert(), doing="anything")
    check_adapters(lora(tiny_bert(), ["query"]), doing="anything")


def test_the_product_moves_with_either_factor():
    """The claim behind the pairs: with one factor fixed, the product is linear in the other."""
    up, down, other = torch.randn(3, 5, 2, dtype=torch.float64)
    mixed = (0.3 * up + 0.7 * down) @ other.T
    torch.testing.assert_close(mixed, 0.3 * up @ other.T + 0.7 * down @ other.T)


def test_what_is_refused_says_what_was_asked():
    model = lora(tiny_bert(), ["query"])
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged into its base layer: averaging of its factors.*unmerge_adapter"):
        check_adapters(model, doing="averaging")
