"""Weights of the source rows by the names of a command line, from features of the model as it starts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hf_transfer.domain_adaptation.outputs import Outputs
from hf_transfer.features.reweighting.importance import importance_weights
from hf_transfer.features.reweighting.label_shift import label_shift_weights


__all__ = ["WEIGHTINGS", "ClassWeights", "RowWeights"]


@dataclass(frozen=True)
class RowWeights:
    """
    Importance weights of the source rows.

    Args:
        method (`str`): as [`importance_weights`] knows it.
        clip (`float`, *optional*, defaults to 0.99): quantile at which ratios are cut off; `None` cuts nothing.
        power (`float`, *optional*, defaults to 1.0): exponent of the weights in [0, 1]; below 1 they are flatter, and
            the few rows that count most count less.

    Raises:
        ValueError: if `power` or `clip` is out of range.

    Example:
        >>> RowWeights("kmm", clip=0.9)
        RowWeights(method='kmm', clip=0.9, power=1.0)
    """

    method: str
    clip: float | None = 0.99
    power: float = 1.0

    def __post_init__(self):
        if not 0 <= self.power <= 1:
            raise ValueError(
                f"`power={self.power}` is outside [0, 1]: weights would be turned around, or a few rows be all that "
                "counts. Give 1.0 for the weights as they are, less for flatter ones."
            )
        if self.clip is not None and not 0 < self.clip <= 1:
            raise ValueError(
                f"`clip={self.clip}` is outside (0, 1]: it is the quantile at which ratios are cut off. Give a share "
                "such as 0.99, or null to cut nothing."
            )

    def of(self, source: Outputs, target: Outputs, *, seed: int) -> np.ndarray:
        """
        A weight of mean 1 for each source row; no label is read.

        Args:
            source (`Outputs`): of all rows that are trained on, in their order.
            target (`Outputs`): of rows of the target.
            seed (`int`): of folds and centres.
        """
        weights = importance_weights(
            source.features.numpy(), target.features.numpy(), method=self.method, clip=self.clip, seed=seed
        )
        flatter = weights**self.power
        return flatter / flatter.mean()


@dataclass(frozen=True)
class ClassWeights:
    """
    Weights by class for a target in which classes are more or less frequent than in the source (BBSE).

    Args:
        confusion (`str`, *optional*, defaults to `"hard"`): as for `label_shift_weights`.

    Raises:
        ValueError: if `confusion` is unknown.

    Example:
        >>> ClassWeights()
        ClassWeights(confusion='hard')
    """

    confusion: str = "hard"

    def __post_init__(self):
        if self.confusion not in ("hard", "soft"):
            raise ValueError(
                f'`confusion="{self.confusion}"` is no way to count predictions: the frequencies of the target would '
                'not be known. Give "hard" or "soft".'
            )

    def of(self, source: Outputs, target: Outputs, *, seed: int) -> np.ndarray:
        """
        A weight of mean 1 for each source row, from a logistic regression on the features that never saw the row.

        Args:
            source (`Outputs`): of all rows that are trained on, in their order, with their labels.
            target (`Outputs`): of rows of the target; labels are not read.
            seed (`int`): of the folds.

        Raises:
            ValueError: if a class has one row only.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rows, labels = source.features.numpy(), source.labels.numpy()
        known, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if counts.min() < 2:
            raise ValueError(
                f"Class {known[counts.argmin()]} has one source row: no classifier that never saw it could tell how "
                "the class is confused. Add rows, or leave `bbse` out."
            )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        folds = StratifiedKFold(min(5, int(counts.min())), shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            held_out = cross_val_predict(classifier, rows, numbers, cv=folds, method="predict_proba")
            of_target = classifier.fit(rows, numbers).predict_proba(target.features.numpy())
        return label_shift_weights(held_out, numbers, of_target, confusion=self.confusion).row_weights


WEIGHTINGS: dict[str, Any] = {
    "iw": partial(RowWeights, "domain_classifier"),
    **{name: partial(RowWeights, name) for name in ("kmm", "kliep", "ulsif")},
    "nearest": partial(RowWeights, "nearest_neighbour"),
    "bbse": ClassWeights,
}
"""What makes the weights, by name."""
