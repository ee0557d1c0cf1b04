"""What the recommended strategy takes for what, which rows it gets wrong, and what it does to the features."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader, Subset

from hf_transfer.anatomy import anatomy
from hf_transfer.compare.cells import Predictions
from hf_transfer.compare.outcome import FeatureMap, Mistake
from hf_transfer.features import head_features


MISTAKES = 12
"""Most mistakes that are shown."""
MAPPED = 500
"""Most rows of a map of features."""
EDGE = 112
"""Longest side of a picture that is shown, in pixels."""
LETTERS = 400
"""Most letters of a text that are shown."""

__all__ = ["MISTAKES", "confusion", "feature_map", "find_mistakes", "thumbnail"]


def confusion(predictions: Iterable[Predictions], classes: int) -> list[list[int]] | None:
    """
    How often rows (or tokens) of each class were taken for each class, over several runs.

    Args:
        predictions (`Iterable[Predictions]`): of classes; those whose logits are not finite do not count.
        classes (`int`): how many there are.

    Returns:
        `list[list[int]]`: a line for each true class; `None` where there are no predictions.

    Example:
        >>> said = Predictions(np.arange(3), np.array([0, 1, 1]), np.array([[2.0, 1], [0, 1], [1, 0]]))
        >>> confusion([said], 2)
        [[1, 0], [1, 1]]
    """
    counts, found = np.zeros((classes, classes), np.int64), False
    for own in predictions:
        counted = (own.labels >= 0) & np.isfinite(own.logits).all(axis=-1)
        np.add.at(counts, (own.labels[counted], own.logits.argmax(axis=-1)[counted]), 1)
        found = True
    return counts.tolist() if found else None


def find_mistakes(
    predictions: Iterable[Predictions], rows: Any, label_names: Sequence[str], *, most: int = MISTAKES
) -> list[Mistake]:
    """
    Rows whose class is wrong, the surest mistakes first; of several runs the one that is surest of it. For tokens, one
    word of a sentence.

    Args:
        predictions (`Iterable[Predictions]`): of classes.
        rows (`datasets.Dataset`): what `ids` number, with `image`, `text` and `text_pair`, or `tokens`.
        label_names (`Sequence[str]`): of the classes.
        most (`int`, *optional*, defaults to 12): how many.
    """
    wrong: dict[int, tuple[float, int, int]] = {}
    for own in predictions:
        shares = _softmax(own.logits)
        said, surest = shares.argmax(axis=-1), shares.max(axis=-1)
        bad = (said != own.labels) & (own.labels >= 0) & np.isfinite(own.logits).all(axis=-1)
        for place in np.argwhere(bad):
            row, index = int(own.ids[place[0]]), tuple(place)
            sure = float(surest[index])
            if sure > wrong.get(row, (-1.0, 0, 0))[0]:
                wrong[row] = (sure, int(own.labels[index]), int(said[index]))
    chosen = sorted(wrong.items(), key=lambda item: (-item[1][0], item[0]))[:most]
    return [
        Mistake(number, label_names[truth], label_names[said], sure, **_shown(rows[number]))
        for number, (sure, truth, said) in chosen
    ]


def thumbnail(image: Any, *, edge: int = EDGE) -> str:
    """
    A picture of PIL as a small `data:` URI: small ones as PNG, without loss, others as JPEG.

    Args:
        image (`PIL.Image.Image`): of any size and mode.
        edge (`int`, *optional*, defaults to 112): longest side in pixels.
    """
    small = image.convert("RGB")
    lossless = max(small.size) <= 64
    small.thumbnail((edge, edge))
    buffer = io.BytesIO()
    small.save(buffer, **({"format": "PNG", "optimize": True} if lossless else {"format": "JPEG", "quality": 80}))
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def feature_map(
    before: nn.Module, after: nn.Module | None, rows: Any, collate: Any, *, batch_size: int = 32, most: int = MAPPED
) -> FeatureMap | None:
    """
    What the head of a model is given, in two dimensions: by the pretrained model, and by the recommended one.

    Each model has its own principal components.

    Args:
        before (`nn.Module`): the pretrained model, on its device.
        after (`nn.Module`, *optional*): the trained one; `None` where its features are the same.
        rows (`datasets.Dataset`): prepared ones, with one class each.
        collate (`Callable`): makes batches of them.
        batch_size (`int`, *optional*, defaults to 32): rows of a forward.
        most (`int`, *optional*, defaults to 500): rows that are shown, evenly over all.

    Returns:
        `FeatureMap`: `None` with fewer than three rows, or where rows have no single class.
    """
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)) if len(rows) else []
    if len(numbers) < 3:
        return None
    batches = DataLoader(Subset(rows, [int(number) for number in numbers]), batch_size, collate_fn=collate)
    features, labels = head_features(before, batches)
    if labels.dim() != 1 or labels.is_floating_point() or len(labels) != len(numbers):
        return None
    changed = None
    if after is not None:
        changed = _flat(head_features(after, batches, head=_head_of(after))[0].numpy())
    return FeatureMap(_flat(features.numpy()), changed, labels.tolist(), "PCA")


def _flat(features: np.ndarray) -> list[list[float]]:
    """The first two principal components, `(N, 2)`."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])  # which SVD leaves open
    places = np.zeros((len(features), 2))
    width = min(2, len(sizes))
    places[:, :width] = (left * sizes * np.where(signs == 0, 1.0, signs))[:, :width]
    return [[float(f"{value:.5g}") for value in place] for place in places]


def _head_of(model: nn.Module) -> str:
    return anatomy(model).head


def _softmax(logits: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30)
    powers = np.exp(finite - finite.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    if "image" in row:
        return {"image": thumbnail(row["image"])}
    if "tokens" in row:
        return {"text": _cut(" ".join(map(str, row["tokens"])))}
    texts = [str(row[name]) for name in ("text", "text_pair") if row.get(name) is not None]
    return {"text": " / ".join(map(_cut, texts))}


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LETTERS else f"{text[:LETTERS].rstrip()}..."
