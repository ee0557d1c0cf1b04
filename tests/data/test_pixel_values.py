from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ConvNextImageProcessorPil,
    MobileNetV1ImageProcessorPil,
    ViltImageProcessorPil,
    ViTImageProcessorPil,
)

from hf_transfer.data import pixel_values as module
from hf_transfer.data.pixel_values import pixel_values


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


IMAGES = pictures((30, 20), (20, 40), (16, 16))
SMALL = {"height": 12, "width": 12}
PROCESSORS = {
    "vit": ViTImageProcessorPil(size=SMALL),
    "imagenet": ViTImageProcessorPil(
        size=SMALL, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], rescale_factor=1 / 127.5
    ),
    "cropped": MobileNetV1ImageProcessorPil(size={"shortest_edge": 16}, crop_size=SMALL),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 12}),
    "not normalised": ViTImageProcessorPil(size=SMALL, do_normalize=False),
    "not rescaled": ViTImageProcessorPil(size=SMALL, do_rescale=False),
}


@pytest.fixture
def counted(monkeypatch):
    """How the processors were called: whether they normalised themselves."""
    calls = []
    for name in ("_whole", "_scaled"):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, f=function, n=name: calls.append(n) or f(*args))
    monkeypatch.setattr(module, "_faithful", {})
    return calls


@pytest.mark.parametrize("name", PROCESSORS)
def test_equal_to_the_processor(name):
    processor = PROCESSORS[name]
    expected = processor(IMAGES, return_tensors="pt")["pixel_values"]
    given = pixel_values(processor, IMAGES)
    assert given.dtype == expected.dtype and given.shape == expected.shape
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)


def test_equal_to_the_formula():
    (image,) = pictures((12, 12))
    processor = ViTImageProcessorPil(
        do_resize=False, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.25, 2.0], rescale_factor=1 / 255
    )
    values = np.asarray(image).astype(np.float64) / 255
    expected = (values - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(pixel_values(processor, [image])[0].double(), expected.transpose(2, 0, 1), atol=1e-6)


def test_tried_once_for_a_processor_and_again_when_it_was_changed(counted):
    processor = ViTImageProcessorPil(size=SMALL)
    for _ in range(3):
        pixel_values(processor, IMAGES)
    assert counted == ["_whole", "_scaled", "_scaled", "_scaled", "_scaled"]
    processor.image_mean = [0.0, 0.1, 0.2]
    changed = pixel_values(processor, IMAGES)
    assert counted[5:] == ["_whole", "_scaled", "_scaled"]
    torch.testing.assert_close(changed, processor(IMAGES, return_tensors="pt")["pixel_values"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["not normalised", "not rescaled"])
def test_left_to_the_processor_where_there_is_nothing_to_save(counted, name):
    pixel_values(PROCESSORS[name], IMAGES)
    assert counted == ["_whole"]


def test_left_to_a_processor_that_pads(counted):
    processor = ViltImageProcessorPil(size={"shortest_edge": 12}, size_divisor=4)
    pixel_values(processor, IMAGES[:1])
    assert counted == ["_whole"]


def test_left_to_a_processor_that_does_something_else_with_its_fields(counted):
    class Inverted(ViTImageProcessorPil):
        def __call__(self, images, **options):
            batch = super().__call__(images, **options)
            return batch if options.get("do_normalize") is False else {"pixel_values": -batch["pixel_values"]}

    processor = Inverted(size=SMALL)
    expected = processor(IMAGES, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixel_values(processor, IMAGES), expected)
    assert counted == ["_whole", "_scaled", "_whole"]


def test_left_to_a_processor_that_does_not_know_the_options(counted):
    class Strict(ViTImageProcessorPil):
        def __call__(self, images, return_tensors=None):
            return super().__call__(images, return_tensors=return_tensors)

    assert pixel_values(Strict(size=SMALL), IMAGES).shape == (3, 3, 12, 12)
    assert counted[-1] == "_whole"
