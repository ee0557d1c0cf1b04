"""Random inputs: every kind of model takes them, and they are the same each time."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BartConfig,
    BartForSequenceClassification,
    PatchTSTConfig,
    PatchTSTForClassification,
    WhisperConfig,
    WhisperForAudioClassification,
)

from hf_transfer.trial_inputs import inputs_of, trial_inputs
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_gpt2, tiny_vit


def tiny_bart():
    return BartForSequenceClassification(
        BartConfig(vocab_size=40, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=40)
    )  # fmt: skip


def tiny_ast():
    return ASTForAudioClassification(
        ASTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_length=32,
                  num_mel_bins=24)
    )  # fmt: skip


def tiny_whisper():
    return WhisperForAudioClassification(
        WhisperConfig(d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8, decoder_layers=1,
                      decoder_attention_heads=2, decoder_ffn_dim=8, num_mel_bins=8, max_source_positions=10)
    )  # fmt: skip


def tiny_patchtst():
    return PatchTSTForClassification(
        PatchTSTConfig(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=8,
                       num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, num_targets=3)
    )  # fmt: skip


MAKERS = {**TINY, "bart": tiny_bart, "ast": tiny_ast, "whisper": tiny_whisper, "patchtst": tiny_patchtst}


@pytest.mark.parametrize("name", MAKERS)
def test_models_take_them(name):
    model = MAKERS[name]().eval()
    inputs = trial_inputs(model, rows=3)
    before = torch.get_rng_state()
    again = trial_inputs(model, rows=3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(inputs[key], again[key]) and len(inputs[key]) == 3 for key in inputs)
    with torch.no_grad():
        output = model(**inputs)
    assert torch.isfinite(output[0]).all()


def test_text_has_padding_and_no_special_tokens_amid_it():
    inputs = trial_inputs(tiny_gpt2(), rows=200)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert ids[mask.bool()].ne(0).all() and ids[~mask.bool()].eq(0).all()
    assert mask.sum(1).unique().tolist() == [11, 16]


def test_of_a_batch_only_what_the_model_reads():
    model = lora(tiny_bert(), ["query"], "classifier")
    assert set(inputs_of(model, batch_for(model))) == {"input_ids", "attention_mask"}
    assert inputs_of(tiny_vit().bfloat16())["pixel_values"].dtype == torch.bfloat16


def test_other_inputs_are_refused():
    model = tiny_vit()
    model.__class__ = type("Forecaster", (type(model),), {"main_input_name": "past_values"})
    with pytest.raises(ValueError, match="Forecaster reads `past_values`, for which no random inputs.*batch="):
        trial_inputs(model)
