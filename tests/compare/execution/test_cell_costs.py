"""Memory, size and speed of a run."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from hf_transfer.compare.execution.cell_costs import PeakMemory, latency_ms, parameters_of
from tests.compare.tiny_cells import TinySetup
from tests.models import tiny_bert


def grown(count):
    with PeakMemory(torch.device("cpu")) as memory:
        held = torch.ones(count)
        assert held[0] == 1
    return memory.bytes or 0


def test_memory_that_was_freed_within_counts_and_again_in_the_next_run():
    for _ in range(2):
        with PeakMemory(torch.device("cpu")) as memory:
            for _ in range(3):
                held = torch.ones(10_000_000)
                threading.Event().wait(0.05)  # longer than it looks away
                del held
        assert 35e6 < (memory.bytes or 0) < 75e6


def test_more_takes_more_and_the_watcher_ends():
    threads = threading.active_count()
    assert grown(20_000_000) > 1.5 * grown(10_000_000) > 0
    with pytest.raises(KeyError), PeakMemory(torch.device("cpu")) as memory:
        raise KeyError
    assert memory.bytes is not None and threading.active_count() == threads


def test_a_device_that_does_not_count_tells_nothing():
    with PeakMemory(torch.device("meta")) as memory:
        pass
    assert memory.bytes is None


def test_weights_of_objectives_are_none_of_the_model():
    model = tiny_bert()
    count = parameters_of(model)
    assert count == sum(p.numel() for p in model.parameters()) and parameters_of(None) is None
    model.transfer_objectives = torch.nn.Linear(2, 2)
    assert parameters_of(model) == count


def test_latency_is_that_of_one_row_of_the_test_split(tmp_path):
    setup: Any = TinySetup(tmp_path)
    seen: list[Any] = []
    model = setup.fresh()
    model.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    found = latency_ms(model, setup)
    assert found is not None and 0 < found < 1000
    assert all(torch.equal(own, setup.test[0]["input_ids"][None]) for own in seen)
    setup.test = None
    assert latency_ms(model, setup) is not None
    assert torch.equal(seen[-1], setup.validation[0]["input_ids"][None])
    setup.validation = None
    assert latency_ms(model, setup) is None


def test_what_cannot_be_timed_is_not(tmp_path):
    assert latency_ms(torch.nn.Linear(2, 3), TinySetup(tmp_path)) is None  # pyright: ignore
