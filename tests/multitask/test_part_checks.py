from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, Image, LargeList, List, Value

from hf_transfer.multitask.part_checks import check_class_names, check_inputs
from hf_transfer.multitask.parts import Part
from hf_transfer.multitask.task import Task


NAMES = ("a", "b", "c")


def part(features: dict, task: str = "topic") -> Part:
    data = Dataset.from_dict({name: [] for name in features}, Features(features))
    return Part(data, {task: "label"}, task=task, where=f"the data of `{task}`")


TEXT = {"text": Value("string"), "length": Value("int64"), "label": Value("int64")}


@pytest.mark.parametrize(
    "other",
    [
        TEXT,
        {**TEXT, "text": Value("large_string"), "length": Value("int16")},
        {"label": Value("float32"), "length": Value("uint8"), "text": Value("string")},
    ],
)
def test_inputs_that_agree_up_to_widths_and_order(other):
    check_inputs(part(other, "stars"), part(TEXT))


def test_lists_that_agree():
    ids = {"input_ids": List(Value("int32")), "label": Value("int64")}
    check_inputs(part({**ids, "input_ids": LargeList(Value("int64"))}), part(ids))


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        ({"text": Value("string"), "label": Value("int64")}, "lacks `length` and has none besides"),
        ({**TEXT, "stars": Value("int64")}, "lacks none and has `stars` besides"),
        ({"tokens": List(Value("string")), "label": Value("int64")}, "lacks `text`, `length` and has `tokens`"),
    ],
)
def test_other_columns(other, seen):
    with pytest.raises(ValueError, match=f"data of `stars` has other input columns.*{seen}.*`processor=`"):
        check_inputs(part(other, "stars"), part(TEXT))


@pytest.mark.parametrize("feature", [Value("float32"), Value("string"), List(Value("int64")), Image()])
def test_other_types(feature):
    with pytest.raises(ValueError, match="`length` of the data of `stars` is .*the same type.*cast_column"):
        check_inputs(part({**TEXT, "length": feature}, "stars"), part(TEXT))


def test_nothing_to_read():
    alone = part({"label": Value("int64")})
    with pytest.raises(ValueError, match="data of `topic` has labels and no inputs.*nothing to read"):
        check_inputs(alone, alone)


def named(names, kind: str = "classification") -> Part:
    feature = ClassLabel(names=list(names))
    return part({"text": Value("string"), "label": List(feature) if kind == "tokens" else feature})


@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_names_of_classes(kind):
    check_class_names(Task("topic", kind, label_names=NAMES), named(NAMES, kind), "label")
    check_class_names(Task("topic", kind, num_labels=3), named(NAMES, kind), "label")
    check_class_names(Task("topic", kind, label_names=NAMES), part(TEXT), "label")
    with pytest.raises(ValueError, match="classes `a`, `b`, `c`, and .* `a`, `c`, `b`: .*another class.*ClassLabel"):
        check_class_names(Task("topic", kind, label_names=NAMES), named("acb", kind), "label")
    with pytest.raises(ValueError, match="num_labels=4, and .* has 3 classes: the head would not fit"):
        check_class_names(Task("topic", kind, num_labels=4), named(NAMES, kind), "label")


def test_names_do_not_matter_to_a_regression():
    check_class_names(Task("topic", "regression"), named(NAMES), "label")
