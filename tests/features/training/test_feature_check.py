"""What must hold before a head is trained on features, for every kind of model and input."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import SwiftFormerConfig, SwiftFormerForImageClassification

from hf_transfer import DELTA, L2SP, CoTuning, FocalLoss, Mixup, RDrop
from hf_transfer.anatomy import anatomy
from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.training.feature_check import check_head, check_objectives, check_width
from tests import models
from tests.models import TINY, batch_for


def data_for(model, rows=3):
    batch = batch_for(model, rows)
    batch.pop("domain")
    if type(model).__name__.endswith("TokenClassification"):
        batch["labels"][batch["attention_mask"] == 0] = -100
    return Dataset.from_dict({name: value.tolist() for name, value in batch.items()})


@pytest.mark.parametrize("kind", TINY)
def test_every_model_passes_and_keeps_its_mode(kind, tmp_path):
    model = TINY[kind]().train()
    data = data_for(model)
    features = extract_features(model, data, cache_dir=tmp_path, progress=False)
    check_head(model, anatomy(model), features, data, None)
    assert model.training


def test_half_precision_passes_with_two_digits(tmp_path):
    model = models.tiny_vit()
    data = data_for(model)
    features = extract_features(model, data, dtype="float16", cache_dir=tmp_path, progress=False)
    check_head(model, anatomy(model), features, data, None, exact=False)


def test_features_of_other_rows(tmp_path):
    model = models.tiny_bert()
    data = data_for(model, 4)
    features = extract_features(model, data.select([1, 0, 2]), cache_dir=tmp_path, progress=False)
    with torch.no_grad():  # so that the logits of two rows are far apart
        model.classifier.weight.mul_(100)
    with pytest.raises(ValueError, match="differ by .* at most"):
        check_head(model, anatomy(model), features, data.select(range(3)), None)


def test_a_model_with_two_heads(tmp_path):
    config = SwiftFormerConfig(
        image_size=32, depths=[1, 1], embed_dims=[8, 16], downsamples=[True, True], num_labels=3, mlp_ratio=2
    )
    model = SwiftFormerForImageClassification(config)
    data = Dataset.from_dict({"pixel_values": torch.randn(2, 3, 32, 32).tolist()})
    features = extract_features(model, data, head="head", cache_dir=tmp_path, progress=False)
    with torch.no_grad():
        model.dist_head.bias.fill_(5.0)
    with pytest.raises(ValueError, match="SwiftFormer.*its head `head`.*or has two, and a head trained alone.*head="):
        check_head(model, anatomy(model, head="head"), features, data, None)


def test_a_convolution_as_head(tmp_path):
    model = models.tiny_resnet()

    class Pooled(nn.Module):  # on the pooled map of one place
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(16, 3, 1)

        def forward(self, features):
            return self.last(features).flatten(1)

    model.classifier = Pooled()
    data = data_for(model)
    features = extract_features(model, data, head="classifier.last", cache_dir=tmp_path, progress=False)
    check_head(model, anatomy(model, head="classifier.last"), features, data, None)


def test_width():
    parts = anatomy(models.tiny_bert())
    check_width(Dataset.from_dict({"features": [[0.0] * 16]}), parts)
    check_width(Dataset.from_dict({"features": []}), parts)
    with pytest.raises(ValueError, match="The features are 4 wide and the head `classifier` takes 16.*another model"):
        check_width(Dataset.from_dict({"features": [[0.0] * 4]}), parts)


def test_objectives():
    check_objectives([FocalLoss(), L2SP(weight=0.1)])
    source = models.tiny_bert()
    for objective in (RDrop(), Mixup(), DELTA()):
        with pytest.raises(ValueError, match="changes or looks inside a forward of.*has none"):
            check_objectives([FocalLoss(), objective])
    with pytest.raises(ValueError, match="CoTuning runs a second model on the model's inputs.*has none"):
        check_objectives([CoTuning(source)])
