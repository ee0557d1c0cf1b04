"""How long runs will take: from the same strategy, from its kind, from a trial, or nothing."""

from __future__ import annotations

import pytest

from hf_transfer.compare.cells import CellKey
from hf_transfer.compare.planning.budget import Clock
from hf_transfer.compare.planning.estimates import Estimates, rest_speed, row_speed, step_speed
from hf_transfer.compare.strategies.strategy import Strategy


class _Plain(Strategy):
    def fit(self, setup):
        raise NotImplementedError


STRATEGIES = {
    "majority": _Plain(name="majority", baseline=True),
    "probe": _Plain(name="probe"),
    "full": _Plain(name="full", rate="whole"),
    "l2sp": _Plain(name="l2sp", rate="whole"),
    "lora": _Plain(name="lora", rate="adapter"),
}


@pytest.fixture
def estimates():
    return Estimates(Clock(), STRATEGIES, steps=100, rows=40)


def _took(estimates, seconds, *key):
    estimates.clock.cells[CellKey(*key).folder] = seconds


def test_nothing_is_known_at_first(estimates):
    assert estimates.seconds(CellKey("m", "full", 0)) is None
    assert estimates.seconds(CellKey("m", "probe", 0)) is None
    assert estimates.seconds(CellKey("m", "of my own", 0)) is None
    assert estimates.seconds(CellKey("m", "majority", 0)) == 0
    assert estimates.left([CellKey("m", "full", 0)]) is None


def test_the_mean_of_other_seeds(estimates):
    _took(estimates, 4.0, "m", "full", 0)
    _took(estimates, 6.0, "m", "full", 1)
    _took(estimates, 50.0, "m", "l2sp", 0)
    _took(estimates, 70.0, "other", "full", 0)
    assert estimates.seconds(CellKey("m", "full", 2)) == 5.0


def test_the_slowest_of_the_kind(estimates):
    _took(estimates, 4.0, "m", "full", 0)
    _took(estimates, 1.0, "m", "lora", 0)
    assert estimates.seconds(CellKey("m", "l2sp", 0)) == 4.0
    assert estimates.seconds(CellKey("other", "l2sp", 0)) is None


def test_the_trial(estimates):
    speeds = {step_speed("m", "whole"): 0.02, rest_speed("m", "whole"): 1.0, row_speed("m"): 0.1}
    estimates.clock.speeds |= speeds
    assert estimates.seconds(CellKey("m", "full", 0)) == pytest.approx(100 * 0.02 + 1 + 40 * 0.1)
    assert estimates.seconds(CellKey("m", "probe", 0)) == pytest.approx(4.0)
    assert estimates.seconds(CellKey("m", "lora", 0)) is None
    _took(estimates, 9.0, "m", "full", 0)
    assert estimates.seconds(CellKey("m", "l2sp", 0)) == 9.0  # a whole run tells more


def test_parts_of_the_rows(estimates):
    _took(estimates, 8.0, "m", "full", 0)
    assert estimates.seconds(CellKey("m", "full", 0, 0.25)) == 8.0
    _took(estimates, 3.0, "m", "full", 0, 0.25)
    assert estimates.seconds(CellKey("m", "full", 1, 0.25)) == 3.0
    assert estimates.seconds(CellKey("m", "full", 1, 0.5)) == 8.0
    assert estimates.seconds(CellKey("m", "full", 1)) == 8.0


def test_all_that_is_left(estimates):
    assert estimates.left([]) == 0
    _took(estimates, 8.0, "m", "full", 0)
    _took(estimates, 2.0, "m", "lora", 0)
    keys = [CellKey("m", "full", 1), CellKey("m", "lora", 1), CellKey("m", "probe", 0), CellKey("m", "probe", 1)]
    assert estimates.left(keys) == pytest.approx((8 + 2) / 2 * 4)
    assert estimates.left(keys, ranks=2) == pytest.approx(10.0)


def test_labels_that_look_alike_in_folders_are_told_apart(estimates):
    _took(estimates, 8.0, "m/full", "lora", 0)
    assert estimates.seconds(CellKey("m", "full", 0)) is None
