"""Ranks that decide together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from hf_transfer.frozen_prefix.extent import Unsuitable


__all__ = ["agreement", "of_rank_zero"]


@contextmanager
def agreement() -> Iterator[None]:
    """
    Make what one rank finds unsuitable so on all, which would otherwise wait for it.

    Raises:
        Unsuitable: if it was raised within, on any rank.
    """
    reason: str | None = None
    try:
        yield
    except Unsuitable as unsuitable:
        reason = str(unsuitable)
    if PartialState().num_processes > 1:
        reasons = gather_object([reason])
        reason = reason or next((other for other in reasons if other is not None), None)
    if reason is not None:
        raise Unsuitable(reason)


def of_rank_zero(value: Any) -> Any:
    """The value that rank 0 has, on every rank."""
    return broadcast_object_list([value])[0] if PartialState().num_processes > 1 else value
