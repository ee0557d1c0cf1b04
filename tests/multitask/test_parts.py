from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from hf_transfer.multitask.parts import Part, parts_of, task_numbers


TOPIC = Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]})
STARS = Dataset.from_dict({"text": ["z"], "labels": [4.5]})
SEVERAL = Dataset.from_dict({"text": ["x", "y"], "category": [0, 1], "rating": [4.5, 1.0], "id": [7, 8]})
BY_NAME = Dataset.from_dict({"text": list("xyz"), "label": [0, 1, 2], "task": ["stars", "topic", "stars"]})
CANONICAL = Dataset.from_dict(
    {"text": ["x", "y"], "labels_a": [0, -100], "labels_b": [-100.0, 0.5], "task": [0, 1]},
)


def test_a_data_set_for_each_task():
    parts = parts_of({"topic": TOPIC, "stars": STARS}, None, None)
    assert [(part.task, dict(part.columns), part.inputs) for part in parts] == [
        ("topic", {"topic": "label"}, ["text"]),
        ("stars", {"stars": "labels"}, ["text"]),
    ]
    assert parts[1].where == "the data set of task `stars`" and not any(part.by_row for part in parts)


def test_the_tasks_give_the_order():
    assert [part.task for part in parts_of({"topic": TOPIC, "stars": STARS}, ["stars", "topic"], None)] == [
        "stars",
        "topic",
    ]
    (part,) = parts_of(SEVERAL, ["stars", "topic"], {"topic": "category", "stars": "rating"})
    assert list(part.columns.items()) == [("stars", "rating"), ("topic", "category")]


def test_a_label_column_of_its_own():
    own = TOPIC.rename_column("label", "labels_topic").add_column("labels", [3, 3])
    (part,) = parts_of({"topic": own}, None, None)
    assert part.columns == {"topic": "labels_topic"} and part.inputs == ["text"]
    (part,) = parts_of({"topic": SEVERAL}, None, {"topic": "category"})
    assert part.columns == {"topic": "category"} and part.inputs == ["text", "rating", "id"]


def test_one_data_set_with_a_column_for_each_task():
    (part,) = parts_of(SEVERAL, None, {"topic": "category", "stars": "rating"})
    assert dict(part.columns) == {"topic": "category", "stars": "rating"} and part.inputs == ["text", "id"]
    assert not part.by_row and not part.shares_column
    (part,) = parts_of(SEVERAL, None, ["category", "rating"])
    assert dict(part.columns) == {"category": "category", "rating": "rating"}
    (part,) = parts_of(SEVERAL, ["rating", "category"], None)
    assert list(part.columns) == ["rating", "category"]


def test_one_data_set_with_a_task_for_each_row():
    (part,) = parts_of(BY_NAME, None, None)
    assert dict(part.columns) == {"stars": "label", "topic": "label"} and part.inputs == ["text"]
    assert part.by_row and part.shares_column and part.named
    assert task_numbers(part, ["topic", "stars"]).tolist() == [1, 0, 1]


def test_what_was_mixed_before():
    (part,) = parts_of(CANONICAL, None, None)
    assert dict(part.columns) == {"a": "labels_a", "b": "labels_b"} and part.inputs == ["text"]
    assert part.by_row and not part.shares_column and not part.named
    assert task_numbers(part, ["a", "b"]).tolist() == [0, 1]


def test_names_of_tasks_as_classes():
    names = ClassLabel(names=["unused", "topic", "stars"])
    data = BY_NAME.remove_columns("task").add_column("task", [1, 2, 1]).cast_column("task", names)
    (part,) = parts_of(data, None, None)
    assert list(part.columns) == ["topic", "stars"]  # without the one that no row is of
    assert task_numbers(part, ["stars", "topic"]).tolist() == [1, 0, 1]


def test_the_same_part_of_other_rows():
    part = Part(TOPIC, {"topic": "label"}, task="topic")
    other = part.with_dataset(TOPIC.select([0]))
    assert len(other.dataset) == 1 and other.columns == part.columns and other.task == "topic"


# --- errors --------------------------------------------------------------------------------------------------------


