"""From what was read off a model to the score of each validator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers.utils import logging

from hf_transfer.functional.model_selection import (
    deep_embedded_validation,
    importance_weighted_validation,
    information_maximization,
    mixed_logit_agreement,
    mixing_partners,
    negative_entropy,
    probe_consistency,
    soft_neighborhood_density,
)
from hf_transfer.validators.reading import Readings


logger = logging.get_logger(__name__)

ORACLE_NAMES = ("oracle_accuracy", "oracle_macro_f1")
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # of the domain classifier: a coarse grid, as it is fitted at each evaluation

__all__ = ["NAMES", "NEEDS_SOURCE", "NEEDS_TRAIN_SOURCE", "ORACLE_NAMES", "Evidence", "oracle_scores", "scores_of"]


@dataclass(frozen=True)
class Evidence:
    """
    All that a validator may look at. There is no place for labels of the target.

    Args:
        target (`Readings`): of the target.
        source (`Readings`, *optional*): of held-out labelled source rows.
        train_source (`Readings`, *optional*): of source rows that were trained on.
        seed (`int`): of what is drawn.
    """

    target: Readings
    source: Readings | None = None
    train_source: Readings | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        assert self.target.labels is None
        assert self.source is None or self.source.labels is not None

    @property
    def finite(self) -> bool:
        """Whether all features and logits are."""
        return all(
            np.isfinite(readings.features).all() and np.isfinite(readings.logits).all()
            for readings in (self.target, self.source, self.train_source)
            if readings is not None
        )

    @cached_property
    def errors(self) -> np.ndarray:
        """1 for each source row that the model gets wrong."""
        assert self.source is not None
        return (self.source.classes != self.source.labels).astype(np.float64)

    @cached_property
    def ratio(self) -> np.ndarray:
        """The target's density over the source's at each held-out source row."""
        from hf_transfer.features.reweighting import DomainClassifier

        assert self.source is not None and self.train_source is not None
        classifier = DomainClassifier(strengths=_STRENGTHS, folds=2, seed=self.seed)
        return classifier.fit(self.train_source.features, self.target.features).ratio(self.source.features)


def _reverse(evidence: Evidence) -> float:
    target, source = evidence.target, evidence.source
    assert source is not None and source.labels is not None
    return probe_consistency(target.features, target.classes, source.features, source.labels)


def _mixval(evidence: Evidence) -> float:
    target = evidence.target
    if target.mixed_agreement is not None:
        return target.mixed_agreement
    other = mixing_partners(target.classes, np.random.default_rng(evidence.seed))[1]
    return mixed_logit_agreement(target.logits, other)


_SCORES: dict[str, Callable[[Evidence], float]] = {
    "iwv": lambda evidence: importance_weighted_validation(evidence.errors, evidence.ratio),
    "dev": lambda evidence: deep_embedded_validation(evidence.errors, evidence.ratio),
    "entropy": lambda evidence: negative_entropy(evidence.target.logits),
    "information_maximization": lambda evidence: information_maximization(evidence.target.logits),
    "snd": lambda evidence: soft_neighborhood_density(evidence.target.logits),
    "reverse": _reverse,
    "mixval": _mixval,
}

NAMES = tuple(_SCORES)
"""The validators, in the order in which they are reported."""

NEEDS_SOURCE = ("iwv", "dev", "reverse")
NEEDS_TRAIN_SOURCE = ("iwv", "dev")


def scores_of(names: Sequence[str], evidence: Evidence) -> dict[str, float]:
    """The score by each of these validators; all `nan` where a feature or logit is not finite."""
    if not evidence.finite:
        logger.warning_once(
            "The model gives features or logits that are not finite: it has no score by any validator, and will not "
            "be chosen. Look for a learning rate that is too high."
        )
        return dict.fromkeys(names, float("nan"))
    return {name: float(_SCORES[name](evidence)) for name in names}


def oracle_scores(oracle: Readings) -> dict[str, float]:
    """Accuracy and macro F1 by true labels; classes that are neither there nor predicted do not count."""
    assert oracle.labels is not None
    labels, said = oracle.labels, oracle.classes
    scores = []
    for value in np.union1d(labels, said):
        right = np.sum((labels == value) & (said == value))
        scores.append(2 * right / (np.sum(labels == value) + np.sum(said == value)))
    return dict(zip(ORACLE_NAMES, (float((labels == said).mean()), float(np.mean(scores))), strict=True))
