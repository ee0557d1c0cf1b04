"""Labels and other columns of the data set beside its features: joined when read, so that they are not in the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hf_transfer.data.columns import listed
from hf_transfer.features.extraction.inputs import Source, label_column
from hf_transfer.features.extraction.text_rows import LABELS


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_transfer.features.cache.entry import Entry

__all__ = ["check_columns", "joined"]


def check_columns(dataset: Dataset, columns: Sequence[str], made: Sequence[str]) -> None:
    """
    Check the further columns that are asked for.

    Args:
        dataset (`datasets.Dataset`):
            The data.
        columns (`Sequence[str]`):
            Those to hand on.
        made (`Sequence[str]`):
            Names that the result has anyway.

    Raises:
        ValueError: if one does not exist, or has the name of a column of the result.
    """
    for name in columns:
        if name not in dataset.column_names:
            raise ValueError(
                f'columns names "{name}", but the data set has {listed(dataset.column_names)}: there is nothing to '
                "hand on. Name columns out of these."
            )
        if name in made:
            raise ValueError(
                f'columns names "{name}", which is a column of the result already: one would hide the other. Rename '
                f'it first, `dataset.rename_column("{name}", "given_{name}")`.'
            )


def joined(entry: Entry, dataset: Dataset, source: Source, columns: Sequence[str]) -> Dataset:
    """The features of an entry with the labels and further columns of the data set they were computed of."""
    from datasets import Dataset, DatasetInfo, Features, concatenate_datasets
    from datasets.table import InMemoryTable

    features = entry.dataset()
    label = None if source.token_labels else label_column(dataset)
    names = {**({label: LABELS} if label is not None else {}), **{name: name for name in columns if name != label}}
    if not names:
        return features
    # mapped from disk where the data set is and was not selected from
    table: Any = dataset.select_columns(list(names)).with_format("arrow")[:]
    if source.views is not None and source.views.count > 1:
        table = table.take(np.repeat(np.arange(len(dataset)), source.views.count))
    types = Features({new: dataset.features[old] for old, new in names.items()})
    table = table.rename_columns(list(names.values())).replace_schema_metadata(types.arrow_schema.metadata)
    beside = Dataset(
        cast(Any, InMemoryTable(table)),
        info=DatasetInfo(features=types),
        fingerprint=f"{dataset._fingerprint}-{'-'.join(names)}",
    )
    return concatenate_datasets([features, beside], axis=1)
