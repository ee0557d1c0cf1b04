"""Which models learned prompts and prefixes can be put before."""

from __future__ import annotations

import pytest
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_transfer import add_adapter
from hf_transfer.adapters.prompts import check_prompt, prompt_sizes
from tests.models import batch_for, tiny_bert, tiny_gpt2, tiny_llama, tiny_token_bert, tiny_vit


SIZES = {"vocab_size": 50, "num_labels": 3, "max_position_embeddings": 40, "pad_token_id": 0}


def tiny_roberta():
    config = RobertaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **SIZES)
    return RobertaForSequenceClassification(config)


def tiny_distilbert():
    return DistilBertForSequenceClassification(DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SIZES))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (tiny_bert, "prefix_tuning"),
        (tiny_bert, "prompt_tuning"),
        (tiny_bert, "p_tuning"),
        (tiny_token_bert, "prefix_tuning"),
        (tiny_gpt2, "prefix_tuning"),
        (tiny_llama, "prefix_tuning"),
        (tiny_roberta, "prompt_tuning"),
        (tiny_distilbert, "prompt_tuning"),
    ],
)
def test_the_prompt_and_the_head_train(make, word):
    options = {"encoder_hidden_size": 16} if word == "p_tuning" else {}
    model = add_adapter(make(), word, num_virtual_tokens=3, **options)
    batch = batch_for(model)
    del batch["domain"]
    output = model(**batch)
    assert output.logits.shape[:-1] == batch["labels"].shape
    output.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(model.get_parameter(name).grad is not None for name in trained)
    assert any("prompt_encoder" in name for name in trained)
    assert any("modules_to_save" in name for name in trained)
    assert all("prompt_encoder" in name or "modules_to_save" in name for name in trained)


@pytest.mark.parametrize(
    ("make", "word", "match"),
    [
        (tiny_vit, "prompt_tuning", r"no text or token classifier.*before a text.*\"lora\""),
        (tiny_token_bert, "prompt_tuning", r"logits for the learned tokens too.*\"prefix_tuning\""),
        (
            tiny_gpt2,
            "p_tuning",
            r"finds the token at which it classifies in.*padded rows.*\"prefix_tuning\"",
        ),
        (tiny_llama, "prompt_tuning", r"finds the token at which it classifies in `input_ids`"),
        (tiny_distilbert, "prefix_tuning", r"takes no `past_key_values`.*\"prompt_tuning\""),
    ],
)
def test_what_would_fail_or_be_wrong_is_refused(make, word, match):
    with pytest.raises(ValueError, match=match):
        add_adapter(make(), word)


def test_a_head_of_another_name():
    model = tiny_bert()
    model.other = model.classifier
    with pytest.raises(ValueError, match=r"layer named `classifier` or `score`, and.*is `other`.*would not run"):
        check_prompt(model, "prefix_tuning", "SEQ_CLS", head="other")


def test_layers_are_no_option():
    with pytest.raises(ValueError, match=r"leaves all layers as they are.*Leave them out"):
        add_adapter(tiny_bert(), "prompt_tuning", target_modules="attention")


def test_sizes_come_from_the_model():
    assert prompt_sizes(tiny_distilbert(), 2) == {"token_dim": 16, "num_layers": 2, "num_attention_heads": 2}
