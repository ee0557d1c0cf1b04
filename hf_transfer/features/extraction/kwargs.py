"""Types of the options that are handed on to `extract_features`, so that editors complete and check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from torch import Tensor


__all__ = ["ExtractionKwargs", "checked", "for_evaluation"]


class ExtractionKwargs(TypedDict, total=False):
    """Options of [`extract_features`] that do not change what the features are of."""

    batch_size: int
    max_length: int | None
    dtype: str
    views: int
    augment: Callable[[Tensor], Tensor] | None
    seed: int
    columns: Sequence[str]
    data_collator: Callable[[list[dict[str, Any]]], Any] | None
    num_workers: int | None
    cache_dir: Any
    overwrite: bool
    progress: bool


def checked(extraction: ExtractionKwargs | None) -> ExtractionKwargs:
    """
    The options, if there are no others among them.

    Raises:
        ValueError: if there are.
    """
    foreign = sorted(set(extraction or ()) - set(ExtractionKwargs.__annotations__))
    if foreign:
        raise ValueError(
            f"extraction={{{foreign[0]!r}: ...}}: what is read, and of what, is settled by what it is read for, and "
            f"only {', '.join(ExtractionKwargs.__annotations__)} can be chosen. Leave `{foreign[0]}` out; to read "
            "features for another purpose call `extract_features` itself."
        )
    return extraction or {}


def for_evaluation(extraction: ExtractionKwargs) -> dict[str, Any]:
    """The options for data to evaluate on: without augmented views."""
    return {name: value for name, value in extraction.items() if name not in ("views", "augment")}
