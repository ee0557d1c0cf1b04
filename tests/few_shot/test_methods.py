"""The names of the few-shot methods."""

from __future__ import annotations

import pytest

from hf_transfer.few_shot import evaluation
from hf_transfer.few_shot.methods import (
    FEW_LABELS,
    META,
    ON_FEATURES,
    REFERENCE,
    TRAINED,
    TRANSDUCTIVE,
    check_methods,
)
from hf_transfer.few_shot.training import ALGORITHMS
from hf_transfer.meta.checks import ALGORITHMS as KNOWN


def test_those_on_features_are_those_that_are_evaluated():
    assert tuple(ON_FEATURES) == evaluation.METHODS
    assert TRANSDUCTIVE == evaluation.TRANSDUCTIVE


def test_every_meta_learner_is_an_algorithm_of_the_trainer():
    assert {ALGORITHMS.get(name, name) for name in META} == set(KNOWN)
    assert set(META) == TRAINED.keys() - {"protonet"}


def test_the_reference_is_in_both_modes():
    assert REFERENCE in ON_FEATURES and REFERENCE in FEW_LABELS
    assert check_methods([], "classes") == [REFERENCE]
    assert check_methods(["probe", "nearest_mean"], "classes") == [REFERENCE, "probe"]


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="`--methods xyz` is no method that is known here: nothing.*Choose from"):
        check_methods(["xyz"], "episodes")
