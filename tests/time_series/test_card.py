"""What a card says of a forecaster: where it comes from, on what data, and what it was compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
import torch

from hf_transfer.compare.results import Cell
from hf_transfer.model_card import RunFacts
from hf_transfer.model_card.snippets import snippets
from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments
from hf_transfer.time_series.card import TASK, tell_of_series
from hf_transfer.time_series.comparison import SeriesComparison
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.report import find
from hf_transfer.time_series.share import shares_of
from tests.time_series.made import random_walk, series_of
from tests.time_series.test_report import scored
from tests.time_series.tiny_forecasters import H, L, forecaster


@dataclass
class Finished:
    """As much of a comparison that has run as a card reads."""

    recipe: SeriesArguments = field(
        default_factory=lambda: SeriesArguments(
            target_series="/home/somebody/target.csv",
            source_series=["/home/somebody/source.csv"],
            context_length=L,
            prediction_length=H,
        )
    )
    model_args: ForecasterArguments = field(default_factory=ForecasterArguments)
    season: int = 24

    def __post_init__(self):
        self.target = series_of(random_walk(120, 2), name="/home/somebody/target.csv")
        self.sources = [series_of(random_walk(90, 2), name="/home/somebody/source.csv")]
        self.shares = shares_of(self.target, [1.0], context_length=L, prediction_length=H)


def told(kept: str, base: str | None = "user/base", seeds: int = 2) -> RunFacts:
    errors = {"scratch": 0.5, "probe_scratch": 0.4, "probe": 0.3, "full": 0.2, "naive": 0.9}
    runs = {name: {seed: scored(mse, seed=seed) for seed in range(seeds)} for name, mse in errors.items()}
    runs = {name: own if name not in ("probe", "naive") else {0: own[0]} for name, own in runs.items()}
    eval_mse = {name: dict.fromkeys(own, errors[name]) for name, own in runs.items()}
    found = find(1.0, runs, eval_mse, block_length=6, fixed=["probe", "naive"])
    scores = {f"test_{name}": value for name, value in runs[kept][0].scores.items()}
    cell = Cell(f"{kept}@1", 0, "f", "few_1", scores)
    facts = RunFacts(base_model=base, base_hub_id=base, strategy=["It starts from something."])
    said = ["Recommended with all training rows: full.", "Nothing beats naive."]
    tell_of_series(facts, cast(SeriesComparison, Finished()), found, cell, said)
    return facts


def test_a_transferred_model_names_source_and_target_without_folders():
    facts = told("full")
    assert facts.task == TASK and facts.base_hub_id == "user/base" and facts.method == "full"
    assert "pretrained by filling in masked patches of `source.csv`" in facts.strategy[0]
    assert facts.strategy[1].startswith("full: all weights") and "something" not in str(facts.strategy)
    assert [(own.role, own.name) for own in facts.data] == [("target", "target.csv"), ("source", "source.csv")]
    assert "somebody" not in str(facts)
    assert facts.notes == ["Nothing beats naive."]  # the recommendation is the strategy itself


@pytest.mark.parametrize("kept", ["scratch", "probe_scratch"])
def test_what_has_no_source_names_none(kept):
    facts = told(kept)
    assert facts.strategy[0] == "It starts from random weights."
    assert facts.base_model is facts.base_hub_id is facts.relation is None
    assert [own.role for own in facts.data] == ["target"]


def test_both_that_transfer_must_beat_and_the_baselines_stand_beside():
    beside = {own.name: own for own in told("full").baselines}
    assert list(beside) == ["scratch", "probe_scratch", "naive"]
    assert beside["probe_scratch"].difference == pytest.approx(0.2 - 0.4)
    assert [own.name for own in told("probe_scratch").baselines] == ["scratch", "naive"]


def test_scores_are_of_the_kept_run_with_the_mean_over_seeds():
    (mse, *_), single = told("full").scores, told("full", seeds=1).scores[0]
    assert (mse.value, mse.mean) == pytest.approx((0.2, 0.2)) and len(mse.by_seed) == 2
    assert single.mean is None


def test_its_code_forecasts(tmp_path, monkeypatch):
    forecaster().save_pretrained(tmp_path / "mine")
    lengths = {"context_length": L, "prediction_length": H}
    SeriesProcessor(channels=["a", "b"], mean=[5, 0], std=[3, 1], **lengths).save_pretrained(tmp_path / "mine")
    facts = told("full")
    facts.model_class = "PatchTSTForPrediction"
    ((_, code),) = snippets(facts, "mine")
    monkeypatch.chdir(tmp_path)
    shown: list[Any] = []
    state = torch.random.get_rng_state()
    exec(compile(code, "card", "exec"), {"print": shown.append})
    assert torch.random.get_rng_state().equal(state)
    assert shown[0] == ["a", "b"] and shown[1].shape == (H, 2) and np.isfinite(shown[1]).all()
