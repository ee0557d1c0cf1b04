"""Schedules: closed-form values, purity, and how they print."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from hf_transfer.schedules import constant, cosine, evaluate, linear, warmup


POINTS = [0.0, 0.1, 0.2, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("gamma", [1.0, 10.0])
@pytest.mark.parametrize("progress", POINTS)
def test_warmup_is_ganins_formula(gamma, progress):
    expected = 2 / (1 + math.exp(-gamma * progress)) - 1
    assert warmup(gamma=gamma)(torch.tensor(progress, dtype=torch.float64)).item() == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize(("progress", "value"), [(0, 0), (0.1, 0.462), (0.2, 0.762), (0.5, 0.987), (1, 1.0)])
def test_warmup_at_the_papers_points(progress, value):
    assert warmup()(progress).item() == pytest.approx(value, abs=5e-4)


def test_a_small_gamma_over_the_whole_training_ends_far_below_its_peak():
    """The trap of copying gamma 1 from libraries that count 10,000 steps as the unit."""
    assert warmup(gamma=1.0)(1.0).item() == pytest.approx(0.462, abs=5e-4)
    assert warmup(gamma=10.0, peak=0.1)(1.0).item() == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("progress", POINTS)
def test_lines_and_cosines(progress):
    assert linear(2.0, 4.0)(progress).item() == pytest.approx(2 + 2 * progress)
    assert cosine(0.0, 1.0)(progress).item() == pytest.approx(0.5 - 0.5 * math.cos(math.pi * progress), abs=1e-6)
    assert constant(0.3)(progress).item() == pytest.approx(0.3)


@pytest.mark.parametrize("schedule", [warmup(), linear(), cosine(), constant(1.0)])
def test_a_schedule_is_pure(schedule):
    """The same at the same progress, in whatever order it is asked."""
    values = {p: schedule(p).item() for p in POINTS}
    assert all(schedule(p).item() == values[p] for p in reversed(POINTS))


@pytest.mark.parametrize("schedule", [warmup(), linear(), cosine(), constant(1.0)])
def test_a_schedule_of_a_tensor_is_a_tensor_and_nothing_is_read_back(schedule):
    assert schedule(torch.tensor(0.5, device="meta")).device.type == "meta"


def test_evaluate_takes_numbers_schedules_and_functions():
    assert evaluate(0.5, 0.1) == 0.5
    assert evaluate(linear(), 0.25) == 0.25
    assert evaluate(lambda p: p**2, 0.5) == 0.25


def test_prints_as_the_call_that_made_it():
    assert repr(warmup(gamma=5.0)) == "warmup(gamma=5.0, peak=1.0)"
    assert repr(linear(1.0, 0.0)) == "linear(start=1.0, end=0.0)"


def test_equal_when_made_alike_and_picklable():
    assert warmup(gamma=5.0) == warmup(gamma=5.0) != warmup(gamma=6.0)
    assert len({warmup(), warmup(), linear()}) == 2
    assert pickle.loads(pickle.dumps(warmup(gamma=5.0))) == warmup(gamma=5.0)
