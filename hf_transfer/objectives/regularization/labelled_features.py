"""Features beside their labels, for objectives that compare rows by class."""

from __future__ import annotations

from torch import Tensor

from hf_transfer.batch import ModelSpec, TransferBatch


__all__ = ["check_one_label_a_row", "labelled_features"]


def check_one_label_a_row(name: str, spec: ModelSpec) -> None:
    """
    Refuse a model that is known not to put each row into one class.

    Raises:
        ValueError: for regression and several labels a row.
    """
    problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
    if problem == "multi_label_classification":
        _refuse(name, "several labels a row")
    if problem == "regression" or spec.num_labels < 2:
        _refuse(name, "a regression")


def labelled_features(name: str, batch: TransferBatch) -> tuple[Tensor, Tensor]:
    """
    `(N, D)` features and `(N,)` labels: the rows of the batch, or for token classification its tokens.

    Raises:
        ValueError: if a row has several labels.
    """
    features, labels = batch.features, batch.labels
    assert labels is not None  # `attach` gives it
    if labels.is_floating_point() or labels.shape != features.shape[:-1]:
        _refuse(name, f"labels of shape {tuple(labels.shape)} and type {labels.dtype}")
    return features.flatten(0, -2), labels.flatten()


def _refuse(name: str, seen: str) -> None:
    raise ValueError(
        f"{name} on {seen}: it pulls rows of the same class together, and rows that share some of their labels, or "
        f"have numbers for labels, are neither the same nor different. Leave {name} out, or train a classifier with "
        "one class a row."
    )
