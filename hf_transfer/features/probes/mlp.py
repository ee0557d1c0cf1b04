"""A network with one hidden layer on the features, by scikit-learn, stopped early."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_transfer.features.probes.training import Candidate, Fitted, Training, choose, held_out_score


MLP_STRENGTHS = (1e4,)
"""Inverse weight decay of the network, the default of scikit-learn."""

__all__ = ["MLP_STRENGTHS", "fit_mlp", "mlp_logits"]


def fit_mlp(training: Training, strengths: Sequence[float], *, hidden_size: int, epochs: int, patience: int) -> Fitted:
    r"""
    Logits $V \max(0, W x + a) + b$, trained by Adam in batches of 200 rows.

    After each pass over the rows it is judged on those for validation, or on a tenth that is held out; the weights of
    the best pass are kept, and training ends `patience` passes later. The weights that are kept are those that were
    judged: they are not fitted again to all rows.

    Degenerate batches:
        Where nothing can be held out, all `epochs` passes are made. A class without rows is an output that is trained
        to be low.
    """
    strengths = sorted(strengths)
    best: dict[Candidate, Any] = {}
    judged: list[tuple[Candidate, tuple[float, float]]] = []
    train, held = _split(training)
    for strength in strengths:
        best[strength], judgement = _trained(training, train, held, strength, hidden_size, epochs, patience)
        judged += [(strength, judgement)] if judgement is not None else []
    chosen, scores = choose(judged, strengths)
    network, scale, shift = best[chosen], *_value_scale(training, train)
    (first, second), (first_bias, second_bias) = network.coefs_, network.intercepts_
    weight, bias = second.T.astype(np.float64), second_bias.astype(np.float64)
    if len(weight) < training.classes:  # one output of differences: half of it for each class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    arrays = {
        "hidden_weight": first.T.astype(np.float64),
        "hidden_bias": first_bias.astype(np.float64),
        "weight": weight * scale[:, None],
        "bias": bias * scale + shift,
    }
    return Fitted(arrays, chosen, scores)


def mlp_logits(arrays: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Logits `(N, C)` of standardised rows."""
    hidden = np.maximum(inputs @ arrays["hidden_weight"].T + arrays["hidden_bias"], 0)
    return hidden @ arrays["weight"].T + arrays["bias"]


def _split(training: Training) -> tuple[np.ndarray, np.ndarray]:
    """The rows for validation, or one of ten folds."""
    found = replace(training, folds=10).splits()
    return found[0] if found else (np.arange(training.rows), np.arange(0))


def _value_scale(training: Training, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deviation and mean of real-valued targets, with which the network learns them; 1 and 0 otherwise."""
    if training.labels != "values":
        return np.ones(training.classes), np.zeros(training.classes)
    values = training.targets[train]
    deviation = values.std(0)
    return np.where(deviation > 0, deviation, 1.0), values.mean(0)


def _trained(
    training: Training,
    train: np.ndarray,
    held: np.ndarray,
    strength: float,
    hidden_size: int,
    epochs: int,
    patience: int,
) -> tuple[Any, tuple[float, float] | None]:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    scale, shift = _value_scale(training, train)
    maker: Any = MLPRegressor if training.labels == "values" else MLPClassifier
    network = maker(hidden_layer_sizes=(hidden_size,), alpha=1 / strength, random_state=training.seed)
    inputs, targets = training.inputs[train], training.targets[train]
    options: dict[str, Any] = {}
    if training.labels == "classes":
        options["classes"] = np.arange(training.classes)
    elif training.labels == "several":
        options["classes"] = np.arange(max(training.classes, 2))  # a single label is the classes no and yes
        targets = targets.astype(np.int64)
        targets = targets[:, 0] if training.classes == 1 else targets
    else:
        targets = ((targets - shift) / scale).astype(np.float32)
        targets = targets[:, 0] if targets.shape[1] == 1 else targets
    kept, judgement, since = network, None, 0
    for _ in range(epochs):
        network.partial_fit(inputs, targets, **options)
        if not len(held):
            continue
        logits = _output(network, training.inputs[held], training.classes) * scale + shift
        now = held_out_score(logits, training.targets[held], training.labels)
        since += 1
        if judgement is None or (now[0], -now[1]) > (judgement[0], -judgement[1]):
            kept, judgement, since = copy.deepcopy(network), now, 0
        if since >= patience:
            break
    return kept, judgement


def _output(network: Any, inputs: np.ndarray, classes: int) -> np.ndarray:
    (first, second), (first_bias, second_bias) = network.coefs_, network.intercepts_
    logits = (np.maximum(inputs @ first + first_bias, 0) @ second + second_bias).astype(np.float64)
    # scikit-learn has one output of differences for two classes
    return logits if logits.shape[1] == classes else np.concatenate([-logits, logits], 1) / 2
