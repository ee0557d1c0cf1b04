"""Labels by name and number."""

from __future__ import annotations

import pytest

from hf_transfer import ModelSpec
from hf_transfer.rules.labels import label_number
from tests.models import lora, tiny_bert


NAMES = {"label2id": {"cat": 0, "dog": 1, "animal": 2}, "id2label": {0: "cat", 1: "dog", 2: "animal"}}


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lora(model, ["query"], "classifier")])
def test_names_and_numbers(wrap):
    spec = ModelSpec(feature_dim=16, num_labels=3, model=wrap(tiny_bert(**NAMES)))
    assert [label_number(label, spec, rule="r") for label in ("cat", "animal", 1)] == [0, 2, 1]


def test_an_unknown_name():
    spec = ModelSpec(feature_dim=16, num_labels=3, model=tiny_bert(**NAMES))
    with pytest.raises(ValueError, match="Rule `r` speaks of label 'cow'; .* are cat, dog, animal.*Give one of these"):
        label_number("cow", spec, rule="r")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_number_out_of_range(label):
    with pytest.raises(ValueError, match=f"label {label}; the model has 3.*could not be evaluated.*from 0 to 2"):
        label_number(label, ModelSpec(feature_dim=16, num_labels=3), rule="r")
