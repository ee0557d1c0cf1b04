"""What is read off the training set once in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hf_transfer.frozen_prefix.extent import Unsuitable
from hf_transfer.frozen_prefix.identity import collator_digest, lengths_of, repeats, rows_digest
from hf_transfer.frozen_prefix.rows import read_rows, undecoded


__all__ = ["Facts"]

_FIRST = 4


@dataclass
class Facts:
    """
    A training set as the cache sees it.

    Args:
        dataset (`Any`): the rows.
        collate (`Callable`): makes a batch of them.
        name (`str`): the model's main input.
        ignored (`set[str]`): columns that hidden states do not depend on.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    name: str
    ignored: set[str]

    def __post_init__(self) -> None:
        self.rows = len(self.dataset)
        self.first = read_rows(self.dataset, range(min(_FIRST, self.rows)))
        if not self.first or self.name not in self.first[0]:
            raise Unsuitable(
                f"The training rows have no `{self.name}` - which of their columns the model reads first is not known "
                "- name it so, or train without `cache_frozen_prefix`."
            )
        if not repeats(self.dataset, self.collate, range(len(self.first))):
            raise Unsuitable(
                "The collator answers twice differently for the same rows - what is stored in the first epoch would "
                "be repeated in all others - train without `cache_frozen_prefix`, or augment nothing."
            )
        self.shape = tuple(np.shape(self.first[0][self.name]))

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """Tokens (or samples of sound) of each row; `None` for inputs that are no sequence, such as images."""
        return lengths_of(self.dataset, self.name) if len(self.shape) == 1 else None

    @property
    def fixed(self) -> bool:
        """Whether what lies before the blocks can be skipped, too: the input is no text and has one size."""
        if self.name == "input_ids":
            return False
        return self.lengths is None or bool((self.lengths == self.lengths[0]).all())

    @cached_property
    def identity(self) -> dict[str, str]:
        """Checksums of all rows and of the collator."""
        return {
            "data": rows_digest(self.dataset, self.ignored),
            "collator": collator_digest(self.collate),
        }

    def undecoded(self) -> Any:
        """The rows without their input, where that spares decoding it; see [`undecoded`]."""
        return undecoded(self.dataset, self.name, self.first)
