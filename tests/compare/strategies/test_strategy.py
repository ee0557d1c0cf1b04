"""What a strategy is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hf_transfer.compare.execution.running import run_cell
from hf_transfer.compare.execution.store import CellStore
from hf_transfer.compare.strategies.strategy import RATES, Fitted, Strategy
from hf_transfer.features import fit_probe
from tests.compare.strategies.problems import setup_of


@dataclass(frozen=True, kw_only=True)
class Own(Strategy):
    strength: float = 1.0
    make: Any = None

    def fit(self, setup):
        return Fitted(None)


def other(body: str) -> Strategy:
    space: dict[str, Any] = {"Strategy": Strategy, "Fitted": Fitted, "__name__": "notebook"}
    exec(f"class Mine(Strategy):\n    def fit(self, setup):\n        return {body}\n", space)
    return space["Mine"](name="mine")


def test_the_label_is_the_title_where_there_is_one():
    assert Own(name="own").label == "own"
    assert Own(name="own", title="My own").label == "My own"


def test_settings_hold_what_the_result_depends_on_and_json_can_hold_them():
    first = Own(name="own")
    settings = first.settings()
    assert json.loads(json.dumps(settings)) == settings
    for change in ({"strength": 2.0}, {"rate": "whole"}, {"name": "another"}, {"make": lambda: 1}):
        assert replace(first, **change).settings() != settings, change


def test_words_and_needs_are_no_settings():
    first = Own(name="own")
    words = replace(first, title="t", about="a", paper="p", needs=frozenset({"teacher"}), baseline=True)
    assert words.settings() == first.settings()


def test_the_code_of_a_class_of_ones_own_counts():
    assert other("Fitted(None)").settings() == other("Fitted(None)").settings()
    assert other("Fitted(None)").settings() != other("Fitted(None, steps=1)").settings()


@pytest.mark.parametrize("name", ["", "..", "a/b", "../up", "a b", "-dash", ".hidden"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"names a folder of its runs too.*Use letters"):
        Own(name=name)


@pytest.mark.parametrize("name", ["full", "lp_ft", "dann+mcc", "r-drop", "v1.2"])
def test_ordinary_names_are_taken(name):
    assert Own(name=name).name == name


def test_an_unknown_group_of_rates_is_refused():
    with pytest.raises(ValueError, match=r"`rate='big'` of the strategy `own`.*Choose from whole, .*adapter, scratch"):
        Own(name="own", rate="big")
    assert [Own(name="own", rate=rate).rate for rate in RATES] == list(RATES)


def test_a_strategy_without_fit_cannot_be_made():
    with pytest.raises(TypeError, match="fit"):
        Strategy(name="bare")  # pyright: ignore[reportAbstractUsage]


class ClassMeans(Strategy):
    """That of the documentation."""

    def fit(self, setup):
        probe = fit_probe(setup.features("train"), kind="nearest_class_mean", seed=setup.seed)
        return Fitted(probe.fold_into(setup.fresh()), trained_parameters=probe.arrays["weight"].size)


def test_a_strategy_of_ones_own_in_a_run(texts, place, tmp_path):
    setup = setup_of(texts, tmp_path, "class_means")
    store = CellStore(tmp_path / "out", {})
    result = run_cell(setup.key, ClassMeans(name="class_means"), setup, store, fingerprint="f")
    assert result.finished, result.reason
    assert result.costs.trained_parameters == 32 and result.scores["validation_accuracy"] is not None
