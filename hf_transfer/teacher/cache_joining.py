"""A data set with the columns of its teacher beside its own, neither of them copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hf_transfer.data.columns import listed
from hf_transfer.features.cache.checksums import text_digest
from hf_transfer.teacher.cached_columns import is_cached


if TYPE_CHECKING:
    from datasets import Dataset

_SPARSE = 4
"""Rows on disk to one selected row from which on the selection is copied: columns for all of them would be larger."""

__all__ = ["WithTeacherColumns", "beside", "check_free"]


@dataclass(frozen=True)
class WithTeacherColumns:
    """
    A transform of a data set that hands on the columns of the teacher, which the user's own may drop.

    Args:
        transform (`Callable`): the user's; it does not see them.
    """

    transform: Any

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the user's transform makes of the rows, and the teacher's columns as they are."""
        said = {name: values for name, values in batch.items() if is_cached(name)}
        return {**self.transform({name: values for name, values in batch.items() if name not in said}), **said}


def check_free(dataset: Dataset) -> None:
    """
    Check that the data set holds nothing of a teacher yet.

    Raises:
        ValueError: if it does.
    """
    taken = [name for name in dataset.column_names if is_cached(name)]
    if taken:
        raise ValueError(
            f"The data set has {listed(taken)} already: two teachers would stand under one name. Take what is there "
            "out first, `dataset.remove_columns([...])`; what several teachers say together is cached in one call, "
            "with a `Teacher` of all of them."
        )


def beside(dataset: Dataset, cached: Dataset) -> Dataset:
    """
    The data set with the columns of `cached`, row by row; its format, transform and selection of rows stay.

    Args:
        dataset (`datasets.Dataset`): as the user gave it, also after `select` and `shuffle`.
        cached (`datasets.Dataset`): as many rows, in its order.
    """
    from datasets import Dataset, DatasetInfo, Features
    from datasets.table import InMemoryTable, concat_tables

    from hf_transfer.data.preparation import _ImageTransform

    table: Any = cached.data
    shown, limited = dataset.format, dataset._format_columns is not None
    if len(dataset.data) > _SPARSE * len(dataset):
        dataset = dataset.flatten_indices()
    # What `select` and `shuffle` leave; no public name in datasets 5.2. The images or texts stay where they are: it is
    # the teacher's columns that are laid out as the table below the selection, of which no other row is ever read.
    selection = dataset._indices
    if selection is not None:
        places = np.zeros(len(dataset.data), np.int64)
        chosen = selection.column(0).to_numpy().astype(np.int64)
        places[chosen] = np.arange(len(chosen))
        stored: Any = cached.with_format("arrow")[:]
        table = InMemoryTable(stored.take(places))
    features = Features({**dataset.features, **cached.features})
    whole = concat_tables([dataset.data, table], axis=1)
    info = dataset.info.copy()
    joined = Dataset(
        cast(Any, whole.replace_schema_metadata(features.arrow_schema.metadata)),
        info=DatasetInfo(**{**info.__dict__, "features": features}),
        split=dataset.split,
        indices_table=selection,
        fingerprint=text_digest(f"{dataset._fingerprint} {cached._fingerprint}"),
    )
    options = dict(shown["format_kwargs"])
    transform = options.get("transform")
    # the package's own hands on what it does not know, and is told by its type
    if transform is not None and not isinstance(transform, _ImageTransform):
        options["transform"] = WithTeacherColumns(transform)
    columns = [*shown["columns"], *cached.column_names] if limited else None
    joined.set_format(shown["type"], columns, shown["output_all_columns"], **options)
    return joined
