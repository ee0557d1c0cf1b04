from __future__ import annotations

from typing import Any

import pytest

from hf_transfer.frozen_prefix import agreement as module
from hf_transfer.frozen_prefix.agreement import agreement, of_rank_zero
from hf_transfer.frozen_prefix.extent import Unsuitable


class TwoRanks:
    num_processes = 2


def pretend(monkeypatch: pytest.MonkeyPatch, other: str | None) -> list[Any]:
    """Two ranks, of which the other has found `other`."""
    told: list[Any] = []

    def gather(reasons: list[Any]) -> list[Any]:
        told.extend(reasons)
        return [*reasons, other]

    monkeypatch.setattr(module, "PartialState", TwoRanks)
    monkeypatch.setattr(module, "gather_object", gather)
    return told


def test_alone_nothing_is_asked():
    with agreement():
        pass
    with pytest.raises(Unsuitable, match="too large"), agreement():
        raise Unsuitable("too large")
    assert of_rank_zero({"a": 1}) == {"a": 1}


def test_what_the_other_rank_finds_counts_here(monkeypatch):
    told = pretend(monkeypatch, "no room there")
    with pytest.raises(Unsuitable, match="no room there"), agreement():
        pass
    assert told == [None]


def test_the_other_rank_is_told_and_ones_own_reason_comes_first(monkeypatch):
    told = pretend(monkeypatch, "no room there")
    with pytest.raises(Unsuitable, match="no room here"), agreement():
        raise Unsuitable("no room here")
    assert told == ["no room here"]


def test_other_errors_pass(monkeypatch):
    pretend(monkeypatch, None)
    with pytest.raises(KeyError), agreement():
        raise KeyError("a mistake")


def test_values_are_those_of_rank_zero(monkeypatch):
    monkeypatch.setattr(module, "PartialState", TwoRanks)
    monkeypatch.setattr(module, "broadcast_object_list", lambda values: ["of rank 0"])
    assert of_rank_zero("of rank 1") == "of rank 0"
