"""`mix_domains` for streaming `datasets.IterableDataset`: rows of the domains alternate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
from datasets import Features, IterableDataset, Value, interleave_datasets

from hf_transfer.data.columns import (
    DOMAIN_COLUMN,
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
)
from hf_transfer.data.labels import LabelKind, label_kind, length_rule, masked_like
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT


_PEEK = 8  # rows read ahead of training: enough to see whether label lists follow the length of another column
_BATCH = 16  # rows masked at a time; a stream of images should not be read far ahead


def mix_streams(
    domains: Sequence[IterableDataset], *, label_column: str | None, labelled: Collection[int]
) -> IterableDataset:
    """The streaming case of [`mix_domains`], whose docstring holds the arguments and errors."""
    # no public reader of a stream's format in datasets 5.2
    formats = [None if domain._formatting is None else domain._formatting.format_type for domain in domains]
    if any(format != formats[0] for format in formats):
        raise ValueError(
            f"The domains have different formats: {listed(formats)}; rows of one batch need the same. "
            "Call `with_format` alike on every domain, or only on the result."
        )
    streams = [domain.with_format("arrow") for domain in domains]
    first = [list(islice(stream, _PEEK)) for stream in streams]
    check_not_empty([len(rows) for rows in first])
    # after `.map` a stream does not know its features; interleave_datasets finds them by the same private method
    all_features = [domain._resolve_features().features or Features() for domain in domains]
    label_columns = find_label_columns([list(features) for features in all_features], label_column, labelled)
    inputs = [
        Features({name: feature for name, feature in features.items() if name != column})
        for features, column in zip(all_features, label_columns, strict=True)
    ]
    weighted = next((features[SAMPLE_WEIGHT] for features in inputs if SAMPLE_WEIGHT in features), None)
    if weighted is not None:
        inputs = [Features({**features, SAMPLE_WEIGHT: features.get(SAMPLE_WEIGHT, weighted)}) for features in inputs]
    check_columns([list(features) for features in inputs])
    output_label = str(label_columns[0])
    kind = label_kind(all_features[0][output_label], column=output_label, where=domain_name(0))
    peeked = pa.concat_tables(first[0])
    rule = length_rule(all_features[0], output_label, peeked.column) if kind.nested else None
    features = Features({**inputs[0], output_label: kind.feature, DOMAIN_COLUMN: Value("int64")})
    mixed = []
    for number, (stream, column) in enumerate(zip(streams, label_columns, strict=True)):
        where = domain_name(number)
        check_same_features(inputs[number], inputs[0], where=where)
        if column is not None:
            check_same_kind(kind, label_kind(all_features[number][column], column=column, where=where), where=where)
        if number not in labelled:
            check_no_second_label(inputs[number], None, column, where=where)
        change = partial(
            _with_columns,
            schema=features.arrow_schema,
            kind=kind,
            label_column=column,
            output_label=output_label,
            rule=rule,
            keep=number in labelled,
            number=number,
        )
        change(pa.concat_tables(first[number]))  # errors at once, not in the middle of the first batch
        removed = [name for name in all_features[number] if name not in features]
        # `cast`, not `map(features=...)`: datasets 5.2 leaves images undecoded after an Arrow map of known types
        mapped = stream.map(change, batched=True, batch_size=_BATCH, remove_columns=removed)
        mixed.append(mapped.with_format(None).cast(features))
    interleaved = interleave_datasets(mixed, stopping_strategy="all_exhausted")
    return interleaved if formats[0] is None else interleaved.with_format(formats[0])


def _with_columns(
    table: pa.Table,
    *,
    schema: pa.Schema,
    kind: LabelKind,
    label_column: str | None,
    output_label: str,
    rule: str | int | None,
    keep: bool,
    number: int,
) -> pa.Table:
    """Drop the label column of a batch and append the kept or masked labels and the domain number."""
    where = domain_name(number)
    if keep and label_column is not None:
        check_kept_labels(kind, table[label_column], where=where)
        labels = table[label_column].cast(kind.arrow_type)
    else:
        labels = masked_like(kind, table, label_column, rule, where=where)
    if SAMPLE_WEIGHT in schema.names and SAMPLE_WEIGHT not in table.column_names:
        table = table.append_column(SAMPLE_WEIGHT, pa.array(np.ones(table.num_rows)))
    columns = {name: table[name] for name in schema.names if name not in (output_label, DOMAIN_COLUMN)}
    domain = pa.array(np.full(table.num_rows, number, np.int64))
    return pa.table({**columns, output_label: labels, DOMAIN_COLUMN: domain}).cast(schema)
