"""What a comparison refuses before anything runs: data that cannot tell strategies apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_transfer.compare.execution.quiet import quietly
from hf_transfer.compare.problem.pretrained import Pretrained
from hf_transfer.data.columns import listed
from hf_transfer.data.loading import TransferData
from hf_transfer.data.preparation import prepare


__all__ = ["check_folds", "check_labels", "check_models", "check_validation", "labels_of", "strata_of"]


def labels_of(split: Dataset) -> np.ndarray:
    """The column `label` of raw rows: `(N,)`, or the labels of all tokens one after the other."""
    column: Any = split.select_columns(["label"]).with_format("arrow")[:]["label"]
    return column.combine_chunks().flatten().to_numpy() if hasattr(column.type, "value_type") else column.to_numpy()


def strata_of(data: TransferData, split: Dataset) -> np.ndarray:
    """One class number per row; all zero where rows have no single class."""
    single = bool(data.label_names) and data.task != "token-classification"
    return labels_of(split).astype(np.int64) if single else np.zeros(len(split), dtype=np.int64)


def check_models(models: Sequence[Pretrained], data: TransferData) -> None:
    """
    Refuse labels that name two models, and models that cannot read the data.

    Raises:
        ValueError: if there is no model, two have one label, or a processor does not take the inputs.
    """
    labels = [model.label for model in models]
    double = sorted({label for label in labels if labels.count(label) > 1})
    if not labels or double:
        what = f"`{double[0]}` names {labels.count(double[0])} models" if double else "No model is given"
        raise ValueError(
            f"{what}: rows of the table could not be told apart, or there would be none. Give each base model once, "
            "by a name of its own."
        )
    for model in models:
        with quietly():
            rows: Any = prepare(data.train.select([0]), model.processor)
        rows[0]  # decodes the image


def check_labels(data: TransferData) -> None:
    """
    Refuse training rows with one class or one value only.

    Raises:
        ValueError: if there are fewer than two.
    """
    found = labels_of(data.train)
    found = np.unique(found if not data.label_names else found[found >= 0])
    if len(found) < 2:
        what = "value" if not data.label_names else "class"
        name = listed([data.label_names[int(number)] for number in found] if data.label_names else found.tolist())
        raise ValueError(
            f"All training rows have one {what} only ({name or 'none'}): whoever always answers it is always right, "
            "and no strategy is better than another. Give rows of at least two."
        )


def check_folds(data: TransferData, folds: int) -> None:
    """
    Refuse classes that cannot be in every fold.

    Raises:
        ValueError: if there are fewer than two folds, or a class has fewer rows than there are folds.
    """
    if folds < 2:
        raise ValueError(
            f"`folds={folds}` leaves no row to validate on, or none to train on. Give 2 or more, or a split."
        )
    numbers, counts = np.unique(strata_of(data, data.train), return_counts=True)
    few = {_name(data, number): int(count) for number, count in zip(numbers, counts, strict=True) if count < folds}
    if few:
        shown = ", ".join(f"{name} {count}" for name, count in list(few.items())[:5])
        least = min(few.values())
        fewer = f"`--folds {least}`, " if least > 1 else ""
        raise ValueError(
            f"There is no validation split, and {len(few)} of {len(numbers)} classes have fewer rows than the {folds} "
            f"folds that take its place ({shown}): some folds would say nothing of them. Pass {fewer}add rows, or "
            "name a validation split with `--eval_split`."
        )


def check_validation(data: TransferData, where: str) -> None:
    """
    Refuse a validation split in which a class of the training rows is missing.

    Args:
        data (`TransferData`): with a validation split.
        where (`str`): how errors call that.

    Raises:
        ValueError: if so.
    """
    assert data.eval is not None  # the caller saw to it
    wanted, found = (np.unique(strata_of(data, split)) for split in (data.train, data.eval))
    missing = [_name(data, number) for number in np.setdiff1d(wanted, found)]
    if missing:
        raise ValueError(
            f"The {where} has no row of {len(missing)} of {len(wanted)} classes ({listed(missing[:5])}): a strategy "
            "that never answers them would look as good as any. Raise `--max_eval_samples`, name another split with "
            "`--eval_split`, or leave it out for folds of the training rows."
        )


def _name(data: TransferData, number: Any) -> str:
    return data.label_names[int(number)] if data.label_names else "all rows"
