"""From the images that one model's processor made to those that another's would have made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


# What such processors do beyond scaling, shifting and resizing.
_OTHER_STEPS = ("apply_ocr", "do_pad", "do_thumbnail", "max_patches", "rescale_offset", "size_divisor")

__all__ = ["ImageTranslation"]


class ImageTranslation:
    r"""
    Undoes what the student's image processor did to the values of pixels, resizes, and does what the teacher's does.

    With factors $r$, means $m$ and deviations $s$ of student and teacher, a pixel $p$ becomes
    $((p s_S + m_S) r_T / r_S - m_T) / s_T$. Resizing is bilinear with antialiasing, whatever the processors use, to
    the size that the teacher's gives: what is cropped or cut off by the student's is not seen by the teacher either.

    Args:
        student (image processor):
            Made the `pixel_values` of the batch.
        teacher (image processor):
            Tells what the teacher was trained on.

    Shape:
        - `(B, C, H, W)` to `(B, C, H', W')`; the very same tensor where both processors agree.

    Raises:
        TypeError: if one of them is no image processor with mean, deviation and size.
        ValueError: if one does more than that, or they differ in the number of channels.

    Example:
        >>> from transformers import ViTImageProcessorPil
        >>> student = ViTImageProcessorPil(size={"height": 4, "width": 4}, image_mean=[0.0] * 3, image_std=[1.0] * 3)
        >>> teacher = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        >>> pixels = ImageTranslation(student, teacher)(torch.ones(2, 3, 4, 4))
        >>> pixels.shape, pixels.unique().tolist()
        (torch.Size([2, 3, 8, 8]), [1.0])
    """

    def __init__(self, student: Any, teacher: Any):
        own, theirs = _values(student, "student_processor"), _values(teacher, "processor")
        if len(own[1]) != len(theirs[1]) and 1 not in (len(own[1]), len(theirs[1])):
            raise ValueError(
                f"The student's processor has {len(own[1])} channels and the teacher's {len(theirs[1])}: which "
                "belongs to which is unknown. Give processors for images of the same kind."
            )
        self.size = _size(teacher)
        self.flips = bool(getattr(student, "do_flip_channel_order", False)) != bool(
            getattr(teacher, "do_flip_channel_order", False)
        )
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None
        if own != theirs:
            (factor, mean, std), (factor_t, mean_t, std_t) = (
                (values[0], *(torch.tensor(value, dtype=torch.float64).view(-1, 1, 1) for value in values[1:]))
                for values in (own, theirs)
            )
            if self.flips:
                mean, std = mean.flip(0), std.flip(0)
            self.scale = (std * factor_t / (factor * std_t)).float()
            self.shift = ((mean * factor_t / factor - mean_t) / std_t).float()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """The images as the teacher takes them."""
        if self.flips:
            pixels = pixels.flip(1)
        height, width = self._target(*pixels.shape[-2:])
        if (height, width) != tuple(pixels.shape[-2:]):
            # before the scaling, with which it commutes: its weights sum to 1
            resized = F.interpolate(pixels.float(), (height, width), mode="bilinear", antialias=True)
            pixels = resized.to(pixels.dtype)
        if self.scale is None or self.shift is None:
            return pixels
        return torch.addcmul(self.shift.to(pixels), pixels, self.scale.to(pixels))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        shortest = min(height, width)
        return round(height * self.size / shortest), round(width * self.size / shortest)


def _values(processor: Any, argument: str) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Factor, means and deviations that a processor applies, in this order."""
    normalises = getattr(processor, "do_normalize", None)
    if normalises is None and not hasattr(processor, "do_rescale"):
        raise TypeError(
            f"`{argument}` is a {type(processor).__name__}, which is no image processor with mean, deviation and "
            "size: how its pixels relate to those of the other model is unknown. Give what "
            "`AutoImageProcessor.from_pretrained` returns for the model."
        )
    other = [name for name in _OTHER_STEPS if getattr(processor, name, None)]
    if other:
        raise ValueError(
            f"`{argument}`, a {type(processor).__name__}, does more to an image than scaling, shifting and resizing "
            f"({', '.join(other)}): the other model's pixels cannot be told from its. Give the data set a column "
            "`teacher_pixel_values` of the teacher's own, and leave both processors out."
        )
    factor = float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 1.0
    if not normalises:
        return factor, (0.0,), (1.0,)
    return factor, _numbers(processor.image_mean), _numbers(processor.image_std)


def _numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, (int, float)) else tuple(map(float, values))


def _size(processor: Any) -> tuple[int, int] | int | None:
    """Height and width that a processor makes, or its shorter edge; `None` where it leaves the size alone."""
    crops = getattr(processor, "do_center_crop", False)
    if not crops and not getattr(processor, "do_resize", False):
        return None
    size: Any = processor.crop_size if crops else processor.size
    if isinstance(size, int):
        return (size, size)
    edges = dict(size)
    if edges.get("height") and edges.get("width"):
        return int(edges["height"]), int(edges["width"])
    if edges.get("shortest_edge") and not edges.get("longest_edge"):
        return int(edges["shortest_edge"])
    raise ValueError(
        f"`processor` makes images of the size {edges}, which depends on what each image was: the student's pixels no "
        "longer tell. Give the data set a column `teacher_pixel_values` of the teacher's own, or a processor with "
        '`size={"height": ..., "width": ...}`.'
    )
