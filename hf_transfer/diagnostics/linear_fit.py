"""A logistic regression whose scaling and regularisation come from the rows it is fitted to and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_transfer.features.probes.labelled_rows import ProbeRows
from hf_transfer.features.probes.training import STRENGTHS, Training, no_sklearn, standardised


__all__ = ["LinearFit", "fit_linear"]


@dataclass(frozen=True)
class LinearFit:
    """
    A fitted linear classifier.

    Args:
        mean (`np.ndarray`): `(D,)`, of the rows it was fitted to.
        scale (`np.ndarray`): `(D,)`, their standard deviation.
        weight (`np.ndarray`): `(C, D)`.
        bias (`np.ndarray`): `(C,)`.
        strength (`float`): chosen inverse regularisation strength.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strength: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """`(N, C)` float64."""
        return ((features - self.mean) / self.scale) @ self.weight.T + self.bias


def fit_linear(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> LinearFit:
    """
    Fit a logistic regression, its regularisation chosen by cross-validation.

    Args:
        features (`np.ndarray`): `(N, D)`.
        targets (`np.ndarray`): `(N,)` class numbers.
        groups (`np.ndarray`, *optional*): `(N,)`, rows of one number are never on both sides of a fold.
        strengths (`Sequence[float]`): what is chosen from.
        seed (`int`): of the folds.

    Raises:
        ValueError: if no strength is given, or one is not positive.
        ImportError: without scikit-learn.
    """
    if not strengths or min(strengths) <= 0:
        raise ValueError(
            f"`strengths={tuple(strengths)}`: the classifier is fitted with one of them, and they divide its penalty. "
            "Give one or more positive numbers, such as (0.01, 1.0)."
        )
    from hf_transfer.features.probes.logistic import fit_logistic

    inputs, mean, scale = standardised(
        ProbeRows(features, targets, "single_label"), None, standardize=True, centred=True
    )
    classes = int(targets.max()) + 1
    training = Training(inputs, targets, len(inputs), classes, "classes", groups=groups, seed=seed)
    try:
        fitted = fit_logistic(training, strengths)
    except ImportError as error:
        raise no_sklearn() from error
    return LinearFit(mean, scale, fitted.arrays["weight"], fitted.arrays["bias"], float(fitted.strength))
