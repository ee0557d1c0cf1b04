"""Checks of the labels and columns of datasets that are to be mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Features, LargeList, List, Value

from hf_transfer.data.columns import IGNORE_INDEX, LABEL_COLUMNS, listed
from hf_transfer.data.labels import LabelKind, flat_labels


def check_kept_labels(kind: LabelKind, column: pa.ChunkedArray, *, where: str) -> None:
    """
    Check labels that a mixed dataset keeps.

    Raises:
        ValueError: if a label is null, negative without being -100, or a float of exactly -100.
    """
    if column.null_count:
        raise ValueError(
            f"{where} has {column.null_count} rows whose label is null; every row of a labelled domain needs one. "
            "Filter these rows out, or mask them with -100."
        )
    values = flat_labels(column)
    if kind.is_float:
        if np.any(values == IGNORE_INDEX):
            raise ValueError(
                f"{where} holds the real label {float(IGNORE_INDEX)}, which marks unlabelled rows and would be "
                "skipped by the loss. Shift or scale the labels of every domain."
            )
        return
    values = values.astype(np.int64)
    wrong = np.unique(values[(values < 0) & (values != IGNORE_INDEX)])
    if wrong.size:
        raise ValueError(
            f"{where} holds the class number {wrong[0]}; class numbers start at 0 and unlabelled rows are "
            f"{IGNORE_INDEX}. Replace it by {IGNORE_INDEX} or filter these rows out."
        )


def check_some_label(kind: LabelKind, values: np.ndarray, *, where: str) -> None:
    """
    Check that a labelled domain has a label at all.

    Raises:
        ValueError: if every one of `values` is -100.
    """
    if not kind.is_float and not np.any(values >= 0):
        raise ValueError(
            f"{where} is a labelled domain without a single label (all are {IGNORE_INDEX}); there would be nothing to "
            "learn from. Pass a dataset with labels first, or choose others with `labelled=`."
        )


def check_same_kind(source: LabelKind, other: LabelKind, *, where: str) -> None:
    """
    Check that two domains speak of the same classes, as far as their features tell.

    Raises:
        ValueError: if one has class numbers and the other real values, one lists and the other not, or other names.
    """
    if source.nested != other.nested or source.is_float != other.is_float:
        raise ValueError(
            f"The source's labels are {source.feature} and those of {where} are {other.feature}; one model cannot "
            "learn both. Pass datasets of the same task, or remove the label column of the target."
        )
    if source.names is None or other.names is None or source.names == other.names:
        return
    only_source = [name for name in source.names if name not in other.names]
    only_other = [name for name in other.names if name not in source.names]
    if only_source or only_other:
        detail = f"only the source has {listed(only_source)}, only {where} has {listed(only_other)}"
    else:
        detail = f"the names are the same in another order: {listed(source.names)} against {listed(other.names)}"
    raise ValueError(
        f"Source and {where} have different label sets: {detail}. One head cannot serve both, and equal numbers would "
        "mean different classes. Cast both to the same `ClassLabel`, or drop the rows of the other classes."
    )


def check_same_values(source: np.ndarray, other: np.ndarray, kind: LabelKind, *, where: str) -> None:
    """
    Check that the class numbers of another domain are among those of the source. Negative numbers mean unlabelled.

    Raises:
        ValueError: if a class number is unknown to the source.
    """
    if kind.is_float:
        return
    known = np.arange(len(kind.names)) if kind.names is not None else np.unique(source[source >= 0])
    unknown = np.setdiff1d(other[other >= 0], known)
    if unknown.size:
        raise ValueError(
            f"Source and {where} have different label sets: {where} holds {listed(unknown.tolist()[:10])}, the source "
            f"only {listed(known.tolist()[:10])}{' ...' if known.size > 10 else ''}. The head has no output for a "
            "class the source does not know. Drop the rows of the other classes, or renumber them."
        )


def check_same_features(features: Features, source: Features, *, where: str) -> bool:
    """
    Check the types of a domain's inputs against the source's: `True` if equal, `False` if a cast makes them so.

    Raises:
        ValueError: if a column is of another type. Widths of numbers and strings do not count: they depend on the
            reader that made the table (CSV or Parquet, pandas or Arrow).
    """
    different = [name for name in source if features[name] != source[name]]
    if any(_family(features[name]) != _family(source[name]) for name in different):
        detail = "; ".join(f"`{name}` is {features[name]}, in the source {source[name]}" for name in different)
        raise ValueError(
            f"{where} has columns of another type than the source: {detail}. Rows of one batch need the same types. "
            "Cast them with `dataset.cast_column`."
        )
    return not different


def _family(feature: Any) -> object:
    if isinstance(feature, (List, LargeList)):
        return "list", _family(feature.feature)
    if isinstance(feature, Value):
        return next((family for family in ("string", "int", "float") if family in feature.dtype), feature.dtype)
    return repr(feature)


def check_no_second_label(features: Features, numbers: pa.Table | None, label: str | None, *, where: str) -> None:
    """
    Refuse an unlabelled domain whose labels would survive in a second column.

    Columns named like labels, `ClassLabel` columns, and integer columns that renumber the labels are refused.

    Args:
        features (`datasets.Features`):
            Features of the domain without its label column.
        numbers (`pa.Table`, *optional*):
            Its integer columns, the label column included, to find renumberings in.
        label (`str`, *optional*):
            Name of its label column.
        where (`str`):
            How error messages call the domain.

    Raises:
        ValueError: if there is such a column.
    """
    suspects = []
    for name, feature in features.items():
        inner = feature.feature if isinstance(feature, (List, LargeList)) else feature
        if name in LABEL_COLUMNS or name.startswith("label") or isinstance(inner, ClassLabel):
            suspects.append(name)
        elif numbers is not None and label is not None and _is_renumbering(numbers, label, name):
            suspects.append(name)
    if suspects:
        raise ValueError(
            f"{where} is unlabelled, but its {'columns' if len(suspects) > 1 else 'column'} {listed(suspects)} would "
            f"still tell the labels after `{label or 'the label column'}` is masked. "
            f"Call `dataset.remove_columns({suspects})` on every domain first."
        )


def _is_renumbering(numbers: pa.Table, label: str, column: str) -> bool:
    if label not in numbers.column_names or column not in numbers.column_names:
        return False
    rows, classes = numbers.num_rows, len(numbers[label].unique())
    # in a small table a running number looks like a renumbering
    if classes < 2 or rows < 2 * classes or len(numbers[column].unique()) != classes:
        return False
    return numbers.select([label, column]).group_by([label, column]).aggregate([]).num_rows == classes
