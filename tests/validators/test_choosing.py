from __future__ import annotations

import math

import pytest

from hf_transfer.validators import choose


SCORES = {
    "source only": {"snd": 2.0, "dev": -0.4, "oracle_accuracy": 0.7},
    "DANN": {"snd": 3.0, "dev": -0.5, "oracle_accuracy": 0.8},
    "CORAL": {"snd": 1.0, "dev": -0.4, "oracle_accuracy": 0.9},
}


def test_each_validator_takes_the_model_it_scores_highest():
    assert choose(SCORES) == {"snd": "DANN", "dev": "source only", "oracle_accuracy": "CORAL"}


def test_of_equals_the_first_named_wins():
    assert choose(dict(reversed(SCORES.items())))["dev"] == "CORAL"


def test_what_is_no_number_never_wins():
    assert choose({"a": {"snd": math.nan}, "b": {"snd": -1e9}}) == {"snd": "b"}
    assert choose({"a": {"snd": math.nan, "dev": 0.0}, "b": {"snd": math.nan, "dev": 1.0}}) == {"dev": "b"}


def test_no_model_is_refused():
    with pytest.raises(ValueError, match="No model was given: there is nothing to choose. Pass the scores"):
        choose({})


def test_models_scored_by_other_validators_are_refused():
    with pytest.raises(ValueError, match=r"`a` and `b` were not scored alike \(dev is there for one.*Validate all"):
        choose({"a": {"snd": 1.0, "dev": 0.0}, "b": {"snd": 1.0}})
