"""What [`mix_tasks`] is given, in one form: parts with the label column of each of their tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_transfer.data.columns import find_label_column, listed
from hf_transfer.multitask.reading import read_column
from hf_transfer.multitask.task import TASK_COLUMN


LabelColumns = Mapping[str, str] | Sequence[str]

__all__ = ["LabelColumns", "Part", "parts_of", "task_numbers"]


@dataclass(frozen=True)
class Part:
    """
    A data set of one task or several.

    Args:
        dataset (`Dataset`): its rows.
        columns (`Mapping[str, str]`): label column of each task that has one, by the names of the tasks.
        task (`str`, *optional*): the task that all rows are of; none where rows are of several.
        named (`bool`, *optional*): whether a column `task` holds names, not numbers only.
        where (`str`, *optional*): how errors call it.
    """

    dataset: Dataset
    columns: Mapping[str, str]
    task: str = ""
    named: bool = False
    where: str = "the data set"

    @property
    def by_row(self) -> bool:
        """Whether a column says which task a row is of."""
        return not self.task and TASK_COLUMN in self.dataset.column_names

    @property
    def shares_column(self) -> bool:
        """Whether the labels of all tasks are in one column, those of a row being of its task."""
        return self.by_row and (len(self.columns) == 1 or len(set(self.columns.values())) < len(self.columns))

    @property
    def inputs(self) -> list[str]:
        """The columns that are neither labels nor the task."""
        dropped = {*self.columns.values(), TASK_COLUMN, "labels"}  # the model's own head is given -100 for `labels`
        return [name for name in self.dataset.column_names if name not in dropped]

    def with_dataset(self, dataset: Dataset) -> Part:
        """The same of other rows."""
        return replace(self, dataset=dataset)


def parts_of(
    datasets: Mapping[str, Dataset] | Dataset, names: Sequence[str] | None, label_columns: LabelColumns | None
) -> list[Part]:
    """
    The parts of what [`mix_tasks`] is given, whose docstring holds the arguments and errors.

    Args:
        names (`Sequence[str]`, *optional*): the tasks, in their order, if they are known.
    """
    chosen = _chosen(label_columns)
    if isinstance(datasets, DatasetDict):
        raise TypeError(
            f"mix_tasks got a dictionary of splits ({listed(datasets)}): each would become a task. Pass one split, "
            'e.g. `mix_tasks(data["train"])`, or a data set for each task, `mix_tasks({"topic": topics["train"]})`.'
        )
    if isinstance(datasets, Dataset):
        _refuse_empty(datasets, "the data set")
        return [_of_rows(datasets, names, chosen)]
    if not isinstance(datasets, Mapping):
        raise TypeError(
            f"mix_tasks got a {type(datasets).__name__}: there are no rows to draw by number, and no names of tasks. "
            'Pass a `datasets.Dataset`, or one for each task by its name, `mix_tasks({"topic": topics})`.'
        )
    if not datasets:
        raise ValueError(
            "mix_tasks got no data set: there is nothing to learn from. Pass one for each task by its name, "
            '`mix_tasks({"topic": topics})`.'
        )
    wrong = [name for name, dataset in datasets.items() if not isinstance(dataset, Dataset)]
    if wrong:
        raise TypeError(
            f"The data of task `{wrong[0]}` is a {type(datasets[wrong[0]]).__name__}: rows of tasks are drawn by "
            "number. Pass one split as a `datasets.Dataset`; `datasets.Dataset.from_list` makes one of a stream."
        )
    _check_names(list(datasets), names, "data set")
    _check_names(list(chosen), list(datasets), "label column", some=True)
    parts = []
    for name in names or list(datasets):
        where = f"the data set of task `{name}`"
        dataset = datasets[name]
        _refuse_empty(dataset, where)
        own = f"labels_{name}"
        column = chosen.get(name) or (own if own in dataset.column_names else None)
        column = find_label_column(dataset.column_names, column, where=where)
        parts.append(Part(dataset, {name: column}, task=name, where=where))
    return parts


def _of_rows(dataset: Dataset, names: Sequence[str] | None, chosen: Mapping[str, str]) -> Part:
    columns = dataset.column_names
    by_name = _task_names(dataset) if TASK_COLUMN in columns else ()
    own = {name.removeprefix("labels_"): name for name in columns if name.startswith("labels_")}
    if TASK_COLUMN in columns and not own and not chosen:
        if not by_name and names is None:
            raise ValueError(
                f"The column `{TASK_COLUMN}` holds numbers without names: heads and columns go by the names of the "
                'tasks. Pass `tasks=[Task("topic", num_labels=4), ...]` in the order of the numbers, or give names '
                "in the column."
            )
        return Part(dataset, dict.fromkeys(names or by_name, find_label_column(columns)), named=bool(by_name))
    if chosen:
        _check_names(list(chosen), names, "label column")
    elif names is not None:
        chosen = {name: own.get(name, name) for name in names}
    else:
        chosen = own
    if not chosen:
        raise ValueError(
            f"The data set has the columns {listed(columns)}: which of them are labels of which task is unknown. Pass "
            '`label_columns={"topic": "category", "stars": "rating"}`, the column of each task by its name.'
        )
    for name in chosen:
        find_label_column(columns, chosen[name], where=f"for task `{name}` the data set")
    twice = [name for name, column in chosen.items() if list(chosen.values()).count(column) > 1]
    if twice:
        raise ValueError(
            f"The tasks {listed(twice)} have the same label column, `{chosen[twice[0]]}`: two heads would learn one "
            "thing. Give each task a column of its own, or name one of them only."
        )
    return Part(dataset, {name: chosen[name] for name in names or chosen}, named=bool(by_name))


def _task_names(dataset: Dataset) -> tuple[str, ...]:
    """The names of the tasks that rows are of; none where the column `task` holds numbers without names."""
    feature = dataset.features[TASK_COLUMN]
    if isinstance(feature, ClassLabel):
        present = read_column(dataset, TASK_COLUMN).drop_null().unique().to_pylist()
        return tuple(feature.names[number] for number in sorted(present))
    if isinstance(feature, Value) and "string" in feature.dtype:
        return tuple(sorted(read_column(dataset, TASK_COLUMN).drop_null().unique().to_pylist()))
    return ()


def task_numbers(part: Part, names: Sequence[str]) -> np.ndarray:
    """
    The number of the task of each row of a part with a column `task`, by the order of `names`.

    Raises:
        ValueError: if a row is of none of these.
    """
    column, feature = read_column(part.dataset, TASK_COLUMN), part.dataset.features[TASK_COLUMN]
    if not part.named:
        wrong = column.null_count or not pa.types.is_integer(column.type)
        numbers = np.zeros(0) if wrong else np.asarray(column.to_numpy(), dtype=np.int64)
        unknown = numbers[(numbers < 0) | (numbers >= len(names))]
        if wrong or unknown.size:
            _refuse_task("null or no whole number" if wrong else unknown[0], names)
        return numbers
    # to numbers by the distinct names, of which there are few
    encoded: Any = column.combine_chunks().dictionary_encode()
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    values = [feature.names[value] if isinstance(feature, ClassLabel) else value for value in values]
    unknown = [value for value in values if value not in names]
    if encoded.null_count or unknown:
        _refuse_task(unknown[0] if unknown else "null", names)
    return np.array([list(names).index(value) for value in values])[np.asarray(encoded.indices.to_numpy())]


def _refuse_task(value: object, names: Sequence[str]) -> NoReturn:
    raise ValueError(
        f"The column `{TASK_COLUMN}` holds {value}, which is none of the tasks {listed(names)}: no head would learn "
        "from these rows. Add the task, or take its rows out; numbers count the tasks from 0."
    )


def _chosen(label_columns: LabelColumns | None) -> dict[str, str]:
    if label_columns is None:
        return {}
    if isinstance(label_columns, Mapping):
        return dict(label_columns)
    return {name.removeprefix("labels_"): name for name in label_columns}


def _check_names(given: Sequence[str], names: Sequence[str] | None, what: str, *, some: bool = False) -> None:
    if names is None:
        return
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(
            f"There is a {what} for `{unknown[0]}`, which is none of the tasks {listed(names)}: nothing would learn "
            "from it. Add the task, or take its rows out."
        )
    missing = [name for name in names if name not in given]
    if missing and given and not some:
        raise ValueError(
            f"There is no {what} for task `{missing[0]}`: its head would stay as it was drawn. Give one, or leave the "
            "task out."
        )


def _refuse_empty(dataset: Dataset, where: str) -> None:
    if not len(dataset):
        raise ValueError(
            f"{where} has no rows: there is nothing to learn from. Check the split and the filters that it went "
            "through, or leave the task out."
        )
