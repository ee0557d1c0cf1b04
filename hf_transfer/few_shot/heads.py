"""Few-shot classifiers that are one linear layer, as the head of an ordinary model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_transfer.features import Probe, fit_probe, matrix


SHARPNESS = 10.0
"""Logits of a nearest mean are cosines times this over the mean length of the features: probabilities are only ranks
anyway, but should differ visibly."""

FOLDABLE = ("nearest_mean", "prototypes", "logistic")
"""Methods whose answers a linear head gives exactly."""

__all__ = ["FOLDABLE", "as_probe", "describe_head"]


def describe_head(method: str) -> str:
    """
    The head of a method in words.

    Example:
        >>> describe_head("logistic")
        'a logistic regression on the features'
    """
    return {
        "nearest_mean": "made of the means of the features at unit length, compared by cosine",
        "prototypes": "made of the means of the features, compared by squared distance",
        "logistic": "a logistic regression on the features",
    }[method]


def as_probe(
    method: str, features: Any, labels: Any = None, *, label_names: Sequence[str] = (), seed: int = 0
) -> Probe:
    r"""
    A few-shot classifier fitted to all labelled rows, in the form that [`Probe.fold_into`] writes into a model's head.

    `nearest_mean` has the weights $\beta \bar u_c / \lVert \bar u_c \rVert$, with the mean $\bar u_c$ of the rows of
    class $c$ at unit length, and no bias: the order of its logits is that of the cosines. `prototypes` has that of
    minus the squared distances to the class means. `logistic` is a logistic regression whose strength is chosen in
    cross-validation.

    Args:
        method (`str`): one of `FOLDABLE`.
        features (`datasets.Dataset` or array): what `extract_features` returns, or `(N, D)`.
        labels (array, *optional*): `(N,)` class numbers; by default the column `labels`.
        label_names (`Sequence[str]`, *optional*): names of the classes by number.
        seed (`int`, *optional*, defaults to 0): of the folds of a logistic regression.

    Raises:
        ValueError: if the method is no linear layer.

    Example:
        >>> features, labels = np.array([[3.0, 0.1], [1.0, 0.1], [0.0, 2.0]]), np.array([0, 0, 1])
        >>> as_probe("nearest_mean", features, labels).predict([[5.0, 1.0], [0.1, 0.2]]).tolist()
        [0, 1]
    """
    if method not in FOLDABLE:
        raise ValueError(f"`{method}` is no linear layer: no head has its answers. Choose from {', '.join(FOLDABLE)}.")
    names = list(label_names) or None
    if method == "logistic":
        return fit_probe(features, labels, kind="logistic", label_names=names, seed=seed)
    probe = fit_probe(features, labels, kind="nearest_class_mean", standardize=False, label_names=names)
    if method == "prototypes":
        return probe
    table = np.asarray(matrix(features) if labels is None else features, dtype=np.float64)
    numbers = np.asarray(features["labels"][:] if labels is None else labels)
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    units = table / np.maximum(lengths, 1e-12)
    means = np.zeros((probe.classes, table.shape[1]))
    np.add.at(means, numbers[numbers >= 0], units[numbers >= 0])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    scale = SHARPNESS / max(float(lengths.mean()), 1e-12)
    width = table.shape[1]
    return replace(
        probe,
        mean=np.zeros(width),
        scale=np.ones(width),
        arrays={"weight": scale * means, "bias": np.zeros(probe.classes)},
    )
