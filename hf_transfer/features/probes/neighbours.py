"""The nearest neighbours among the rows a probe has seen, by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hf_transfer.features.probes.training import Candidate, Fitted, Training, choose, held_out_score


METRICS = ("cosine", "euclidean")
NEIGHBOURS = (1, 3, 5, 10, 20, 50)
"""Numbers of neighbours that are tried."""

__all__ = ["METRICS", "NEIGHBOURS", "fit_neighbours", "neighbour_logits"]


def fit_neighbours(training: Training, neighbours: Sequence[int], metrics: Sequence[str]) -> Fitted:
    r"""
    Keep the rows, and choose how many neighbours vote and by which distance.

    With $v_c$ of $k$ neighbours in class $c$ of $C$ the logit is $\log((v_c + 1/C) / (k + 1))$; for several labels it
    is $\log((v_c + 1/2) / (k - v_c + 1/2))$ for each; for values the mean of the neighbours. Without rows for
    validation each row is left out in turn.

    Degenerate batches:
        With fewer rows than neighbours all of them vote.
    """
    neighbours = sorted(set(neighbours))
    candidates: list[Candidate] = [f"{metric}, {count}" for metric in metrics for count in neighbours]
    judged = _judged(training, neighbours, metrics) if len(candidates) > 1 else ()
    chosen, scores = choose(judged, candidates)
    metric, count = str(chosen).split(", ")
    arrays = {"inputs": training.inputs[training.own], "targets": training.targets[training.own]}
    settings = {"metric": metric, "neighbours": int(count), "classes": training.classes, "labels": training.labels}
    return Fitted(arrays, chosen, scores, settings)


def neighbour_logits(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], inputs: np.ndarray) -> np.ndarray:
    """Logits `(N, C)` of standardised rows."""
    found = _neighbours(arrays["inputs"], inputs, settings["metric"], settings["neighbours"])
    votes = _votes(arrays["targets"], settings["labels"], settings["classes"])
    counted = np.zeros((len(inputs), votes.shape[1]))
    for place in range(found.shape[1]):
        counted += votes[found[:, place]]
    return _logits(counted, found.shape[1], settings["labels"])


def _judged(
    training: Training, neighbours: Sequence[int], metrics: Sequence[str]
) -> Iterator[tuple[Candidate, tuple[float, float]]]:
    votes = _votes(training.targets, training.labels, training.classes)
    own = np.arange(training.rows)
    for train, held in [(own, own)] if training.leaves_one_out else training.splits():
        given = None if training.leaves_one_out else training.inputs[held]
        for metric in metrics:
            found = _neighbours(training.inputs[train], given, metric, neighbours[-1])
            counted, before = np.zeros((len(held), votes.shape[1])), 0
            for count in neighbours:
                reach = min(count, found.shape[1])
                for place in range(before, reach):
                    counted += votes[train[found[:, place]]]
                before = reach
                logits = _logits(counted, reach, training.labels)
                yield f"{metric}, {count}", held_out_score(logits, training.targets[held], training.labels)


def _neighbours(rows: np.ndarray, inputs: np.ndarray | None, metric: str, count: int) -> np.ndarray:
    """Numbers `(N, count)` of the nearest rows, the nearest first; of the rows' own neighbours without `inputs`."""
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(rows) - (inputs is None))
    search = NearestNeighbors(n_neighbors=count, metric=metric, algorithm="brute").fit(rows)
    return search.kneighbors(inputs, return_distance=False)


def _votes(targets: np.ndarray, labels: str, classes: int) -> np.ndarray:
    return np.eye(classes)[targets] if labels == "classes" else targets.astype(np.float64)


def _logits(counted: np.ndarray, count: int, labels: str) -> np.ndarray:
    if labels == "values":
        return counted / count
    if labels == "several":
        return np.log((counted + 0.5) / (count - counted + 0.5))
    return np.log((counted + 1 / counted.shape[1]) / (count + 1))
