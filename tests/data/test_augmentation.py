from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from hf_transfer.data.augmentation import AUGMENTATIONS, KorniaAugmentation, augmentation


def processor(**options) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 16, "width": 16}, **options)


PROCESSORS = {
    "half": processor(),
    "imagenet": processor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]),
    "bare": processor(do_normalize=False),
}
NAMES = [name for name in AUGMENTATIONS if name != "none"]


def pictures(of: ViTImageProcessorPil, rows: int = 4) -> torch.Tensor:
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(rows)]
    return of(images, return_tensors="pt")["pixel_values"]


def made(name: str, of: ViTImageProcessorPil) -> KorniaAugmentation:
    augment = augmentation(name, of)
    assert isinstance(augment, KorniaAugmentation)
    return augment


def test_none_is_nothing():
    assert augmentation("none", processor()) is None


@pytest.mark.parametrize("of", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("name", NAMES)
def test_shape_and_range_stay_and_pixels_do_not(name, of):
    pixels = pictures(of)
    kept = pixels.clone()
    augmented = made(name, of)(pixels)
    assert augmented.shape == pixels.shape and augmented.dtype == pixels.dtype and not augmented.requires_grad
    assert torch.equal(pixels, kept)
    black, white = (of([Image.new("RGB", (16, 16), (level,) * 3)], return_tensors="pt") for level in (0, 255))
    low, high = (image["pixel_values"][0, :, :1, :1] for image in (black, white))
    assert (augmented >= low - 1e-5).all() and (augmented <= high + 1e-5).all()
    assert not torch.allclose(augmented, pixels, atol=1e-2)


@pytest.mark.parametrize("of", PROCESSORS.values(), ids=PROCESSORS)
def test_normalisation_is_undone_and_redone_exactly(of):
    seen = []
    identity = KorniaAugmentation([lambda pixels: seen.append(pixels) or pixels], of)
    pixels = pictures(of)
    torch.testing.assert_close(identity(pixels), pixels, atol=1e-5, rtol=0)
    assert 0 <= seen[0].min() < 0.02 and 0.98 < seen[0].max() <= 1 + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_batch_are_augmented_differently(name):
    of = processor()
    augmented = made(name, of)(pictures(of, 1).expand(8, -1, -1, -1))
    different = [(augmented[0] - row).abs().max() > 1e-2 for row in augmented[1:]]
    assert sum(map(bool, different)) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_random_numbers_come_from_the_global_generator(name):
    of = processor()
    augment, pixels = made(name, of), pictures(of)
    torch.manual_seed(1)
    first, second = augment(pixels), augment(pixels)
    torch.manual_seed(1)
    again = augment(pixels)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_light_moves_little():
    of = processor(do_normalize=False)
    pixels = torch.zeros(16, 3, 16, 16)
    pixels[:, :, 7:9, 7:9] = 1
    augmented = made("light", of)(pixels)
    weight = augmented.sum((1, 2, 3))
    rows = (augmented.sum((1, 3)) @ torch.arange(16.0)) / weight
    columns = (augmented.sum((1, 2)) @ torch.arange(16.0)) / weight
    # 8% of 16 pixels, and something for the turn and the interpolation
    assert ((rows - 7.5).abs() < 2).all() and ((columns - 7.5).abs() < 2).all()
    assert rows.std() > 0.1 and columns.std() > 0.1


def test_light_keeps_left_and_right_and_strong_does_not():
    """Digits and letters must not be mirrored; photographs may."""
    of = processor(do_normalize=False)
    pixels = torch.zeros(32, 3, 16, 16)
    pixels[..., :8] = 1

    def mirrored(name: str) -> int:
        augmented = made(name, of)(pixels).mean((1, 2))
        return int((augmented[:, 12:].mean(1) > augmented[:, :4].mean(1) + 0.2).sum())

    assert mirrored("light") == 0
    assert 4 <= mirrored("strong") <= 28


def test_strong_changes_colours_and_light_does_not():
    of = processor(do_normalize=False)
    pixels = torch.full((8, 3, 16, 16), 0.5)
    middle = (slice(None), slice(None), slice(6, 10), slice(6, 10))
    torch.testing.assert_close(made("light", of)(pixels)[middle], pixels[middle], atol=1e-4, rtol=0)
    assert (made("strong", of)(pixels)[middle] - 0.5).abs().max() > 0.05


def test_pictures_that_are_not_square():
    of = ViTImageProcessorPil(size={"height": 12, "width": 20})
    pixels = of([Image.new("RGB", (20, 12), (90, 20, 60))] * 2, return_tensors="pt")["pixel_values"]
    for name in NAMES:
        assert made(name, of)(pixels).shape == (2, 3, 12, 20)


@pytest.mark.parametrize("name", NAMES)
def test_it_travels_to_the_workers_of_a_loader(name):
    of = processor()
    pixels = pictures(of)
    copy = pickle.loads(pickle.dumps(made(name, of)))
    assert copy(pixels).shape == pixels.shape


def test_half_precision_stays():
    of = processor()
    assert made("light", of)(pictures(of).double()).dtype == torch.float64


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="`wild` is no augmentation.*Choose from none, light, strong"):
        augmentation("wild", processor())


@pytest.mark.parametrize("name", NAMES)
def test_without_kornia(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"not installed. Run `pip install .*vision.*or pass `--augmentation none`"):
        augmentation(name, processor())
    assert augmentation("none", processor()) is None
