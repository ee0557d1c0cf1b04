from __future__ import annotations

import pickle

import pytest

from hf_transfer.data.transforms import DomainTransform
from hf_transfer.multitask.transforms import TaskTransform, TaskTransforms


COLUMNS = ("labels_topic", "labels_ner")


def upper(batch):
    return {**batch, "text": [text.upper() for text in batch["text"]]}


def batch(**columns):
    labels = {"labels_topic": [2, -100, -100], "labels_ner": [[-100], [3], [1]], "task": [0, 1, 1]}
    return {"text": ["x", "y", "z"], **labels, **columns}


def transforms(*functions, columns=("text",), **options) -> TaskTransforms:
    one = [None if function is None else DomainTransform(function, columns, **options) for function in functions]
    return TaskTransforms([TaskTransform(transform) for transform in one], COLUMNS)


def test_every_row_by_the_transform_of_its_task():
    assert transforms(None, upper)(batch()) == batch(text=["x", "Y", "Z"])
    assert transforms(upper, None)(batch()) == batch(text=["X", "y", "z"])


def test_one_transform_is_for_all_rows_also_without_a_column_of_tasks():
    given = {name: values for name, values in batch().items() if name != "task"}
    assert transforms(upper)(given) == {**given, "text": ["X", "Y", "Z"]}


def test_labels_do_not_reach_a_transform_of_several_tasks():
    seen = []

    def look(rows):
        seen.append(set(rows))
        return rows

    assert transforms(look, look, columns=("text", *COLUMNS, "task"))(batch()) == batch()
    assert seen == [{"text"}, {"text"}]


def test_a_transform_is_given_the_labels_of_its_task_under_their_old_name():
    def align(rows):
        assert set(rows) == {"text", "tags"}
        return {"input_ids": [[1, 1]] * len(rows["text"]), "tags": [[*tags, -100] for tags in rows["tags"]]}

    def plain(rows):
        return {"input_ids": [[2]] * len(rows["text"])}

    both = TaskTransforms(
        [
            TaskTransform(DomainTransform(plain, ("text",)), "label", "labels_topic"),
            TaskTransform(DomainTransform(align, ("text", "tags")), "tags", "labels_ner"),
        ],
        COLUMNS,
    )
    expected = batch(labels_ner=[[-100], [3, -100], [1, -100]], input_ids=[[2], [1, 1], [1, 1]])
    del expected["text"]
    assert both(batch()) == expected


def test_labels_may_come_back_under_another_name():
    def rename(rows):
        return {"text": rows["text"], "labels": [value + 1 for value in rows["label"]]}

    transform = TaskTransform(DomainTransform(rename, ("text", "label")), "label", "labels_topic")
    one = TaskTransforms([transform, TaskTransform(None)], COLUMNS)
    assert one(batch()) == batch(labels_topic=[3, -100, -100])


def test_columns_that_the_transform_does_not_get():
    given = batch(id=[7, 8, 9])
    with_all = transforms(upper, upper, output_all_columns=True)(given)
    assert with_all["id"] == [7, 8, 9] and with_all["text"] == ["X", "Y", "Z"]
    assert "id" not in transforms(upper, upper)(given)


def test_only_labels_were_read():
    def refuse(rows):
        raise AssertionError("inputs were decoded")

    assert transforms(refuse, refuse)({"task": [0, 1]}) == {"task": [0, 1]}
    assert transforms(refuse, refuse)({"labels_topic": [1]}) == {"labels_topic": [1]}


def test_travels_to_the_workers_of_a_loader():
    assert pickle.loads(pickle.dumps(transforms(upper, None)))(batch())["text"] == ["X", "y", "z"]


def test_transforms_of_different_columns():
    with pytest.raises(ValueError, match="two tasks give different columns: .*`words`.*task 1.*the same columns"):
        transforms(upper, lambda rows: {"words": rows["text"]})(batch())


def test_a_transform_that_drops_rows():
    with pytest.raises(ValueError, match="1 values of `text` out of 2 rows.*no longer belong.*one value per row"):
        transforms(None, lambda rows: {"text": rows["text"][:1]})(batch())
