"""A linear head for a classifier of series in closed steps, and the baselines that look at raw series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_transfer.anatomy import anatomy
from hf_transfer.source import accepted_inputs
from hf_transfer.tap import HeadTap
from hf_transfer.time_series.classifiers import SeriesRows


STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty that a logistic regression chooses from."""

__all__ = ["BASELINES", "STRENGTHS", "baseline_answers", "fit_classifier_head", "head_features", "logistic_regression"]

BASELINES = {
    "majority": "the commonest class",
    "nearest": "the class of the nearest series (1-NN, Euclidean, on scaled values)",
    "logistic": "logistic regression on the scaled values",
}


def baseline_answers(name: str, train: SeriesRows, judged: SeriesRows, chosen_on: SeriesRows | None) -> np.ndarray:
    """
    What a baseline on raw series says of every row.

    Args:
        name (`str`): one of [`BASELINES`].
        train, judged ([`SeriesRows`]): what it learns from, and what it is asked about.
        chosen_on ([`SeriesRows`], *optional*): rows to choose the strength of the penalty on; else it is 1.

    Returns:
        `np.ndarray`: `(N,)` class numbers.
    """
    from sklearn.neighbors import KNeighborsClassifier

    x, y = flat(train), np.asarray(train.labels)
    if name == "majority":
        return np.full(len(judged), np.bincount(y).argmax())
    if name == "nearest":
        return KNeighborsClassifier(1).fit(x, y).predict(flat(judged))
    held_out = None if chosen_on is None else (flat(chosen_on), np.asarray(chosen_on.labels))
    return logistic_regression(x, y, held_out).predict(flat(judged))


def logistic_regression(x: np.ndarray, y: np.ndarray, held_out: tuple[np.ndarray, np.ndarray] | None) -> Any:
    """
    A standardised multinomial logistic regression of scikit-learn, its penalty chosen on held-out rows; of equals the
    strongest.

    Args:
        x (`np.ndarray`): `(N, D)`.
        y (`np.ndarray`): `(N,)` class numbers.
        held_out (`tuple`, *optional*): the same of the rows to choose on; without, the inverse strength is 1.

    Returns:
        A pipeline of a `StandardScaler` and a `LogisticRegression`.

    Raises:
        ValueError: if all rows are of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(set(y.tolist())) < 2:
        raise ValueError(
            f"All {len(y)} rows are of class {y[0]}: there is nothing to tell apart. Give rows of two classes or more."
        )
    found = []
    for strength in STRENGTHS if held_out is not None else (1.0,):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a weak penalty may not converge, and is then not chosen for its score
            model.fit(x, y)
        found.append((0.0 if held_out is None else model.score(*held_out), model))
    return max(found, key=lambda pair: pair[0])[1]


@torch.no_grad()
def head_features(model: nn.Module, rows: SeriesRows, *, batch_size: int = 64) -> np.ndarray:
    """`(N, D)` float64: what enters the head of a model of series in evaluation."""
    tap = HeadTap(model, anatomy(model).head)
    device = next(model.parameters()).device
    takes_mask = "past_observed_mask" in accepted_inputs(model)
    was_training, tap.open = model.training, True
    features = []
    try:
        model.eval()
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            inputs = {"past_values": rows.values[part].to(device)}
            if takes_mask:
                inputs["past_observed_mask"] = rows.observed[part].to(device)
            model(**inputs)
            features.append(tap.take_input().double().cpu().numpy())
    finally:
        tap.remove()
        model.train(was_training)
    return np.concatenate(features)


def fit_classifier_head(
    model: nn.Module, train: SeriesRows, eval_rows: SeriesRows | None, *, batch_size: int = 64
) -> None:
    r"""
    Give a classifier of series the head of a logistic regression on its features: a linear probe, folded into it.

    With scikit-learn's weights $W$ and $b$ on features standardised by $\mu$ and $\sigma$ the head has the weights
    $W / \sigma$ and the bias $b - W \mu / \sigma$. Of two classes, the first has the logit 0. A class without a
    training row has the logit of the least of the others, less 30.

    Args:
        model (`nn.Module`): of [`new_classifier`] or [`load_classifier`]; its head is changed.
        train, eval_rows ([`SeriesRows`]): what it learns from, and what the penalty is chosen on.
        batch_size (`int`, *optional*, defaults to 64): rows of a forward.
    """
    x, y = head_features(model, train, batch_size=batch_size), np.asarray(train.labels)
    held_out = None
    if eval_rows is not None:
        held_out = head_features(model, eval_rows, batch_size=batch_size), np.asarray(eval_rows.labels)
    scaler, regression = (step for _, step in logistic_regression(x, y, held_out).steps)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn keeps the difference only
        weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.array([0.0, bias[0]])
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    head: Any = model.get_submodule(anatomy(model).head)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(float(bias.min()) - 30.0)
        seen: Sequence[int] = regression.classes_.tolist()
        head.weight[seen] = torch.as_tensor(weight).to(head.weight)
        head.bias[seen] = torch.as_tensor(bias).to(head.bias)


def flat(rows: SeriesRows) -> np.ndarray:
    """`(N, T * C)`: the scaled series, with holes filled."""
    return rows.values.flatten(1).numpy()
