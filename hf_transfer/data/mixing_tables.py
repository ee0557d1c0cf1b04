"""`mix_domains` for map-style `datasets.Dataset`, on Arrow tables: inputs are neither copied nor decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable, concat_tables

from hf_transfer.data.columns import (
    DOMAIN_COLUMN,
    LABEL_COLUMNS,
    check_columns,
    check_not_empty,
    domain_name,
    find_label_columns,
    listed,
)
from hf_transfer.data.label_checks import (
    check_kept_labels,
    check_no_second_label,
    check_same_features,
    check_same_kind,
    check_same_values,
    check_some_label,
)
from hf_transfer.data.labels import LabelKind, flat_labels, label_kind, length_rule, masked_like
from hf_transfer.data.transforms import DomainTransform, DomainTransforms
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT


def mix_tables(domains: Sequence[Dataset], *, label_column: str | None, labelled: Collection[int]) -> Dataset:
    """The map-style case of [`mix_domains`], whose docstring holds the arguments and errors."""
    check_not_empty([len(domain) for domain in domains])
    formats = [domain.format for domain in domains]
    domains = _weighted([domain.with_format(None) for domain in domains])
    label_columns = find_label_columns([domain.column_names for domain in domains], label_column, labelled)
    inputs = [
        [name for name in domain.column_names if name != column]
        for domain, column in zip(domains, label_columns, strict=True)
    ]
    check_columns(inputs)
    kind = label_kind(domains[0].features[label_columns[0]], column=str(label_columns[0]), where=domain_name(0))
    labels = _labels(domains, label_columns, kind, labelled)
    features = Features({name: domains[0].features[name] for name in inputs[0]})
    output_label = str(label_columns[0])
    parts = []
    for number, domain in enumerate(domains):
        domain = domain.select_columns(inputs[0])
        if not check_same_features(domain.features, features, where=domain_name(number)):
            domain = domain.cast(features)
        parts.append(_with_columns(domain, labels[number], number, kind, output_label))
    return _with_formats(concatenate_datasets(parts), formats, output_label)


def _labels(
    domains: Sequence[Dataset], columns: Sequence[str | None], kind: LabelKind, labelled: Collection[int]
) -> list[pa.Array]:
    """The label column of the mixed dataset, one array per domain, checked."""
    source = flat_labels(_read(domains[0], str(columns[0])))
    rule = None
    if kind.nested and None in columns:
        rule = length_rule(domains[0].features, str(columns[0]), partial(_read, domains[0]))
    arrays: list[pa.Array] = []
    for number, (domain, column) in enumerate(zip(domains, columns, strict=True)):
        where = domain_name(number)
        visible = None if column is None else _read(domain, column)
        if column is not None and visible is not None:
            check_same_kind(kind, label_kind(domain.features[column], column=column, where=where), where=where)
            check_same_values(source, flat_labels(visible), kind, where=where)
        if number in labelled and visible is not None:
            check_kept_labels(kind, visible, where=where)
            check_some_label(kind, flat_labels(visible), where=where)
            arrays.append(_one_chunk(visible.cast(kind.arrow_type)))
        else:
            inputs = Features({name: feature for name, feature in domain.features.items() if name != column})
            check_no_second_label(inputs, _small_columns(domain), column, where=where)
            needed = [name for name in (column, rule) if isinstance(name, str)]
            # without a column the table would have no rows
            table = domain.select_columns(needed or domain.column_names[:1]).with_format("arrow")[:]
            arrays.append(masked_like(kind, table, column, rule, where=where))
    return arrays


def _read(domain: Dataset, column: str) -> pa.ChunkedArray:
    # selecting the column first keeps the gather through an indices mapping away from the other columns
    return domain.select_columns([column]).with_format("arrow")[:][column]


def _small_columns(domain: Dataset) -> pa.Table:
    """The integer columns: the only ones in which a copy of the labels is looked for."""
    schema = domain.data.schema
    names = [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)]
    return domain.select_columns(names).with_format("arrow")[:] if names else pa.table({})


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _weighted(domains: Sequence[Dataset]) -> Sequence[Dataset]:
    """With a column `sample_weight` of ones where only other domains have it."""
    feature = next(
        (domain.features[SAMPLE_WEIGHT] for domain in domains if SAMPLE_WEIGHT in domain.column_names), None
    )
    if feature is None:
        return domains
    return [
        domain
        if SAMPLE_WEIGHT in domain.column_names
        else _behind_indices(domain, {SAMPLE_WEIGHT: pa.array(np.ones(len(domain.data)))}, {SAMPLE_WEIGHT: feature})
        for domain in domains
    ]


def _behind_indices(domain: Dataset, columns: dict[str, pa.Array], features: dict[str, Any]) -> Dataset:
    schema = Features(features).arrow_schema
    return Dataset(
        concat_tables([domain.data, InMemoryTable(pa.table(columns).cast(schema))], axis=1),
        info=DatasetInfo(features=Features({**domain.features, **features})),
        indices_table=domain._indices,
        fingerprint=Hasher.hash([domain._fingerprint, sorted(columns), len(domain.data)]),
    )


def _with_columns(domain: Dataset, labels: pa.Array, number: int, kind: LabelKind, label_column: str) -> Dataset:
    """
    Append labels and domain number to the table *behind* the indices of a shuffled or selected dataset.

    `add_column` would first rewrite every input through the indices. Rows that the indices leave out stay in the
    table, so their labels are null: a target cut from the source's table must not bring its labels along.
    """
    rows = len(domain.data)
    indices = domain._indices  # no public reader of the mapping in datasets 5.2; the constructor takes it publicly
    if indices is not None:
        position = np.full(rows, -1)
        chosen = indices.column(0).to_numpy()
        position[chosen] = np.arange(len(chosen))
        labels = labels.take(pa.array(position, mask=position < 0))
    new = pa.table({label_column: labels, DOMAIN_COLUMN: pa.array(np.full(rows, number, np.int64))})
    features = Features({**domain.features, label_column: kind.feature, DOMAIN_COLUMN: Value("int64")})
    return Dataset(
        concat_tables([domain.data, InMemoryTable(new)], axis=1),
        info=DatasetInfo(features=features),
        indices_table=indices,
        # without one the whole table would be hashed; a mask changes the labels and not the fingerprint before
        fingerprint=Hasher.hash([domain._fingerprint, label_column, number, labels.to_pylist()]),
    )


def _with_formats(mixed: Dataset, formats: Sequence[dict[str, Any]], label_column: str) -> Dataset:
    kinds = [format["type"] for format in formats]
    if not any(kinds):
        return mixed
    if set(kinds) <= {"custom", None}:
        return mixed.with_transform(DomainTransforms([_transform(format) for format in formats], label_column))
    added = {label_column, DOMAIN_COLUMN, SAMPLE_WEIGHT, *LABEL_COLUMNS}
    settings = [
        (format["type"], format["format_kwargs"], set(format["columns"]) - added, format["output_all_columns"])
        for format in formats
    ]
    if any(setting != settings[0] for setting in settings):
        raise ValueError(
            f"The domains have different formats: {listed(kinds)}, or other columns or options of it; rows of one "
            "batch need the same. Call `with_format` alike on every domain, or only on the result."
        )
    kind, options, columns, output_all = settings[0]
    chosen = [name for name in mixed.column_names if name in columns | added]
    return mixed.with_format(kind, columns=chosen, output_all_columns=output_all, **options)


def _transform(format: dict[str, Any]) -> DomainTransform | None:
    if format["type"] is None:
        return None
    return DomainTransform(
        format["format_kwargs"]["transform"], tuple(format["columns"]), format["output_all_columns"]
    )