def test_splits_streams_and_lists():
    with pytest.raises(TypeError, match="dictionary of splits .`train`.: each would become a task.*Pass one split"):
        parts_of(DatasetDict({"train": TOPIC}), None, None)
    with pytest.raises(TypeError, match="data of task `topic` is a IterableDataset.*drawn by number.*from_list"):
        parts_of({"topic": TOPIC.to_iterable_dataset()}, None, None)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="data of task `topic` is a DatasetDict"):
        parts_of({"topic": DatasetDict({"train": TOPIC})}, None, None)  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="mix_tasks got a list.*no rows to draw.*`datasets.Dataset`"):
        parts_of([TOPIC], None, None)  # type: ignore[arg-type]


def test_no_data_set_at_all():
    with pytest.raises(ValueError, match="no data set.*Pass"):
        parts_of({}, None, None)


def test_a_task_without_rows():
    with pytest.raises(ValueError, match="data set of task `stars` has no rows.*leave the task out"):
        parts_of({"topic": TOPIC, "stars": STARS.select([])}, None, None)
    with pytest.raises(ValueError, match="the data set has no rows"):
        parts_of(SEVERAL.select([]), None, ["category"])


def test_an_unknown_task_and_one_without_data():
    with pytest.raises(ValueError, match="data set for `stars`, which is none of the tasks `topic`.*Add the task"):
        parts_of({"topic": TOPIC, "stars": STARS}, ["topic"], None)
    with pytest.raises(ValueError, match="no data set for task `stars`.*as it was drawn"):
        parts_of({"topic": TOPIC}, ["topic", "stars"], None)
    with pytest.raises(ValueError, match="label column for `tpoic`, which is none of the tasks `topic`"):
        parts_of({"topic": TOPIC}, None, {"tpoic": "label"})
    with pytest.raises(ValueError, match="no label column for task `stars`"):
        parts_of(SEVERAL, ["topic", "stars"], {"topic": "category"})


def test_a_label_column_that_is_missing():
    with pytest.raises(ValueError, match="data set of task `topic` has no label column; its columns are `text`"):
        parts_of({"topic": TOPIC.remove_columns("label")}, None, None)
    with pytest.raises(ValueError, match="for task `stars` the data set has no column `stars`"):
        parts_of(SEVERAL, ["stars"], None)
    with pytest.raises(ValueError, match="which of them are labels of which task is unknown.*label_columns="):
        parts_of(SEVERAL, None, None)


def test_tasks_with_one_label_column():
    with pytest.raises(ValueError, match="tasks `a`, `b` have the same label column, `rating`.*column of its own"):
        parts_of(SEVERAL, None, {"a": "rating", "b": "rating", "c": "category"})


def test_numbers_without_names():
    data = BY_NAME.remove_columns("task").add_column("task", [0, 1, 0])
    with pytest.raises(ValueError, match="`task` holds numbers without names.*Pass `tasks="):
        parts_of(data, None, None)
    (part,) = parts_of(data, ["stars", "topic"], None)
    assert task_numbers(part, ["stars", "topic"]).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("values", "seen"), [([0, 2, 0], "2"), ([0, -1, 0], "-1"), ([0, None, 1], "null"), ([0.5, 1.0, 0.0], "no whole")]
)
def test_a_number_that_is_no_task(values, seen):
    data = Dataset.from_dict({"text": list("xyz"), "label": [0, 1, 2], "task": values})
    (part,) = parts_of(data, ["stars", "topic"], None)
    with pytest.raises(ValueError, match=f"`task` holds .*{seen}.*none of the tasks `stars`, `topic`.*from 0"):
        task_numbers(part, ["stars", "topic"])


def test_a_name_that_is_no_task():
    (part,) = parts_of(BY_NAME, ["topic", "news"], None)
    with pytest.raises(ValueError, match="`task` holds stars, which is none of the tasks `topic`, `news`"):
        task_numbers(part, ["topic", "news"])
    gap = BY_NAME.remove_columns("task").add_column("task", ["stars", None, "topic"])
    (part,) = parts_of(gap, None, None)
    with pytest.raises(ValueError, match="`task` holds null"):
        task_numbers(part, ["stars", "topic"])
