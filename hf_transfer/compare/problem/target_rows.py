"""The target of a comparison: rows without labels to train on, and labelled ones that validate and test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from datasets import Dataset

from hf_transfer.data.columns import listed
from hf_transfer.data.loading import TransferData
from hf_transfer.fine_tuning import HELD_OUT


__all__ = ["judged_on_target"]


def judged_on_target(data: TransferData, target: TransferData, *, seed: int) -> tuple[TransferData, Dataset, str]:
    """
    The source's training rows with the target's validation and test rows, and the unlabelled rows of the target.

    A target without a validation split gives 20% of its training rows, by class, which are then not among those that
    are trained on without labels.

    Args:
        data (`TransferData`): the source.
        target (`TransferData`): the target, with labels.
        seed (`int`): draws the rows held out.

    Returns:
        The data, the unlabelled rows, and words on where the validation rows come from.

    Raises:
        ValueError: if the target has no labels, other inputs, or a class that the source does not know.
    """
    if "label" not in target.train.column_names:
        raise ValueError(
            "The target has no labels: which strategy does best on it could not be told. Give one with labels, or run "
            "recipes/domain_adaptation.py, which chooses without them."
        )
    if target.input_columns != data.input_columns or target.task != data.task:
        raise ValueError(
            f"The target is for {target.task} of {listed(target.input_columns)}, the data for {data.task} of "
            f"{listed(data.input_columns)}: one model cannot do both. Name a target of the same kind."
        )
    target = _renumbered(data, target)
    where = "validation split of the target"
    if target.eval is None:
        where = f"{HELD_OUT:.0%} of the target's training rows, held out"
        target = target.with_validation(HELD_OUT, seed=seed)
    judged = replace(data, eval=target.eval, test=target.test)
    return judged, target.train.remove_columns("label"), where


def _renumbered(data: TransferData, target: TransferData) -> TransferData:
    """The target with the source's numbers for its classes."""
    if target.label_names == data.label_names:
        return target
    unknown = [name for name in target.label_names if name not in data.label_names]
    if unknown:
        raise ValueError(
            f"The target has the classes {listed(unknown[:8])}, which the source does not know: no model could answer "
            "them. Name a target with the classes of the source, or drop these rows."
        )
    numbers = np.array([data.label2id[name] for name in target.label_names])

    def renumbered(split: Dataset | None) -> Dataset | None:
        if split is None or "label" not in split.column_names:
            return split
        feature = data.train.features["label"]
        old = split.select_columns(["label"]).with_format(None)[:]["label"]
        new = [_lookup(numbers, labels) for labels in old]
        return split.remove_columns("label").add_column("label", new, feature=feature)  # pyright: ignore

    parts = {name: renumbered(getattr(target, name)) for name in ("train", "eval", "test")}
    return replace(target, label_names=data.label_names, **parts)  # pyright: ignore


def _lookup(numbers: np.ndarray, labels: int | list[int]) -> int | list[int]:
    if isinstance(labels, list):
        return [_lookup(numbers, label) for label in labels]  # pyright: ignore
    return int(numbers[labels]) if labels >= 0 else labels
