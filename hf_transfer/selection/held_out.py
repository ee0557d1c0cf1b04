"""k-NN and linear probe of a candidate, on examples that were held out: the same folds for all candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hf_transfer.compare.judging.row_scores import RowScores
from hf_transfer.features import fit_probe
from hf_transfer.features.probes import Probe
from hf_transfer.selection.target import NEVER, TargetRows


KNN, PROBE = "knn", "probe"

__all__ = ["KNN", "PROBE", "best_layer", "held_out", "majority"]


def held_out(
    kind: str, target: TargetRows, layers: Mapping[str, np.ndarray], labels: np.ndarray, examples: np.ndarray
) -> RowScores:
    r"""
    How well a probe predicts every example, fitted to the folds that it is not in.

    A row scores 1 where its class is right; an example with tokens the share of those that are; a real value
    $1 - (y - \hat y)^2 / \operatorname{var}(y)$, the mean of which is $R^2$. Regularisation, or number of neighbours,
    and of several layers the best, are chosen in the other folds alone.

    Args:
        kind (`str`): `knn` (of cosine), `ridge` or `logistic`.
        target (`TargetRows`): names the folds.
        layers (`Mapping[str, np.ndarray]`): `(R, D)` features by name.
        labels (`np.ndarray`): `(R,)` classes or values.
        examples (`np.ndarray`): `(R,)` examples of the rows.

    Returns:
        `RowScores`: of the examples that are held out at all.

    Raises:
        ValueError: if nothing can be fitted or held out.
    """

    def fit(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        name = best_layer(target, layers, labels, examples, train) if len(layers) > 1 else next(iter(layers))
        probe = _fitted(kind, target, layers[name], labels, examples, train)
        return lambda held: probe.predict(layers[name][held]).reshape(-1)

    return _crossed(fit, target, labels, examples)


def majority(target: TargetRows, labels: np.ndarray, examples: np.ndarray) -> RowScores:
    """The same of what looks at no input: the most frequent class of the other folds, or their mean."""

    def fit(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        if target.kind == "regression":
            answer: Any = labels[train].mean()
        else:
            answer = np.bincount(labels[train]).argmax()
        return lambda held: np.full(len(held), answer)

    return _crossed(fit, target, labels, examples)


def best_layer(
    target: TargetRows,
    layers: Mapping[str, np.ndarray],
    labels: np.ndarray,
    examples: np.ndarray,
    train: np.ndarray | None = None,
) -> str:
    """The layer whose ridge probe predicts rows best that are left out; of equals the first."""
    rows = np.arange(len(labels)) if train is None else train
    score = {}
    for name, features in layers.items():
        probe = _fitted("ridge", target, features, labels, examples, rows)
        score[name] = max(probe.scores.values(), default=0.0)
    return max(score, key=lambda name: score[name])


def _fitted(
    kind: str, target: TargetRows, features: np.ndarray, labels: np.ndarray, examples: np.ndarray, rows: np.ndarray
) -> Probe:
    options: dict[str, Any] = {"metrics": ("cosine",)} if kind == KNN else {}
    given, answers = features[rows], labels[rows]
    if target.kind == "token":  # a list for each sentence: its tokens are held out together
        cuts = np.flatnonzero(np.diff(examples[rows])) + 1
        return fit_probe(
            np.split(given, cuts),
            np.split(answers, cuts),
            kind=kind,
            label_names=target.data.label_names,
            **options,
        )
    if target.kind == "regression":
        return fit_probe(given, answers, kind=kind, task="regression", **options)
    return fit_probe(given, answers, kind=kind, label_names=target.data.label_names, **options)


def _crossed(
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    target: TargetRows,
    labels: np.ndarray,
    examples: np.ndarray,
) -> RowScores:
    fold = target.folds[examples]
    scores = np.full(len(labels), np.nan)
    spread = labels.var() if target.kind == "regression" else 1.0
    for number in np.unique(fold[fold != NEVER]):
        train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        answers = fit(train)(held)
        if target.kind == "regression":
            scores[held] = 1 - (labels[held] - answers) ** 2 / spread
        else:
            scores[held] = answers == labels[held]
    known = np.isfinite(scores)
    own, place = np.unique(examples[known], return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, weights=scores[known])
    classes = labels[known] if target.kind == "single_label" else None
    return RowScores(own, sums / weights, weights, classes)
