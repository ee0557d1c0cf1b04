"""Image augmentation by kornia, on processed batches and whatever device they are on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor


AUGMENTATIONS = ("none", "light", "strong", "randaugment")

__all__ = ["AUGMENTATIONS", "augmentation"]


def augmentation(name: str, processor: BaseImageProcessor) -> Callable[[Tensor], Tensor] | None:
    """
    A named augmentation for the images a processor makes; random numbers come from torch's global generator.

    Args:
        name (`str`):
            `"none"`; `"light"` (shifts, scale and rotation by a few percent: safe for digits and documents);
            `"strong"` (random crops, horizontal flips, brightness, contrast and colour: for photographs);
            `"randaugment"` (RandAugment, https://huggingface.co/papers/1909.13719: flips, and two changes of geometry
            or colour drawn for each image).
        processor (`BaseImageProcessor`):
            Tells how pixels are normalised, which colour changes must undo and redo.

    Raises:
        ValueError: if there is no augmentation of that name.
        ImportError: if kornia is not installed.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"`{name}` is no augmentation; training would go on without one. Choose from {', '.join(AUGMENTATIONS)}."
        )
    if name == "none":
        return None
    try:
        from kornia import augmentation as K
    except ImportError as error:
        raise ImportError(
            "Augmentation is done by kornia, which is not installed. "
            'Run `pip install "hf-transfer-learning[vision]"`, or pass `--augmentation none`.'
        ) from error
    if name == "randaugment":
        return KorniaAugmentation([_RandAugment(), K.RandomHorizontalFlip()], processor)
    if name == "light":
        return KorniaAugmentation(
            [K.RandomAffine(degrees=10.0, translate=(0.08, 0.08), scale=(0.9, 1.1), p=0.9)], processor
        )
    return KorniaAugmentation(
        [_RandomCrop(), K.RandomHorizontalFlip(), K.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.8)], processor
    )


class _RandomCrop:
    """A random crop of 40 to 100% of the area, resized to where it was: kornia asks for the size at construction."""

    def __call__(self, pixels: Tensor) -> Tensor:
        from kornia import augmentation as K

        return K.RandomResizedCrop((pixels.shape[-2], pixels.shape[-1]), scale=(0.4, 1.0))(pixels)


class _RandAugment:
    """Two changes at magnitude 10 of 30, drawn for each image: kornia draws them for the batch."""

    def __call__(self, pixels: Tensor) -> Tensor:
        from kornia.augmentation.auto import RandAugment

        return torch.cat([RandAugment(n=2, m=10)(image.unsqueeze(0)) for image in pixels])


class KorniaAugmentation:
    """Applies augmentations to normalised images as if they were still in [0, 1]; picklable for loader workers."""

    def __init__(self, steps: Sequence[Callable[[Tensor], Tensor]], processor: Any):
        self.steps = steps
        normalised = getattr(processor, "do_normalize", False)
        self.mean = _per_channel(processor.image_mean if normalised else 0.0)
        self.std = _per_channel(processor.image_std if normalised else 1.0)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """`(B, 3, H, W)` to the same shape."""
        mean, std = self.mean.to(pixels), self.std.to(pixels)
        pixels = pixels * std + mean
        for step in self.steps:
            pixels = step(pixels)
        return (pixels.clamp(0, 1) - mean) / std


def _per_channel(value: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
