"""A model that reads the sizes of its convolutions, under adapters of PEFT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from hf_transfer.adapters.geometry import show_geometry


def mobilenet():
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.1, finegrained_output=False))


@pytest.mark.parametrize("make", [LoraConfig, IA3Config])
def test_padding_by_the_stride_of_a_wrapped_layer(make):
    options: dict[str, Any] = {"feedforward_modules": []} if make is IA3Config else {}
    bare: Any = mobilenet().eval()
    images = torch.randn(2, 3, 33, 33)
    expected = bare(pixel_values=images).logits
    model = get_peft_model(bare, make(target_modules=["first_conv.convolution", "reduce_1x1.convolution"], **options))
    with pytest.raises(AttributeError, match="has no attribute 'stride'"):  # drop `show_geometry` once PEFT has it
        model(pixel_values=images)
    show_geometry(model)
    torch.testing.assert_close(model.eval()(pixel_values=images).logits, expected)
    assert [name for name in model.state_dict() if name.endswith((".stride", ".kernel_size"))] == []


def test_what_a_layer_says_itself_stays():
    model = get_peft_model(mobilenet(), LoraConfig(target_modules=["first_conv.convolution"]))
    layer: Any = model.get_submodule("base_model.model.mobilenet_v2.conv_stem.first_conv.convolution")
    layer.stride = "its own"
    show_geometry(model)
    assert layer.stride == "its own"
    assert layer.kernel_size == (3, 3)
