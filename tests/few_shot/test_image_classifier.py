"""The image classifier on one of two towers: loads anywhere, trains like any other."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForImageClassification, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from hf_transfer import anatomy, attach
from hf_transfer.few_shot.dual_encoders import classifier_of
from hf_transfer.few_shot.image_classifier import DualEncoderForImageClassification, DualEncoderImageConfig
from hf_transfer.objectives import L2SP
from tests.few_shot.models import NAMES, dual_encoder, tokenizer
from tests.launching import launch


def made(kind=CLIPModel, config=CLIPConfig):
    return classifier_of(dual_encoder(kind, config), tokenizer(), NAMES, [NAMES])


@pytest.mark.parametrize(("kind", "config"), [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)])
def test_saved_and_loaded_it_is_the_same(tmp_path, kind, config):
    model = made(kind, config)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(pixels).logits, again(pixels).logits)
    assert type(again) is DualEncoderForImageClassification and again.config.id2label == dict(enumerate(NAMES))


def test_loads_where_this_package_is_not(tmp_path):
    model = made()
    model.save_pretrained(tmp_path / "model")
    done = launch("tests.few_shot.remote_code", tmp_path / "model", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    expected = model(torch.ones(1, 3, 8, 8)).logits
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected.detach())


def test_has_a_head_blocks_and_features_of_length_one():
    model = made()
    parts = anatomy(model)
    assert parts.head == "classifier" and len(parts.blocks) == 2 and parts.feature_dim == 12
    seen = []
    model.classifier.register_forward_pre_hook(lambda head, args: seen.append(args[0]))
    model(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(2))


def test_trains_with_objectives():
    model = made().train()
    attach(model, [L2SP()])
    output = model(pixel_values=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 2]))
    output.loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("vision_model.enc"))


def test_without_labels_there_is_no_loss_and_a_tuple_if_asked():
    model = made()
    assert model(torch.zeros(1, 3, 8, 8)).loss is None
    (logits,) = model(torch.zeros(1, 3, 8, 8), return_dict=False)
    assert logits.shape == (1, 3)


def test_a_config_by_itself():
    config = DualEncoderImageConfig({"model_type": "clip_vision_model", "hidden_size": 24}, num_labels=4)
    assert config.vision_config.hidden_size == 24 and config.num_labels == 4
    assert DualEncoderImageConfig().vision_config.model_type == "clip_vision_model"
