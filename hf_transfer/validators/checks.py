"""What validation refuses before any forward, and how labels of the target are kept out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_transfer.data.columns import listed
from hf_transfer.features.extraction.inputs import label_column
from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.validators.scores import NAMES, NEEDS_SOURCE, NEEDS_TRAIN_SOURCE, ORACLE_NAMES


if TYPE_CHECKING:
    from datasets import Dataset

_LABELS = ("label", "labels", "label_ids")

__all__ = [
    "NAMES",
    "ORACLE_NAMES",
    "check_dataset",
    "check_labels",
    "check_model",
    "check_numbers",
    "check_validators",
    "inputs_only",
]


def check_validators(names: Sequence[str] | None, *, source: bool, train_source: bool) -> tuple[str, ...]:
    """
    The validators that are asked for, in the order of [`NAMES`]; all for which there is data where none is named.

    Args:
        names (`Sequence[str]`, *optional*): those asked for.
        source (`bool`): whether there are labelled source rows.
        train_source (`bool`): whether there are source rows of the training.

    Raises:
        ValueError: if one is unknown or lacks its data; if none is named.
    """
    missing = {
        name
        for name in NAMES
        if (name in NEEDS_SOURCE and not source) or (name in NEEDS_TRAIN_SOURCE and not train_source)
    }
    if names is None:
        return tuple(name for name in NAMES if name not in missing)
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError(
            f"validators=[] names none: there would be no score. Name some of {listed(NAMES)}, or leave it out to "
            "have all."
        )
    for name in names:
        if name in ORACLE_NAMES or str(name).startswith("oracle"):
            raise ValueError(
                f'"{name}" is no validator: it looks at labels of the target. Pass the labelled rows as '
                "`oracle=...`, and leave the name out of `validators`."
            )
        if name not in NAMES:
            near = get_close_matches(str(name), NAMES, n=1, cutoff=0.0)[0]
            raise ValueError(
                f'There is no validator "{name}": nothing would be computed under that name. Did you mean "{near}"? '
                f"There are {listed(NAMES)}."
            )
        if name in missing:
            lacking = "source" if not source else "train_source"
            what = {
                "source": "labelled source rows that were not trained on",
                "train_source": "the source rows of the training, to compare their features with the target's",
            }[lacking]
            raise ValueError(
                f"`{name}` was asked for without `{lacking}`: it needs {what}. Pass them, or leave `{name}` out of "
                "`validators`."
            )
    return tuple(name for name in NAMES if name in names)


def check_dataset(dataset: Any, name: str) -> None:
    """
    Check that rows can be drawn from a data set.

    Raises:
        TypeError: if it is no `datasets.Dataset`.
        ValueError: if it is empty.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"`{name}` is a {type(dataset).__name__}: rows are drawn from it by number and its label columns taken "
            "off, which only a `datasets.Dataset` allows. Write it into one with `Dataset.from_generator(...)`; one "
            "split of a `DatasetDict` is one."
        )
    if not len(dataset):
        raise ValueError(f"`{name}` has no rows: there is nothing to validate on. Check its split and its filters.")


def check_labels(dataset: Dataset, name: str) -> None:
    """
    Check that there are labels that can be compared with predictions.

    Raises:
        ValueError: if there is no column of labels; if they are no numbers of classes.
    """
    column = label_column(dataset)
    if column is None:
        raise ValueError(
            f"`{name}` has the columns {listed(dataset.column_names)} and no `labels`: errors on it cannot be "
            "counted. Pass labelled rows"
            + ("." if name == "oracle" else ", or validators that need none: entropy, information_maximization, snd.")
        )
    kind: Any = dataset.features[column]
    while hasattr(kind, "feature"):
        kind = kind.feature
    if not str(getattr(kind, "dtype", "")).startswith(("int", "uint", "bool")):
        raise ValueError(
            f"`{column}` of `{name}` holds {getattr(kind, 'dtype', kind)}: predictions are numbers of classes and "
            f'cannot be compared with it. Give numbers, such as by `dataset.class_encode_column("{column}")`.'
        )


def inputs_only(dataset: Dataset, name: str) -> Dataset:
    """
    A data set without its labels and without augmentation: what a model may see of an unlabelled target.

    Raises:
        ValueError: if a transform of the data set does not work without labels.
    """
    from hf_transfer.data.preparation import _ImageTransform

    transform = (dataset.format.get("format_kwargs") or {}).get("transform")
    if type(transform) is _ImageTransform and transform.augment is not None:
        dataset = dataset.with_transform(replace(transform, augment=None))
    labels = [column for column in dataset.column_names if column in _LABELS]
    if not labels:
        return dataset
    stripped = dataset.remove_columns(labels)
    if transform is not None:
        try:
            stripped[:1]
        except KeyError as error:
            raise ValueError(
                f"The transform of `{name}` reads {error}, which was taken off: labels of the target must not reach a "
                "validator. Let the transform do without labels."
            ) from error
    return stripped


def check_model(model: nn.Module) -> None:
    """
    Refuse a model whose outputs are not one distribution over classes per row.

    Raises:
        ValueError: if the model is a regression or has several labels a row.
    """
    config = getattr(pretrained(model), "config", None)
    problem = getattr(config, "problem_type", None)
    if problem == "regression" or getattr(config, "num_labels", 2) < 2:
        raise ValueError(
            "The model is a regression: every validator looks at probabilities of classes or counts wrong classes, "
            'and one number has neither. Choose it by its loss on the source, `metric_for_best_model="loss"`.'
        )
    if problem == "multi_label_classification":
        raise ValueError(
            "The model has several labels a row: their probabilities do not add up to one, as every validator takes "
            'for granted. Choose it by its loss on the source, `metric_for_best_model="loss"`.'
        )


def check_numbers(*, batch_size: int, max_rows: int) -> None:
    """
    Check the limits.

    Raises:
        ValueError: if one is too small.
    """
    if batch_size < 1 or max_rows < 2:
        raise ValueError(
            f"batch_size={batch_size} and max_rows={max_rows} were given: too few rows would be read to compare any. "
            "Give at least 1 row a batch and 2 in all."
        )
