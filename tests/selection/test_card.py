from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_transfer.model_card.facts import RunFacts
from hf_transfer.selection import card
from hf_transfer.selection.card import HELD_OUT, tell_of_selection
from tests.selection.made import outcome, ranking


@pytest.fixture
def selection(monkeypatch) -> Any:
    # what is told of data and options is another module's
    monkeypatch.setattr(card, "data_facts", lambda *_, **__: "the data")
    monkeypatch.setattr(card, "changed_options", lambda _: {"folds": 3, "dataset_name": "d"})
    monkeypatch.setattr(card, "device_name", lambda _: "a processor")
    data = SimpleNamespace(task="image-classification", input_columns=("image",), label_names=["a", "b"])
    recipe = SimpleNamespace(dataset_name="d")
    data_args = SimpleNamespace(dataset_config_name=None)
    return SimpleNamespace(recipe=recipe, data=data, data_args=data_args, args=SimpleNamespace(seed=0))


def test_the_card_tells_the_held_out_score_the_baselines_and_the_limit(selection):
    made = ranking(outcome("/home/me/good", 0.9), outcome("bad", 0.4, seed=1), outcome("raw inputs", 0.6))
    facts, probe = RunFacts(), SimpleNamespace(rows=1234)
    tell_of_selection(facts, made, selection, "/home/me/good", probe, {"test_accuracy": 0.8}, {}, 7.0)  # type: ignore[arg-type]
    held_out = next(score for score in facts.scores if score.split == HELD_OUT)
    assert held_out.value == pytest.approx(0.9) and facts.method == "good"
    (baseline,) = facts.baselines
    assert baseline.name == "raw inputs" and baseline.difference == pytest.approx(0.3)
    assert "among 2 candidates by probe on 400 labelled rows" in facts.strategy[0] and "1,234" in facts.strategy[1]
    assert facts.hyperparameters == {"folds": 3} and facts.seconds == 7.0
    assert any("fine-tuning may order" in limit for limit in facts.limits)
    assert "/home" not in f"{facts.notes} {facts.comparison}"
