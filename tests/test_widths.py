"""Widths read off modules against what the modules return, over many architectures."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    LiltConfig,
    LiltForSequenceClassification,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForSequenceClassification,
)

from hf_transfer.anatomy import anatomy
from hf_transfer.tap import HiddenStateTaps
from hf_transfer.widths import output_width
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_gpt2, tiny_llama


TEXT = {"vocab_size": 50, "max_position_embeddings": 32, "num_attention_heads": 2, "intermediate_size": 36}
MORE = {
    "albert": lambda: AlbertForSequenceClassification(
        AlbertConfig(**TEXT, hidden_size=16, embedding_size=8, num_hidden_layers=3)
    ),
    "deberta v2": lambda: DebertaV2ForSequenceClassification(
        DebertaV2Config(**TEXT, hidden_size=16, num_hidden_layers=2, relative_attention=True)
    ),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=36)
    ),
    # a layout of six numbers for each token, in blocks beside those of the text and a fourth as wide
    "lilt": lambda: LiltForSequenceClassification(
        LiltConfig(**TEXT, hidden_size=24, num_hidden_layers=2, channel_shrink_ratio=4)
    ),
    "mobilebert": lambda: MobileBertForSequenceClassification(
        MobileBertConfig(**TEXT, hidden_size=24, embedding_size=12, intra_bottleneck_size=8, num_hidden_layers=2)
    ),
    "t5": lambda: T5ForSequenceClassification(
        T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=36, num_layers=2, num_heads=2, decoder_start_token_id=0)
    ),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=2)
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 2, 1])
    ),
    "mobilenet v1": lambda: MobileNetV1ForImageClassification(MobileNetV1Config(depth_multiplier=0.25)),
    "mobilenet v2": lambda: MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35)),
    "efficientnet": lambda: EfficientNetForImageClassification(
        EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320)
    ),
    "segformer": lambda: SegformerForImageClassification(
        SegformerConfig(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2])
    ),
}


def returned(model, size=None):
    """What each block returns, by name."""
    names = anatomy(model).blocks
    taps = HiddenStateTaps(model, names)
    taps.open = True
    batch = {name: value for name, value in batch_for(model).items() if name not in ("labels", "domain")}
    if size:
        batch = {"pixel_values": torch.zeros(2, 3, size, size)}
    if "T5" in type(model).__name__:
        batch["input_ids"][:, -1] = 1  # it reads the features at the end of the sentence
    with torch.no_grad():
        model.eval()(**batch)
    return taps.take()


@pytest.mark.parametrize("kind", [*TINY, *MORE])
def test_width_is_that_of_the_output(kind):
    model = (TINY | MORE)[kind]()
    images = model.main_input_name == "pixel_values" and not getattr(model.config, "patch_size", None)
    outputs = returned(model, 32 if images and kind != "resnet" else None)
    assert outputs
    for name, states in outputs.items():
        assert output_width(model.get_submodule(name)) == states.shape[1 if states.dim() == 4 else -1], name


@pytest.mark.parametrize(
    ("make", "targets"),
    [(tiny_bert, ["query", "dense"]), (tiny_gpt2, ["c_proj"]), (tiny_llama, ["down_proj", "o_proj"])],
)
def test_adapters_are_left_out(make, targets):
    model = lora(make(), targets, fan_in_fan_out=make is tiny_gpt2)
    assert {output_width(model.get_submodule(name)) for name in anatomy(model).blocks} == {16}


def test_norms_of_any_name_and_single_layers():
    class RootNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

    assert output_width(nn.Sequential(nn.Linear(4, 8), RootNorm())) == 6
    assert output_width(nn.Conv1d(2, 5, 3)) == 5
    assert output_width(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU())) == 4


def test_a_module_without_layers_is_refused():
    with pytest.raises(ValueError, match="Dropout holds no linear layer.*cannot be read off.*Name a block"):
        output_width(nn.Dropout())
