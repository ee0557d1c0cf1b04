"""The options that may be handed on to the extraction."""

from __future__ import annotations

import inspect

import pytest

from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.kwargs import ExtractionKwargs, checked, for_evaluation


def test_every_option_is_one_of_the_extraction():
    parameters = inspect.signature(extract_features).parameters
    assert set(ExtractionKwargs.__annotations__) < set(parameters)
    left = set(parameters) - set(ExtractionKwargs.__annotations__)
    assert left == {"model", "dataset", "processor", "taps", "pooling", "head"}


def test_options_pass():
    assert checked(None) == {}
    assert checked({"max_length": 9}) == {"max_length": 9}


def test_views_are_for_training():
    options = checked({"views": 3, "augment": abs, "seed": 1, "dtype": "float16"})
    assert for_evaluation(options) == {"seed": 1, "dtype": "float16"}
    assert options["views"] == 3


@pytest.mark.parametrize("name", ["taps", "pooling", "nonsense"])
def test_foreign_options(name):
    with pytest.raises(ValueError, match=f"extraction={{'{name}': ...}}: what is read.*can be chosen. Leave `{name}`"):
        checked({name: 1})  # type: ignore[typeddict-unknown-key]
