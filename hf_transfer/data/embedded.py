"""
Data that needs no network: scikit-learn's digits as images (`digits`), made-up reviews (`reviews`) and sounds
(`tones`) of two domains each.

The digits are real: 1,797 scans of handwritten digits, 8x8 pixels, from the UCI data set "Optical Recognition of
Handwritten Digits" (CC BY 4.0) that scikit-learn ships. `load_splits("embedded:NAME")` takes the names of
`EMBEDDED_SETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_transfer.data.columns import listed
from hf_transfer.data.synthetic_reviews import ReviewDomain, synthetic_reviews
from hf_transfer.data.synthetic_tones import KINDS, synthetic_tones


SIZE = 32  # pixels: four times the scans, the least that common image models take


def digits(labels: Sequence[int] = range(10), *, shifted: bool = False) -> DatasetDict:
    """
    Handwritten digits as 32x32 RGB images in splits train (60 %), validation (10 %) and test (30 %), always the same.

    With `shifted`, the same scans as a second domain: thickened, turned by up to 15 degrees, and each pixel replaced
    by its distance from a smooth random colour texture, so that strokes are neither always bright nor of one colour. A
    small residual network trained on the plain digits has a test accuracy of 0.99 there and about 0.65 on the shifted
    ones, one trained on the shifted digits about 0.95.

    Args:
        labels (`Sequence[int]`, *optional*, defaults to `range(10)`):
            Digits to keep; class 0 is the first of them, under the name of the digit.
        shifted (`bool`, *optional*, defaults to `False`):
            Whether to make the second domain.

    Raises:
        ImportError: if scikit-learn or Pillow is not installed.
        ValueError: if fewer than two different digits are given.

    Example:
        >>> digits(range(5, 10))["train"].features["label"].names
        ['5', '6', '7', '8', '9']
    """
    try:
        import PIL  # noqa: F401
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"The embedded digits need scikit-learn and Pillow; `{error.name}` is not installed, so there are no "
            'images. Run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    kept = list(labels)
    if len(set(kept)) != len(kept) or len(kept) < 2 or not set(kept) <= set(range(10)):
        raise ValueError(
            f"labels={kept} are not at least two different digits; a classifier needs two classes. "
            "Pass for instance `range(5)`."
        )
    # no return_X_y: the 8x8 form is only in the bunch
    scans: Any = load_digits()
    images = np.asarray(scans["images"]) * (255 / 16)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in kept])})
    order = np.random.default_rng(0).permutation(len(images))
    edges = [0, round(0.6 * len(order)), round(0.7 * len(order)), len(order)]
    splits = {}
    for name, start, end in zip(("train", "validation", "test"), edges, edges[1:], strict=False):
        rows = [row for row in order[start:end] if scans["target"][row] in kept]
        draw = _draw_shifted if shifted else _draw
        splits[name] = Dataset.from_dict(
            {
                "image": [draw(images[row], int(row)) for row in rows],
                "label": [kept.index(int(scans["target"][row])) for row in rows],
            },
            features=features,
        )
    return DatasetDict(splits)


def reviews(domain: ReviewDomain, *, rows: int = 2000, seed: int = 0) -> DatasetDict:
    """
    Synthetic reviews ([`hf_transfer.data.synthetic_reviews`]), splits train (60 %), validation (10 %) and test (30 %).

    Texts are distinct over all splits; the classes `negative` and `positive` are balanced.

    Args:
        domain (`"books"` or `"kitchen"`):
            What is reviewed.
        rows (`int`, *optional*, defaults to 2000):
            Number of reviews in all; 10 or more.
        seed (`int`, *optional*, defaults to 0):
            Seed of the choice of words.

    Raises:
        ValueError: if the domain is unknown or there are fewer than 10 rows.

    Example:
        >>> {name: len(split) for name, split in reviews("kitchen", rows=100).items()}
        {'train': 60, 'validation': 10, 'test': 30}
    """
    if rows < 10:
        raise ValueError(f"rows={rows} cannot fill three splits with both classes. Pass 10 or more.")
    texts, labels = synthetic_reviews(domain, rows, seed=seed)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    # even edges: labels alternate, so every split is balanced
    edges = [0, 2 * round(0.3 * rows), 2 * round(0.35 * rows), rows]
    return DatasetDict(
        {
            name: Dataset.from_dict({"text": texts[start:end], "label": labels[start:end]}, features=features)
            for name, start, end in zip(("train", "validation", "test"), edges, edges[1:], strict=False)
        }
    )


def tones(kinds: Sequence[str] = KINDS, *, noisy: bool = False, rows: int = 960) -> DatasetDict:
    """
    Made-up sounds ([`hf_transfer.data.synthetic_tones`]), splits train (60 %), validation (10 %) and test (30 %).

    They are WAV files in memory, of 0.25 to 0.5 seconds at 8,000 samples a second; the classes are balanced.

    Args:
        kinds (`Sequence[str]`, *optional*, defaults to all eight):
            Kinds of sound to keep; class 0 is the first of them.
        noisy (`bool`, *optional*, defaults to `False`):
            Whether to make the second domain, of other sounds with an echo, a narrow band and a background.
        rows (`int`, *optional*, defaults to 960):
            Number of sounds in all; at least 10 of each kind.

    Raises:
        ValueError: if fewer than two different kinds are given, or an unknown one; if there are too few rows.

    Example:
        >>> tones(["tone", "noise"], rows=20)["validation"]["label"][:]
        [0, 1]
    """
    if rows < 10 * len(kinds):
        raise ValueError(
            f"rows={rows} cannot fill three splits with {len(kinds)} classes. Pass {10 * len(kinds)} or more."
        )
    sounds, labels = synthetic_tones(rows, kinds, noisy=noisy, seed=int(noisy))
    # stored first, and a column of sound afterwards: `Audio` of datasets 5.2 takes rows in only beside torchcodec
    stored = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"audio": stored, "label": ClassLabel(names=list(kinds))})
    # whole turns of the classes, so that every split is balanced
    turns = rows // len(kinds)
    edges = [0, *(len(kinds) * round(share * turns) for share in (0.6, 0.7)), rows]
    splits = {}
    for name, start, end in zip(("train", "validation", "test"), edges, edges[1:], strict=False):
        files = [{"bytes": sound, "path": None} for sound in sounds[start:end]]
        split = Dataset.from_dict({"audio": files, "label": labels[start:end]}, features=features)
        splits[name] = split.cast_column("audio", Audio(decode=False))
    return DatasetDict(splits)


EMBEDDED_SETS: dict[str, Callable[[], DatasetDict]] = {
    "digits": digits,
    "digits/0-4": partial(digits, range(5)),
    "digits/5-9": partial(digits, range(5, 10)),
    "digits/shifted": partial(digits, shifted=True),
    "reviews/books": partial(reviews, "books"),
    "reviews/kitchen": partial(reviews, "kitchen"),
    "tones": tones,
    "tones/noisy": partial(tones, noisy=True),
}


def load_embedded(name: str) -> DatasetDict:
    """
    An embedded data set by its name in `EMBEDDED_SETS`.

    Raises:
        ValueError: if there is no such set.

    Example:
        >>> load_embedded("reviews/books")["train"].column_names
        ['text', 'label']
    """
    if name not in EMBEDDED_SETS:
        raise ValueError(
            f"There is no embedded data set `{name}`; nothing can be loaded. Pass one of "
            f"{listed(f'embedded:{known}' for known in EMBEDDED_SETS)}."
        )
    return EMBEDDED_SETS[name]()


def _draw(scan: np.ndarray, row: int):
    from PIL import Image as PIL

    grey = PIL.fromarray(scan.round().astype(np.uint8)).resize((SIZE, SIZE), PIL.Resampling.BICUBIC)
    return grey.convert("RGB")


def _draw_shifted(scan: np.ndarray, row: int):
    from PIL import Image as PIL
    from PIL import ImageFilter

    random = np.random.default_rng([1, row])  # by row: the picture does not depend on which others are drawn
    picture = _draw(scan, row).filter(ImageFilter.MaxFilter(3))
    picture = picture.rotate(random.uniform(-15, 15), PIL.Resampling.BILINEAR)
    colours = PIL.fromarray(random.integers(0, 160, (4, 4, 3), dtype=np.uint8))
    texture = np.asarray(colours.resize((SIZE, SIZE), PIL.Resampling.BICUBIC), dtype=np.int16)
    return PIL.fromarray(np.abs(texture - np.asarray(picture, dtype=np.int16)).astype(np.uint8))
