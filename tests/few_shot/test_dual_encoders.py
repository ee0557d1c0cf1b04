"""Which models with two towers become image classifiers, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import ChineseCLIPConfig, ChineseCLIPModel, CLIPConfig, CLIPModel, MetaClip2Config, MetaClip2Model

from hf_transfer.few_shot.dual_encoders import classifier_of, is_dual_encoder
from tests.few_shot.models import NAMES, dual_encoder, tokenizer
from tests.models import tiny_bert, tiny_vit


SENTENCES = [[f"a {name}" for name in NAMES]]


def test_told_by_its_two_towers():
    assert is_dual_encoder(dual_encoder(CLIPModel, CLIPConfig))
    assert not is_dual_encoder(tiny_bert()) and not is_dual_encoder(tiny_vit())


def test_chinese_clip():
    made = classifier_of(dual_encoder(ChineseCLIPModel, ChineseCLIPConfig), tokenizer(), NAMES, SENTENCES)
    assert made(pixel_values=torch.zeros(1, 3, 8, 8)).logits.shape == (1, 3)


def test_several_templates_are_averaged_at_length_one():
    model = dual_encoder(CLIPModel, CLIPConfig)
    sentences = [*SENTENCES, [f"the very {name}" for name in NAMES]]
    made = classifier_of(model, tokenizer(), NAMES, sentences)
    with torch.no_grad():
        parts = []
        for rows in sentences:
            tokens = tokenizer()(rows, return_tensors="pt")
            text = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            parts.append(nn.functional.normalize(text.pooler_output, dim=-1))
        mean = nn.functional.normalize((parts[0] + parts[1]) / 2, dim=-1)
    torch.testing.assert_close(made.classifier.weight.detach(), mean * model.logit_scale.exp().detach())


def test_in_bfloat16():
    model = dual_encoder(CLIPModel, CLIPConfig).bfloat16()
    made = classifier_of(model, tokenizer(), NAMES, SENTENCES)
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}


def test_a_tower_that_loads_not_by_itself_is_refused():
    model = dual_encoder(MetaClip2Model, MetaClip2Config)
    with pytest.raises(ValueError, match="image tower of MetaClip2Model is no model by itself.*CLIP, Chinese-CLIP"):
        classifier_of(model, tokenizer(), NAMES, SENTENCES)


def test_a_model_without_scale_is_refused():
    model = dual_encoder(CLIPModel, CLIPConfig)
    del model.logit_scale
    with pytest.raises(ValueError, match="CLIPModel has no `logit_scale`: how its similarities become logits"):
        classifier_of(model, tokenizer(), NAMES, SENTENCES)


def test_a_model_that_goes_another_way_is_refused():
    class Doubled(CLIPModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits_per_image = 2 * output.logits_per_image
            return output

    with pytest.raises(RuntimeError, match="made of Doubled returns logits that differ by .* zero-shot logits"):
        classifier_of(dual_encoder(Doubled, CLIPConfig), tokenizer(), NAMES, SENTENCES)
