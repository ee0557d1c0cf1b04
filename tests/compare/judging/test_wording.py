"""Figures in sentences."""

from __future__ import annotations

import pytest

from hf_transfer.compare.answer import Difference, Estimate
from hf_transfer.compare.judging.wording import figure, share_of, strategy_name, with_interval


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.5, "0.500"), (-0.0004, "0.000"), (-0.0006, "-0.001"), (99.9999, "100.000"), (123.456, "123.5")],
)
def test_figures(value, written):
    assert figure(value) == written


def test_intervals():
    assert with_interval(Difference(0.1, 0.05, 0.15)) == "0.100, 0.050 to 0.150"
    assert with_interval(Estimate(0.1, 0.05, None)) == with_interval(Estimate(0.1)) == "0.100"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        *(
            (5, "half"),
            (5.4, "half"),
            (6, "60%"),
            (3.3, "a third"),
            (2.5, "a quarter"),
            (2, "a fifth"),
            (1, "a tenth"),
        ),
        *((0.9, "less than a tenth"), (0, "less than a tenth"), (9.5, "95%"), (9.6, None), (20, None)),
    ],
)
def test_shares(part, words):
    assert share_of(part, 10) == words


def test_shares_of_nothing():
    assert share_of(0, 0) is None


def test_names():
    assert strategy_name(("a", "lora"), []) == "lora"
    assert strategy_name(("a", "lora"), [("a", "full"), ("b", "full")]) == "lora on a"
