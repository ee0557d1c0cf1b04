"""Bounds of numbers among the options of recipes."""

from __future__ import annotations

import pytest

from hf_transfer.option_checks import check_least, check_positive


def test_the_least_itself_and_what_is_left_out_pass():
    check_least({"seeds": (1, 1), "season": (None, 24)}, cost="to train")
    check_positive({"rate": 1e-9, "temperature": None})


def test_less_is_refused_by_name():
    with pytest.raises(ValueError, match=r"`--seeds 0` leaves nothing to train\. Give 1 or more"):
        check_least({"n_way": (2, 2), "seeds": (0, 1)}, cost="to train")


@pytest.mark.parametrize("value", [0, -0.1])
def test_zero_and_below_are_refused(value):
    with pytest.raises(ValueError, match=rf"`--rate {value}` learns nothing, or the wrong way\. Give more than 0"):
        check_positive({"rate": value})
