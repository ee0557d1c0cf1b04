"""Models without a head: their features and their blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertModel, GPT2Model, MobileNetV2Config, MobileNetV2Model, ResNetModel, ViTModel

from hf_transfer.base_model import base_anatomy, base_features
from tests.models import batch_for, bert_config, tiny_gpt2, tiny_resnet, tiny_vit


MOBILE = MobileNetV2Config(image_size=32, depth_multiplier=0.35)


@pytest.mark.parametrize(
    "model",
    [
        BertModel(bert_config()),
        GPT2Model(tiny_gpt2().config),
        ViTModel(tiny_vit().config),
        ResNetModel(tiny_resnet().config),
        MobileNetV2Model(MOBILE),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_width_is_that_of_the_features(model):
    model.eval()
    batch = batch_for(model, 2)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
    with torch.no_grad():
        output = model(**inputs)
    features = base_features(model, output, inputs)
    found = base_anatomy(model)
    assert features.shape == (2, found.feature_dim) and features.dtype == torch.float32
    assert all(model.get_submodule(block) is not None for block in found.blocks) and found.head == ""
    assert found.embeddings


def test_padding_does_not_count():
    model = GPT2Model(tiny_gpt2().config).eval()
    batch = batch_for(model, 2)
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    features = base_features(model, output, batch)
    hidden = output.last_hidden_state
    for row in range(2):
        kept = [hidden[row, place] for place in range(6) if batch["attention_mask"][row, place]]
        torch.testing.assert_close(features[row], sum(kept) / len(kept))


def test_what_tells_nothing_is_refused():
    with pytest.raises(ValueError, match="returns logits and no `last_hidden_state`.*AutoModelFor"):
        base_features(nn.Linear(2, 2), {"logits": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="has 0 blocks and 1 norms and biases"):
        base_anatomy(nn.Linear(2, 2))
