"""What a linear probe gets to see without any pretrained model: small pictures, hashed words, bands of a spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_transfer.data.sound import samples, stored_sound
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.selection.target import TargetRows


SIDE = 16
"""Pixels of a side of a small picture."""
WORDS = 1024
"""Places that words are hashed to."""
BANDS = 64
"""Of a spectrum, equally wide on a scale of ratios."""
RATE = 16000
"""Samples a second that sound is brought to."""

__all__ = ["raw_features"]


def raw_features(target: TargetRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Features that need no training, of the labelled rows of a target.

    Images are made 16x16 pixels of three colours; texts counts of 1,024 hashed words, at length one (of pairs each
    text by itself); tokens the hashed word with its neighbours and its ends; sound the log power in 64 bands.

    Args:
        target (`TargetRows`): of any task.

    Returns:
        `tuple`: features `(R, D)` float32, labels `(R,)` and the examples `(R,)` that rows belong to.
    """
    rows = target.rows
    if target.kind == "token":
        return _tokens(rows)
    if target.data.input_columns == ("image",):
        features = np.stack([_small(image) for image in _each(rows, "image")])
    elif target.data.input_columns == ("audio",):
        features = np.stack([_bands(sound) for sound in _each(stored_sound(rows), "audio")])
    else:
        features = np.concatenate([_hashed(rows[name][:]) for name in target.data.input_columns], axis=1)
    labels = np.asarray(rows["label"][:], dtype=np.float64 if target.kind == "regression" else np.int64)
    return features, labels, np.arange(len(rows))


def _each(rows: Dataset, column: str) -> Iterator[Any]:
    for row in rows.select_columns([column]):
        yield row[column]  # type: ignore[index,call-overload]


def _small(image: Any) -> np.ndarray:
    pixels = image.convert("RGB").resize((SIDE, SIDE))
    return np.asarray(pixels, dtype=np.float32).reshape(-1) / 255


def _bands(sound: Any) -> np.ndarray:
    wave = samples(sound, RATE).astype(np.float64)
    power = np.abs(np.fft.rfft(wave)) ** 2 / max(len(wave), 1)
    edges = np.unique(np.geomspace(1, max(len(power), 2), BANDS + 1).astype(np.int64))
    found = np.full(BANDS, 0.0)
    sums = np.add.reduceat(power, np.minimum(edges[:-1], len(power) - 1))
    # of a short recording the lowest bands fall together: the highest stay in their places
    found[-len(sums) :] = sums / np.maximum(np.diff(edges), 1)
    return np.log(found + 1e-10).astype(np.float32)


def _hashed(texts: Sequence[str]) -> np.ndarray:
    from sklearn.feature_extraction.text import HashingVectorizer

    table: Any = HashingVectorizer(n_features=WORDS, alternate_sign=False).transform(texts)
    return table.toarray().astype(np.float32)


def _tokens(rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.feature_extraction import FeatureHasher

    said, labels, examples = [], [], []
    for number, row in enumerate(rows):
        words: Any = row["tokens"]  # type: ignore[index,call-overload]
        for place, label in enumerate(row["label"]):  # type: ignore[index,call-overload]
            if label == UNLABELLED:
                continue
            word = words[place]
            before = words[place - 1].lower() if place else "<first>"
            after = words[place + 1].lower() if place + 1 < len(words) else "<last>"
            shape = "".join("X" if c.isupper() else "x" if c.islower() else "0" if c.isdigit() else c for c in word)
            said.append(
                [f"w {word.lower()}", f"b {before}", f"a {after}", f"p {word[:3]}", f"s {word[-3:]}", f"f {shape[:6]}"]
            )
            labels.append(label)
            examples.append(number)
    table: Any = FeatureHasher(WORDS, input_type="string", alternate_sign=False).transform(said)
    return table.toarray().astype(np.float32), np.array(labels, dtype=np.int64), np.array(examples, dtype=np.int64)
