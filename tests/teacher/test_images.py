"""Images of the student's processor as the teacher's would have made them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil

from hf_transfer.data.source_models import _tokenizer
from hf_transfer.teacher.images import ImageTranslation


def processor(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), **options):
    options = {"size": {"height": size, "width": size}, **options}
    return ViTImageProcessorPil(image_mean=list(mean), image_std=list(std), **options)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def images(count=3, size=8):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(made_by, given):
    return made_by(given, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    "teacher",
    [
        processor(**IMAGENET),
        processor(do_normalize=False),
        processor(do_rescale=False, do_normalize=False),
        processor(rescale_factor=1 / 127.5, mean=(1.0,) * 3, std=(1.0,) * 3),
    ],
)
def test_what_the_other_processor_makes(teacher):
    student = processor(mean=(0.1, 0.2, 0.3), std=(0.9, 0.7, 0.4))
    made = ImageTranslation(student, teacher)(pixels(student, images()))
    torch.testing.assert_close(made, pixels(teacher, images()).float(), rtol=1e-4, atol=1e-3)


def test_is_the_very_tensor_where_both_agree():
    given = torch.randn(2, 3, 8, 8)
    assert ImageTranslation(processor(**IMAGENET), processor(**IMAGENET))(given) is given


@pytest.mark.parametrize("size", [4, 16])
def test_the_size_is_the_teacher_s_and_near_to_what_its_processor_makes(size):
    smooth = [image.resize((32, 32), Image.Resampling.BICUBIC) for image in images(size=4)]
    student, teacher = processor(32), processor(size, **IMAGENET)
    made = ImageTranslation(student, teacher)(pixels(student, smooth))
    assert made.shape == (3, 3, size, size)
    torch.testing.assert_close(made, pixels(teacher, smooth), rtol=0, atol=0.02)


def test_size_by_crop_and_by_shortest_edge():
    crop = processor(do_center_crop=True)
    crop.crop_size, crop.do_center_crop = {"height": 6, "width": 5}, True
    assert ImageTranslation(processor(), crop)(torch.zeros(1, 3, 8, 8)).shape[-2:] == (6, 5)
    edge = processor()
    edge.size = {"shortest_edge": 12}
    assert ImageTranslation(processor(), edge)(torch.zeros(1, 3, 8, 16)).shape[-2:] == (12, 24)
    edge.do_resize = False
    assert ImageTranslation(processor(), edge)(torch.zeros(1, 3, 8, 16)).shape[-2:] == (8, 16)
    assert ImageTranslation(processor(), ConvNextImageProcessorPil(size={"shortest_edge": 4})).size == 4


def test_channels_in_the_other_order():
    teacher = processor(**IMAGENET)
    teacher.do_flip_channel_order = True
    student = processor()
    made = ImageTranslation(student, teacher)(pixels(student, images()))
    plain = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images()]).float() / 255
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(made, (plain.flip(1) - mean) / std, rtol=1e-4, atol=1e-5)


def test_keeps_the_type_and_the_graph_out():
    given = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    made = ImageTranslation(processor(), processor(4, **IMAGENET))(given)
    assert made.dtype == torch.bfloat16 and not made.requires_grad


def test_what_cannot_be_translated_is_refused():
    with pytest.raises(TypeError, match=r"`processor` is a \w+, which is no image processor"):
        ImageTranslation(processor(), _tokenizer(["a b"]))
    padding = processor()
    padding.do_pad = True
    with pytest.raises(ValueError, match=r"`student_processor`.*more to an image.*\(do_pad\).*teacher_pixel_values"):
        ImageTranslation(padding, processor())
    longest = processor()
    longest.size = {"longest_edge": 8}
    with pytest.raises(ValueError, match="sizes? .*longest_edge.*depends on what each image was"):
        ImageTranslation(processor(), longest)
    with pytest.raises(ValueError, match="The student's processor has 3 channels and the teacher's 2"):
        ImageTranslation(processor(), processor(mean=(0.5, 0.5), std=(0.5, 0.5)))
