"""`RunFacts`: which scores are taken from what a trainer reports."""

from __future__ import annotations

import math

import pytest

from hf_transfer.model_card import RunFacts, Score


def test_scores_are_taken_by_split_and_metric():
    facts = RunFacts()
    facts.add_scores({"eval_accuracy": 0.5, "test_macro_f1": 0.25, "source_1_accuracy": 1})
    assert facts.scores == [
        Score("accuracy", 0.5, "eval"),
        Score("macro_f1", 0.25),
        Score("accuracy", 1.0, "source_1"),
    ]


@pytest.mark.parametrize(
    "name, value",
    [
        ("test_runtime", 2.0),
        ("test_samples_per_second", 2.0),
        ("test_model_preparation_time", 2.0),
        ("epoch", 3.0),
        ("train_loss", 0.1),
        ("test_accuracy", None),
        ("test_accuracy", math.nan),
        ("test_accuracy", True),
        ("probe", "logistic"),
        ("test_report", {"a": 1}),
    ],
)
def test_what_is_no_score_is_left(name, value):
    facts = RunFacts()
    facts.add_scores({name: value})
    assert facts.scores == []


def test_a_later_score_replaces_the_earlier():
    facts = RunFacts()
    facts.add_scores({"test_accuracy": 0.5, "eval_accuracy": 0.4})
    facts.add_scores({"test_accuracy": 0.6})
    found = facts.score("test", "accuracy")
    assert found is not None and found.value == 0.6 and len(facts.scores) == 2
    assert facts.score("test", "f1") is None


def test_two_runs_share_no_list():
    RunFacts().notes.append("mine")
    assert RunFacts().notes == []
