"""Label shift: class weights from the confusions of a classifier (BBSE)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers.utils import logging

from hf_transfer.features.reweighting.mean_one import report
from hf_transfer.functional.task_loss import UNLABELLED


logger = logging.get_logger(__name__)

_ILL_CONDITIONED = 100.0  # an error of 1% in the counts of predictions becomes one of the size of the priors

__all__ = ["LabelShift", "label_shift_weights"]


@dataclass(frozen=True, eq=False)
class LabelShift:
    """
    What [`label_shift_weights`] found.

    Args:
        class_weights (`np.ndarray`): `(C,)` $q(y) / p(y)$; 0 for classes without source rows.
        row_weights (`np.ndarray`): `(N,)` float64, the class weight of each source row, of mean 1; 1 for rows without
            a label, which count for nothing in the loss.
        source_priors (`np.ndarray`): `(C,)` $p(y)$, the shares of the classes among the labelled source rows.
        target_priors (`np.ndarray`): `(C,)` $q(y)$, estimated.
        confusion (`np.ndarray`): `(C, C)`, column $y$ holds the shares of the predictions for rows of class $y$.
        condition_number (`float`): of the confusions, by which errors grow at most.
    """

    class_weights: np.ndarray
    row_weights: np.ndarray = field(repr=False)
    source_priors: np.ndarray
    target_priors: np.ndarray
    confusion: np.ndarray = field(repr=False)
    condition_number: float


def label_shift_weights(
    probabilities_source: Any, labels_source: Any, probabilities_target: Any, *, confusion: str = "hard"
) -> LabelShift:
    r"""
    Black box shift estimation (BBSE): the class frequencies of an unlabelled target, and weights that give them to the
    source, from what one classifier predicts on both.

    With $A_{cy}$ the share of prediction $c$ among source rows of class $y$ and $\mu_c$ its share in the target, the
    target priors $q$ and class weights $w$ are

    $$ q = A^{-1} \mu, \qquad w_y = q_y / p_y $$

    with negative entries of $q$ set to 0 and their sum to 1, so that $\sum_y p_y w_y = 1$.

    Args:
        probabilities_source (array):
            `(N, C)`, of source rows that the classifier was **not** trained on: on training rows its confusions look
            rarer than they are in the target.
        labels_source (array):
            `(N,)` class numbers; -100 where there is none.
        probabilities_target (array):
            `(M, C)`, of the same classifier.
        confusion (`str`, *optional*, defaults to `"hard"`):
            `hard` counts the most probable class as predicted; `soft` takes the mean probabilities, which vary less.

    Degenerate batches:
        Classes without source rows get weight 0: nothing is known of them. Confusions that cannot be inverted are
        solved in the least squares sense. Where no prior is left above 0, those of the source are kept.

    Deviations from the paper:
        $A$ is conditional on the class; the joint matrix of the paper is $A$ times the source priors, and the solution
        the same. Its condition number then does not depend on how rare a class is.

    Raises:
        ValueError: if shapes do not fit, a number is no probability, a label is none of the classes, no row has a
            label, or `confusion` is unknown.

    Relations:
        [`importance_weights`] is for inputs that look different. Label shift assumes that the rows of a class look the
        same in both domains; check that first.

    Example:
        >>> source = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
        >>> shift = label_shift_weights(source, [0, 0, 1, 1], source[[0, 1, 0, 3]])
        >>> shift.target_priors.tolist(), shift.row_weights.tolist()
        ([0.75, 0.25], [1.5, 1.5, 0.5, 0.5])

    Paper: Lipton et al., "Detecting and Correcting for Label Shift with Black Box Predictors", ICML 2018,
    https://huggingface.co/papers/1802.03916
    """
    if confusion not in ("hard", "soft"):
        raise ValueError(
            f'`confusion="{confusion}"` is unknown: how a prediction is counted depends on it. Pass "hard" or "soft".'
        )
    source = _probabilities(probabilities_source, "source")
    target = _probabilities(probabilities_target, "target")
    labels = np.asarray(labels_source)
    _check(source, labels, target)
    classes = source.shape[1]
    if confusion == "hard":
        source, target = np.eye(classes)[source.argmax(1)], np.eye(classes)[target.argmax(1)]
    labelled = labels != UNLABELLED
    counts = np.bincount(labels[labelled], minlength=classes)
    matrix = np.zeros((classes, classes))
    np.add.at(matrix.T, labels[labelled], source[labelled])
    present = counts > 0
    matrix[:, present] /= counts[present]
    priors = counts / counts.sum()
    condition = float(np.linalg.cond(matrix[:, present]))
    if not condition < _ILL_CONDITIONED:
        logger.warning(
            f"The confusions of the classifier have condition number {condition:.3g}: it hardly tells some classes "
            "apart, and the estimated priors are mostly noise. Take a better classifier, or merge these classes."
        )
    solved = np.zeros(classes)
    solved[present] = np.maximum(np.linalg.lstsq(matrix[:, present], target.mean(0), rcond=None)[0], 0)
    target_priors = solved / solved.sum() if solved.sum() > 0 else priors
    class_weights = np.divide(target_priors, priors, out=np.zeros(classes), where=present)
    rows = np.ones(len(labels))
    rows[labelled] = class_weights[labels[labelled]]
    report(rows[labelled], "label shift")
    return LabelShift(class_weights, rows, priors, target_priors, matrix, condition)


def _probabilities(values: Any, name: str) -> np.ndarray:
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not len(table) or table.shape[1] < 2:
        raise ValueError(
            f"The probabilities of the {name} have shape {table.shape}: a share of each class is needed for each row. "
            "Pass a table (rows, classes) with at least one row and two classes."
        )
    if not (np.isfinite(table).all() and (table >= 0).all() and np.allclose(table.sum(1), 1, atol=1e-3)):
        raise ValueError(
            f"The rows of the {name} are no probabilities: logits, or scores of several labels a row, cannot be "
            "counted as shares. Pass the softmax of the logits, whose rows have sum 1."
        )
    return table


def _check(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> None:
    if source.shape[1] != target.shape[1] or labels.shape != (len(source),):
        raise ValueError(
            f"The source has {len(source)} rows of {source.shape[1]} classes and labels of shape {labels.shape}, the "
            f"target {target.shape[1]} classes: they do not belong together. Pass one label a source row and the "
            "predictions of one classifier."
        )
    known = labels[labels != UNLABELLED]
    if labels.dtype.kind not in "iu" or not len(known) or known.min() < 0 or known.max() >= source.shape[1]:
        raise ValueError(
            f"The source labels of type {labels.dtype} hold "
            f"{f'values from {known.min()} to {known.max()}' if len(known) else 'no label'}: the confusions need a "
            f"class number from 0 to {source.shape[1] - 1}. Give the labelled rows, {UNLABELLED} where there is none."
        )
