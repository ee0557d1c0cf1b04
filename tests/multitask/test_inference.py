from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_transfer.multitask.inference import infer_tasks
from hf_transfer.multitask.mixing import mix_tasks
from hf_transfer.multitask.task import Task


NAMES = ("a", "b", "c")


def of(values: list, feature=None, **inputs) -> Task:
    """The task of one label column."""
    data = Dataset.from_dict({"text": ["x"] * len(values), **inputs, "labels_t": values})
    if feature is not None:
        data = data.cast_column("labels_t", feature)
    (task,) = infer_tasks(data)
    return task


def test_classes_with_names():
    assert of([0, 2, 1], ClassLabel(names=list(NAMES))) == Task("t", label_names=NAMES)
    assert of([0, 0, None], ClassLabel(names=list(NAMES))) == Task("t", label_names=NAMES)


def test_classes_without_names():
    assert of([0, 4, -100, None]) == Task("t", num_labels=5)
    assert of([0, 0]) == Task("t", num_labels=2)
    assert of([True, False]) == Task("t", num_labels=2)


def test_values():
    assert of([0.5, 2.0, None]) == Task("t", "regression")
    assert of([0.0, 1.0]) == Task("t", "regression")


def test_tokens():
    ids = [[1, 2], [3], [4, 5, 6]]
    assert of([[0, 3], [1], [0, 0, -100]], input_ids=ids) == Task("t", "tokens", num_labels=4)
    named = of([[0, 2], [1], [0, 0, 1]], List(ClassLabel(names=list(NAMES))), input_ids=ids)
    assert named == Task("t", "tokens", label_names=NAMES)
    assert of([[0, 3], [1]], tokens=[["x", "y"], ["z"]]).kind == "tokens"


def test_several_labels_and_several_values():
    ids = [[1, 2], [3]]
    assert of([[0, 1, 1], [1, 0, 0]], input_ids=ids) == Task("t", "multi_label", num_labels=3)
    assert of([[0.0, 1.0], None]) == Task("t", "multi_label", num_labels=2)
    assert of([[0.0, 1.0], [-100.0, -100.0]]) == Task("t", "multi_label", num_labels=2)
    assert of([[0.5, 1.0], [2.0, 0.0]]) == Task("t", "regression", num_labels=2)


def test_a_data_set_for_each_task_in_their_order():
    stars = Dataset.from_dict({"text": ["x"], "label": [4.5]})
    topic = Dataset.from_dict({"text": ["x"], "category": [2]})
    tasks = infer_tasks({"stars": stars, "topic": topic}, label_columns={"topic": "category"})
    assert tasks == (Task("stars", "regression"), Task("topic", num_labels=3))


def test_rows_of_named_tasks_in_one_column():
    data = Dataset.from_dict({"text": list("wxyz"), "label": [0, 5, 1, 2], "task": ["b", "a", "b", "a"]})
    assert infer_tasks(data) == (Task("a", num_labels=6), Task("b", num_labels=2))
    numbered = data.cast_column("task", Value("string")).class_encode_column("task")
    assert infer_tasks(numbered) == infer_tasks(data)


def test_what_was_mixed_tells_its_tasks():
    tasks = (
        Task("topic", label_names=NAMES),
        Task("stars", "regression"),
        Task("tags", "multi_label", num_labels=2),
        Task("ner", "tokens", num_labels=5),
        Task("point", "regression", num_labels=2),
    )
    values = {"topic": [0, 2], "stars": [0.5, 1.5], "tags": [[0, 1], [1, 1]], "ner": [[0, 4], [1]]}
    values["point"] = [[0.5, 0.0], [1.0, 2.0]]
    parts = {name: Dataset.from_dict({"input_ids": [[1, 2], [3]], "label": value}) for name, value in values.items()}
    parts["topic"] = parts["topic"].cast_column("label", ClassLabel(names=list(NAMES)))
    assert infer_tasks(mix_tasks(parts, tasks)) == tasks == infer_tasks(parts)


# --- errors --------------------------------------------------------------------------------------------------------


def test_labels_that_are_text():
    with pytest.raises(ValueError, match=r"task `t` .* \(column `labels_t`\) are Value.*class_encode_column"):
        of(["a", "b"])
    with pytest.raises(ValueError, match="needs numbers"):
        of([["a"], ["b"]])


@pytest.mark.parametrize("values", [[None, None], [-100, -100]])
def test_no_label_at_all(values):
    with pytest.raises(ValueError, match="Task `t` has no labelled row.*nothing to learn.*leave the task out"):
        of(values, Value("int64"))


def test_lists_that_go_with_nothing():
    with pytest.raises(ValueError, match="lists of 1 to 3 that go with no list of tokens.*0 or 1 for each class"):
        of([[0, 1, 2], [1]], input_ids=[[1], [2, 3]])


def test_nested_lists():
    features = Features({"text": Value("string"), "labels_t": List(List(Value("int64")))})
    data = Dataset.from_dict({"text": ["x"], "labels_t": [[[1]]]}, features)
    with pytest.raises(ValueError, match="needs numbers"):
        infer_tasks(data)
