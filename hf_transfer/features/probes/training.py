"""What every kind of probe is fitted to, which rows are held out to choose its regularisation, and the choice."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_transfer.features.probes.labelled_rows import ProbeRows


STRENGTHS = tuple(float(value) for value in 10.0 ** np.arange(-4, 3))
"""Inverse regularisation strengths `C` of the logistic regression that are tried, on standardised features."""

Candidate = float | str

__all__ = ["STRENGTHS", "Candidate", "Fitted", "Training", "choose", "held_out_score", "no_sklearn", "standardised"]

_BLOCK = 8192  # rows that are converted to float64 at a time


@dataclass(frozen=True)
class Fitted:
    """
    A fitted probe.

    Args:
        arrays (`Mapping[str, np.ndarray]`): what it predicts with.
        strength (`float` or `str`): the chosen candidate.
        scores (`Mapping`): held-out score of each candidate; empty where nothing could be held out.
        settings (`Mapping`): further numbers and names it predicts with.
    """

    arrays: Mapping[str, np.ndarray]
    strength: Candidate
    scores: Mapping[Candidate, float]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """
    Standardised rows to fit a probe to; behind them those given for validation.

    Args:
        inputs (`np.ndarray`): `(N + M, D)` float32 or float64.
        targets (`np.ndarray`): `(N + M,)` class numbers, or `(N + M, K)` values.
        rows (`int`): N.
        classes (`int`): C, or K.
        labels (`str`): `classes`, `several` or `values`.
        groups (`np.ndarray`, *optional*): `(N,)`, rows of one number are held out together.
        intercept (`bool`): whether there is a constant term.
        folds (`int`, *optional*): of the cross-validation.
        seed (`int`): of the folds, and of a probe that begins at random.
    """

    inputs: np.ndarray
    targets: np.ndarray
    rows: int
    classes: int
    labels: str
    groups: np.ndarray | None = None
    intercept: bool = True
    folds: int | None = None
    seed: int = 0

    @property
    def own(self) -> slice:
        """The rows to fit to."""
        return slice(0, self.rows)

    @property
    def validated(self) -> bool:
        """Whether rows for validation were given."""
        return len(self.inputs) > self.rows

    @property
    def leaves_one_out(self) -> bool:
        """Whether a kind that can leave out each row in turn at no cost should."""
        return not self.validated and self.groups is None and self.folds is None and self.rows > 1

    def table(self) -> np.ndarray:
        """`(N + M, K)` targets of a least-squares fit: 1 and -1 for classes, else the values."""
        if self.labels == "values":
            return self.targets.astype(np.float64)
        if self.labels == "several":
            return 2.0 * self.targets - 1.0
        return 2.0 * (self.targets[:, None] == np.arange(self.classes)) - 1.0

    def splits(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """
        Rows to fit to and rows to judge by: the given ones for validation, or folds.

        Folds hold the classes in equal shares; a class with one row is never held out. None where there is nothing
        that could be held out.
        """
        from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

        own = np.arange(self.rows)
        if self.validated:
            return [(own, np.arange(self.rows, len(self.inputs)))]
        strata = self.targets[self.own] if self.labels == "classes" else np.zeros(self.rows, np.int64)
        counts = np.bincount(strata, minlength=1)
        # five shares of many rows judge no better than three, and take twice as long
        folds = self.folds if self.folds is not None else 5 if self.rows < 5000 else 3
        folds = min(folds, int(counts.max()))
        if self.groups is not None:
            folds = min(folds, len(np.unique(self.groups)))
        if folds < 2:
            return []
        options: dict[str, Any] = {"n_splits": folds, "shuffle": True, "random_state": self.seed}
        if self.labels == "classes":
            maker: Any = StratifiedKFold if self.groups is None else StratifiedGroupKFold
        else:
            maker = KFold if self.groups is None else GroupKFold
        with warnings.catch_warnings():  # it warns of classes with fewer rows than folds: they are handled below
            warnings.simplefilter("ignore", UserWarning)
            found = list(maker(**options).split(own, strata, self.groups))
        if self.labels != "classes":
            return found
        alone = counts[strata] == 1
        kept = [(np.concatenate([train, held[alone[held]]]), held[~alone[held]]) for train, held in found]
        return [(train, held) for train, held in kept if len(held) and len(np.unique(strata[train])) > 1]


def standardised(
    rows: ProbeRows, validation: ProbeRows | None, *, standardize: bool, centred: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The features of both, standardised by those of the first, float32; mean and scale of these in float64."""
    features = rows.features
    width = features.shape[1]
    mean, scale = np.zeros(width), np.ones(width)
    if standardize:
        total = sum((block.sum(0) for block in _blocks(features)), np.zeros(width)) / len(features)
        spread = sum((((block - total) ** 2).sum(0) for block in _blocks(features)), np.zeros(width))
        deviation = np.sqrt(spread / len(features))
        # less than float32 can tell from a constant: dividing by it would blow up rounding errors
        scale = np.where(deviation > 1e-5 * np.sqrt(total**2 + deviation**2), deviation, 1.0)
        mean = total if centred else mean
    parts = [features] if validation is None else [features, validation.features]
    inputs = np.empty((sum(map(len, parts)), width), np.float32)
    start = 0
    for part in parts:
        for block in _blocks(part):
            inputs[start : start + len(block)] = (block - mean) / scale
            start += len(block)
    if not np.isfinite(inputs).all():
        bad = int((~np.isfinite(inputs)).any(1).sum())
        raise ValueError(
            f"{bad} rows of features are not finite: no probe can be fitted to them. Extract them in float32, or look "
            "for the input that the model answers with NaN."
        )
    return inputs, mean, scale


