"""The column `sample_weight` put beside a data set, whatever its indices and its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.functional.task_loss import SAMPLE_WEIGHT


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["with_weights"]


@dataclass(frozen=True)
class _Keeping:
    """A transform that hands the weights on, which it does not know of."""

    function: Callable[[dict[str, Any]], dict[str, Any]]
    columns: tuple[str, ...]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if set(batch) == {SAMPLE_WEIGHT}:
            return batch  # `dataset["sample_weight"]`: only this column was read
        given = {name: values for name, values in batch.items() if name in self.columns}
        return {**self.function(given), SAMPLE_WEIGHT: batch[SAMPLE_WEIGHT]}


def with_weights(dataset: Dataset, weights: np.ndarray) -> Dataset:
    """
    The data set with a float64 column `sample_weight`; inputs are not copied, its format or transform goes on working.

    Example:
        >>> from datasets import Dataset
        >>> with_weights(Dataset.from_dict({"text": ["a", "b"]}).select([1]), np.array([0.5])).to_dict()
        {'text': ['b'], 'sample_weight': [0.5]}
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features, Value
    from datasets.fingerprint import Hasher
    from datasets.table import InMemoryTable, concat_tables

    stored, indices = np.full(len(dataset.data), np.nan), dataset._indices  # no public reader of it in datasets 5.2
    # behind the indices: `add_column` would first rewrite every input through them
    stored[slice(None) if indices is None else indices.column(0).to_numpy()] = weights
    weighted = Dataset(
        concat_tables([dataset.data, InMemoryTable(pa.table({SAMPLE_WEIGHT: stored}))], axis=1),
        info=DatasetInfo(features=Features({**dataset.features, SAMPLE_WEIGHT: Value("float64")})),
        split=dataset.split,
        indices_table=indices,
        fingerprint=Hasher.hash([dataset._fingerprint, SAMPLE_WEIGHT, weights.tobytes()]),
    )
    kind, columns, options = (dataset.format[key] for key in ("type", "columns", "format_kwargs"))
    everything = dataset.format["output_all_columns"]
    if kind == "custom":
        keeping = _Keeping(options["transform"], tuple(columns))
        chosen = [*columns, SAMPLE_WEIGHT]
        return weighted.with_transform(keeping, columns=chosen, output_all_columns=everything)
    if kind is None and set(columns) == set(dataset.column_names):
        return weighted
    return weighted.with_format(kind, columns=[*columns, SAMPLE_WEIGHT], output_all_columns=everything, **options)
