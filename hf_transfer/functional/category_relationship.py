"""The relationship p(source class | target class) of Co-Tuning, and calibration by temperature."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F


_STRENGTHS = (0.01, 1.0, 100.0, 10000.0)  # inverse regularisation, from which held-out rows choose
_FOLDS = 5

__all__ = ["calibration_temperature", "direct_relationship", "reverse_relationship"]


def calibration_temperature(logits: Tensor, labels: Tensor) -> float:
    r"""
    The temperature $T$ in [0.05, 20] that minimises the cross-entropy of $\operatorname{softmax}(l / T)$ (Guo 2017).

    Args:
        logits (`Tensor`): `(N, C)` of rows the classifier was not trained on.
        labels (`Tensor`): `(N,)` int64.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 4)
        >>> round(calibration_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)  # 2 / log 3
        1.82
    """
    logits = logits.double()
    true = logits.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    low, high = -torch.log(torch.tensor(20.0)).item(), torch.log(torch.tensor(20.0)).item()
    # The cross-entropy is convex in 1 / T: its slope changes sign once.
    for _ in range(50):
        middle = (low + high) / 2
        probabilities = torch.softmax(logits * torch.tensor(middle).exp(), -1)
        slope = ((probabilities * logits).sum(-1) - true).mean().item()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return torch.tensor(-(low + high) / 2).exp().item()


def direct_relationship(probabilities: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    """
    The mean prediction of the source model over the rows of each target class.

    Args:
        probabilities (`Tensor`): `(N, C_s)`, calibrated.
        labels (`Tensor`): `(N,)` int64 in `[0, C_t)`, each class at least once.
        num_labels (`int`): `C_t`.

    Shape:
        - returns `(C_t, C_s)` of the dtype of `probabilities`; rows sum to 1.

    Example:
        >>> direct_relationship(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), 1)
        tensor([[0.5000, 0.5000]])
    """
    members = F.one_hot(labels, num_labels).to(probabilities.dtype)
    means = members.T @ probabilities / members.sum(0).unsqueeze(1)
    return means / means.sum(1, keepdim=True)


def reverse_relationship(probabilities: Tensor, labels: Tensor, num_labels: int) -> Tensor:
    r"""
    $p(y_s | y_t) \propto p(y_t | y_s) \, p(y_s)$ with the mean prediction as $p(y_s)$; $p(y_t | y_s)$ is a logistic
    regression from source predictions to target classes, asked at the certain prediction of each source class.

    The strength of the regression's regularisation and its temperature are those with the least cross-entropy on
    held-out folds of the rows; with a class of one row there are no folds, and both are 1.

    Args:
        probabilities (`Tensor`): `(N, C_s)`, calibrated.
        labels (`Tensor`): `(N,)` int64 in `[0, C_t)`, each class at least once.
        num_labels (`int`): `C_t`.

    Shape:
        - returns `(C_t, C_s)` of the dtype of `probabilities`; rows sum to 1.

    Raises:
        ImportError: if scikit-learn is not installed.

    Example:
        >>> rows, labels = torch.eye(2, dtype=torch.float64).repeat(10, 1), torch.arange(2).repeat(10)
        >>> bool((reverse_relationship(rows, labels, 2).diagonal() > 0.9).all())
        True
    """
    if num_labels == 1:
        return direct_relationship(probabilities, labels, 1)
    try:
        import numpy as np
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as error:
        raise ImportError(
            f"The reverse relationship fits a logistic regression with scikit-learn; `{error.name}` is not installed. "
            'Install it with `pip install scikit-learn`, or use `relationship_from="direct"`.'
        ) from error

    def regression(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, fit_intercept=False, max_iter=300)

    x, y = probabilities.double().cpu().numpy(), labels.cpu().numpy()
    folds = min(_FOLDS, int(np.bincount(y, minlength=num_labels).min()))
    strength, temperature, best = 1.0, 1.0, float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an estimate short of the last digit serves as well
        if folds > 1:
            splits = StratifiedKFold(folds, shuffle=True, random_state=0)
            for candidate in _STRENGTHS:
                scores = cross_val_predict(regression(candidate), x, y, cv=splits, method="decision_function")
                held_out = _as_logits(torch.as_tensor(scores))
                found = calibration_temperature(held_out, labels.cpu())
                loss = F.cross_entropy(held_out / found, labels.cpu()).item()
                if loss < best:
                    strength, temperature, best = candidate, found, loss
        fitted = regression(strength).fit(x, y)
    certain = _as_logits(torch.as_tensor(fitted.decision_function(np.eye(x.shape[1]))))
    joint = torch.softmax(certain / temperature, -1).T * probabilities.double().cpu().mean(0)
    return (joint / joint.sum(1, keepdim=True)).to(probabilities)


def _as_logits(scores: Tensor) -> Tensor:
    """`(N, C)`; of two classes scikit-learn returns the difference only."""
    return torch.stack([torch.zeros_like(scores), scores], -1) if scores.dim() == 1 else scores
