"""Rows of a head by the names of the classes."""

from __future__ import annotations

import pytest
from transformers import BertConfig

from hf_transfer.features import fit_probe
from hf_transfer.features.probes.head_names import name_classes, order_of
from tests.features.probes.data import blobs, several, values


def probe_of(names=("ant", "bee", "fly"), data=blobs, **options):
    return fit_probe(*data(), label_names=names, **{"kind": "ridge", "strengths": [1.0], **options})


def config_of(names=("LABEL_0", "LABEL_1", "LABEL_2"), **options):
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    return BertConfig(**labels, **options)


def test_the_order_is_that_of_the_model():
    assert order_of(probe_of(), 3, config_of(("fly", "ant", "bee"))).tolist() == [1, 2, 0]
    assert order_of(probe_of(), 3, config_of(("FLY", "Ant", "BEE"))).tolist() == [1, 2, 0]


def test_upper_and_lower_case_can_be_two_classes():
    assert order_of(probe_of(("a", "A", "b")), 3, config_of(("A", "b", "a"))).tolist() == [2, 0, 1]


@pytest.mark.parametrize("config", [None, config_of()])
def test_by_number_without_names(config):
    assert order_of(probe_of(), 3, config).tolist() == [0, 1, 2]
    assert order_of(probe_of(None), 5, config).tolist() == [0, 1, 2]


def test_a_model_with_names_and_a_probe_without():
    assert order_of(probe_of(None), 3, config_of(("x", "y", "z"))).tolist() == [0, 1, 2]


def test_other_names():
    with pytest.raises(ValueError, match="model are x, y, z, those of the probe ant, bee, fly.*`id2label=`"):
        order_of(probe_of(), 3, config_of(("x", "y", "z")))


@pytest.mark.parametrize("outputs", [2, 4])
def test_another_number_of_classes(outputs):
    with pytest.raises(ValueError, match=f"head of the model has {outputs} outputs, the probe 3.*`num_labels=3`"):
        order_of(probe_of(), outputs, None)


def test_too_few_outputs_without_names():
    with pytest.raises(ValueError, match="has 2 outputs, the probe 3"):
        order_of(probe_of(None), 2, None)


def test_another_kind_of_labels():
    with pytest.raises(ValueError, match="`problem_type` is regression, the probe is for multi_label_classification"):
        order_of(probe_of(None, several), 3, config_of(problem_type="regression"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [(blobs, "single_label_classification"), (several, "multi_label_classification"), (values, "regression")],
)
def test_a_configuration_that_says_nothing_is_told(data, problem):
    config = config_of()
    name_classes(probe_of(None, data), 3, config)
    assert config.problem_type == problem and config.id2label[0] == "LABEL_0"


def test_placeholders_are_replaced():
    config = config_of()
    name_classes(probe_of(), 3, config)
    assert config.id2label == {0: "ant", 1: "bee", 2: "fly"} and config.label2id["bee"] == 1


def test_names_are_kept():
    config = config_of(("fly", "ant", "bee"), problem_type="single_label_classification")
    name_classes(probe_of(), 3, config)
    assert config.id2label == {0: "fly", 1: "ant", 2: "bee"}
    name_classes(probe_of(), 3, None)
