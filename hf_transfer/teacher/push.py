"""What a teacher said of a data set, as a data set of its own on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.features.extraction.taps import pretrained
from hf_transfer.files import whole_file
from hf_transfer.hub.tables import push_table
from hf_transfer.model_card.data_card import DataCardFacts, write_data_card
from hf_transfer.model_card.naming import public_name
from hf_transfer.teacher.cached_columns import is_cached
from hf_transfer.teacher.teacher import Teacher


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import CommitInfo
    from torch import nn

    from hf_transfer.source import Source

ID = "id"
"""Column of the row's number in the data set that the teacher was asked about."""

__all__ = ["push_teacher_outputs"]


def push_teacher_outputs(
    dataset: Dataset | DatasetDict | Mapping[str, Dataset],
    name: str,
    folder: str | os.PathLike[str],
    *,
    teacher: Teacher | Source | nn.Module | str | None = None,
    source: str | None = None,
    keep: Sequence[str] = (),
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """
    Push the columns that [`cache_teacher`] added, so that others distil without the teacher.

    The rows themselves are not pushed, for they may not be yours to give: `id` is the number of the row in the data
    set as it is given here, or its own column of that name. Whoever has the data puts the columns beside them.

    Args:
        dataset (`Dataset` or a mapping of splits): with columns `teacher_*`. A single one becomes the split `train`.
        name (`str`): `user/name` of the repository; it is created if there is none.
        folder (`str` or path): where the same files are left: `data/<split>.parquet` and the card.
        teacher (as for [`cache_teacher`], *optional*): described in the card, with the order of its classes, without
            which its logits say nothing to others.
        source (`str`, *optional*): name of the data set that the rows are of, for the card.
        keep (`Sequence[str]`, *optional*): further columns to push, such as `labels`.
        token, private, revision: as for `TrainingArguments.hub_*`.

    Returns:
        `CommitInfo`: the commit.

    Raises:
        ValueError: if a split has no such columns, or not those of `keep`.
        PermissionError, ConnectionError: if the push fails; the files are in `folder` then.

    Relations:
        `datasets.load_dataset(name)` reads them, and `concatenate_datasets([rows, outputs], axis=1)` puts them beside
        the rows; [`CachedTeacher`] then stands for the teacher.
    """
    from datasets import Dataset as Table

    splits: Mapping[Any, Dataset] = {"train": dataset} if isinstance(dataset, Table) else dict(dataset.items())
    tables = {str(split): _outputs(rows, keep, str(split)) for split, rows in splits.items()}
    files: dict[str, Path] = {}
    for split, table in tables.items():
        files[split] = Path(folder) / "data" / f"{split}.parquet"
        with whole_file(files[split]) as unfinished:
            table.to_parquet(str(unfinished))
    described = None if teacher is None else Teacher.of(teacher)
    columns = list(next(iter(tables.values())).column_names)
    write_data_card(_facts(tables, columns, described, source, name), folder)
    return push_table(
        files,
        name,
        folder=folder,
        message="What a teacher says",
        token=token,
        private=private,
        revision=revision,
    )


def _outputs(rows: Dataset, keep: Sequence[str], split: str) -> Dataset:
    rows = rows.with_format(None)
    said = [column for column in rows.column_names if is_cached(column)]
    missing = [column for column in keep if column not in rows.column_names]
    if not said or missing:
        what = f"has no column {', '.join(missing)}" if missing else "has no columns `teacher_*`"
        raise ValueError(
            f"The split {split} {what}: it has {', '.join(rows.column_names)}, and what was asked for cannot be "
            "pushed. Pass what `cache_teacher` returned, and in `keep` columns that are there."
        )
    chosen = rows.select_columns([*said, *(column for column in keep if column not in (*said, ID))])
    ids: Any = rows[ID][:] if ID in rows.column_names else list(range(len(rows)))
    return chosen.add_column(ID, ids)  # pyright: ignore[reportCallIssue]


def _facts(
    tables: Mapping[str, Dataset], columns: Sequence[str], teacher: Teacher | None, source: str | None, name: str
) -> DataCardFacts:
    first = next(iter(tables))
    return DataCardFacts(
        "Teacher outputs",
        kind="teacher outputs",
        source=source,
        columns={column: f"`{_kind(tables[first], column)}`" for column in columns},
        splits={split: len(table) for split, table in tables.items()},
        notes=[
            f"The teacher:\n\n{_description(teacher)}",
            "The rows themselves are not here: `id` is the number of the row in the data set that the teacher was "
            "asked about, `rows` below. Give the objective `CachedTeacher(...)` of `hf_transfer` with its classes.",
        ],
        code="from datasets import concatenate_datasets, load_dataset\n\n"
        f'outputs = load_dataset("{name}", split="{first}")\n'
        'train = concatenate_datasets([rows.select(outputs["id"]), outputs.remove_columns("id")], axis=1)',
        tags=["knowledge-distillation"],
    )


def _kind(table: Dataset, column: str) -> str:
    feature: Any = table.features[column]
    depth = 0
    while hasattr(feature, "feature"):
        feature, depth = feature.feature, depth + 1
    return f"{getattr(feature, 'dtype', type(feature).__name__)}{depth * '[]'}"


def _description(teacher: Teacher | None) -> str:
    if teacher is None:
        return "Not told by whoever pushed this."
    lines = []
    for member in teacher.members:
        model = pretrained(member.source.model)
        given, _, _ = public_name(getattr(model.config, "_name_or_path", "") or None)
        lines.append(f"- `{type(model).__name__}`{f', `{given}`' if given else ''}")
        if member.class_names:
            classes = ", ".join(f"{number} `{label}`" for number, label in enumerate(member.class_names))
            lines.append(f"  - classes, in the order of the logits: {classes}")
    return "\n".join(lines)
