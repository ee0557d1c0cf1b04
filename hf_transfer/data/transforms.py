"""Lazy transforms (`with_transform`) of a mixed dataset: every row through the transform of its own domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_transfer.data.columns import DOMAIN_COLUMN, LABEL_COLUMNS, listed
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT


Batch = dict[str, Any]


@dataclass(frozen=True)
class DomainTransform:
    """
    What `with_transform` was told about one domain before it was mixed.

    Args:
        function (`Callable`):
            Takes a batch as a dict of columns and returns one.
        columns (`tuple[str, ...]`):
            Columns the function gets.
        output_all_columns (`bool`, *optional*, defaults to `False`):
            Whether the columns it does not get are added to its output.
    """

    function: Callable[[Batch], Batch]
    columns: tuple[str, ...]
    output_all_columns: bool = False


@dataclass(frozen=True)
class DomainTransforms:
    """
    One transform for a mixed dataset out of one per domain (`None` leaves the rows as they are).

    `domain` is always in the output, and the labels are (under `label_column`) where a transform drops them: a row
    without them would be a labelled row to some collators and an error to others. So is `sample_weight`.

    Raises:
        ValueError: at the first batch, if a transform changes the number of rows or two give different columns.

    Example:
        >>> shout = DomainTransform(lambda batch: {"text": [text.upper() for text in batch["text"]]}, ("text",))
        >>> DomainTransforms([None, shout], "label")({"text": ["a", "b"], "label": [1, -100], "domain": [0, 1]})
        {'text': ['a', 'B'], 'label': [1, -100], 'domain': [0, 1]}
    """

    transforms: Sequence[DomainTransform | None]
    label_column: str

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch whose rows may belong to several domains."""
        if set(batch) == {DOMAIN_COLUMN}:
            return batch  # `dataset["domain"]`: only this column was read
        domains = [int(domain) for domain in batch[DOMAIN_COLUMN]]
        mixed: Batch = {}
        for number in sorted(set(domains)):
            rows = [row for row, domain in enumerate(domains) if domain == number]
            part = self._apply(
                number, {name: [values[row] for row in rows] for name, values in batch.items()}, len(rows)
            )
            if mixed and set(part) != set(mixed):
                raise ValueError(
                    f"The transforms of two domains give different columns: {listed(mixed)} and {listed(part)} "
                    f"(domain {number}); rows of one batch need the same. Let both return the same columns."
                )
            for name, values in part.items():
                column = mixed.setdefault(name, [None] * len(domains))
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
        return mixed

    def _apply(self, number: int, batch: Batch, rows: int) -> Batch:
        transform = self.transforms[number]
        if transform is None:
            return batch
        added = {self.label_column, DOMAIN_COLUMN}
        output = dict(transform.function({n: v for n, v in batch.items() if n in {*transform.columns, *added}}))
        if transform.output_all_columns:
            output = {**{n: v for n, v in batch.items() if n not in {*transform.columns, *added}}, **output}
        if not any(name in output for name in (self.label_column, *LABEL_COLUMNS)):
            output[self.label_column] = batch[self.label_column]
        output[DOMAIN_COLUMN] = batch[DOMAIN_COLUMN]
        if SAMPLE_WEIGHT in batch:
            output.setdefault(SAMPLE_WEIGHT, batch[SAMPLE_WEIGHT])
        for name, values in output.items():
            if len(values) != rows:
                raise ValueError(
                    f"The transform of domain {number} made {len(values)} values of `{name}` out of {rows} rows; "
                    "labels and domains would no longer belong to their rows. Return one value per row."
                )
        return output