def held_out_score(logits: np.ndarray, targets: np.ndarray, labels: str) -> tuple[float, float]:
    """
    How well logits predict rows that were held out, and a loss that tells equals apart.

    For classes the accuracy and the log loss in nats, for several labels the micro F1 and the mean log loss of the
    labels, for values the negative squared error twice.
    """
    if labels == "values":
        error = float(((logits - targets) ** 2).mean())
        return -error, error
    if labels == "several":
        told = logits > 0
        right = float((told & (targets > 0)).sum())
        total = float(told.sum() + (targets > 0).sum())
        return (2 * right / total if total else 1.0), float(
            np.logaddexp(0, np.where(targets > 0, -logits, logits)).mean()
        )
    top = logits.max(1, keepdims=True)
    normaliser = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((logits.argmax(1) == targets).mean()), float(
        (normaliser - logits[np.arange(len(logits)), targets]).mean()
    )


def choose(
    judged: Iterable[tuple[Candidate, tuple[float, float]]], candidates: Sequence[Candidate]
) -> tuple[Candidate, dict[Candidate, float]]:
    """
    The candidate with the best mean score; of equals that with the lowest loss, of those the first.

    Without any score it is the middle candidate.
    """
    found: dict[Candidate, list[tuple[float, float]]] = {candidate: [] for candidate in candidates}
    for candidate, judgement in judged:
        found[candidate].append(judgement)
    means = {candidate: np.mean(values, 0) for candidate, values in found.items() if values}
    if not means:
        return candidates[len(candidates) // 2], {}
    best = max(means, key=lambda candidate: (means[candidate][0], -means[candidate][1]))
    return best, {candidate: float(mean[0]) for candidate, mean in means.items()}


def no_sklearn() -> ImportError:
    """The error of a probe where scikit-learn is missing."""
    return ImportError(
        "The probe is fitted by scikit-learn, which is not installed, and the head would stay random. Run "
        '`pip install "hf-transfer-learning[recipes]"`.'
    )


def _blocks(features: np.ndarray) -> Iterable[np.ndarray]:
    for start in range(0, len(features), _BLOCK):
        yield features[start : start + _BLOCK].astype(np.float64)
