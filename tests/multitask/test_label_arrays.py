from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Features, LargeList, List, Value

from hf_transfer.multitask.label_arrays import is_list, label_array, label_feature
from hf_transfer.multitask.task import Task


TOPIC = Task("topic", num_labels=3)
NAMED = Task("topic", label_names=("a", "b", "c"))
STARS = Task("stars", "regression")
POINT = Task("point", "regression", num_labels=2)
TAGS = Task("tags", "multi_label", num_labels=2)
NER = Task("ner", "tokens", num_labels=4)


def column(values: list, type: pa.DataType | None = None) -> pa.ChunkedArray:
    """In chunks, as tables of several files are."""
    half = len(values) // 2
    whole = pa.array(values, type)
    return pa.chunked_array([whole[:half], whole[half:]])


def labels(task: Task, values: list, type: pa.DataType | None = None, **options) -> list:
    array = label_array(task, column(values, type), rows=len(values), **options)
    assert array.type == Features({"x": label_feature(task)}).arrow_schema.field("x").type
    assert array.null_count == 0
    return array.to_pylist()


def test_features():
    assert label_feature(NAMED) == ClassLabel(names=["a", "b", "c"])
    assert label_feature(TOPIC) == Value("int64")
    assert label_feature(STARS) == Value("float32")
    assert label_feature(POINT) == label_feature(TAGS) == List(Value("float32"))
    assert label_feature(NER) == List(Value("int64"))
    assert label_feature(Task("ner", "tokens", label_names=("O", "B"))) == List(ClassLabel(names=["O", "B"]))


def test_is_list():
    assert is_list(List(Value("int64"))) and is_list(LargeList(Value("int64")))
    assert not is_list(Value("string")) and not is_list(ClassLabel(names=["a", "b"]))


def test_classes():
    assert labels(TOPIC, [2, None, 0, -100]) == [2, -100, 0, -100]
    assert labels(TOPIC, [2, 1], pa.int8()) == [2, 1]
    assert labels(TOPIC, [2.0, None, 1.0]) == [2, -100, 1]  # a column of numbers with gaps, as a CSV file gives it
    assert labels(Task("t", num_labels=2), [True, None, False]) == [1, -100, 0]
    assert labels(NAMED, [1, 0]) == [1, 0]


def test_values():
    assert labels(STARS, [1.5, None, -100.0, -3.0]) == [1.5, -100.0, -100.0, -3.0]
    assert labels(STARS, [1, 5]) == [1.0, 5.0]
    assert labels(POINT, [[0.5, 1.5], None, [None, 2.0]]) == [[0.5, 1.5], [-100.0, -100.0], [-100.0, 2.0]]


def test_several_labels():
    assert labels(TAGS, [[0, 1], None, [1, -100]]) == [[0.0, 1.0], [-100.0, -100.0], [1.0, -100.0]]
    assert labels(TAGS, [[True, False], [False, None]]) == [[1.0, 0.0], [0.0, -100.0]]


def test_tokens():
    lengths = np.array([2, 3, 1])
    assert labels(NER, [[0, 3], None, [-100]], lengths=lengths) == [[0, 3], [-100] * 3, [-100]]
    assert labels(NER, [[0, 3], None, [1, 2, 0]]) == [[0, 3], [], [1, 2, 0]]  # nothing tells the number of tokens
    assert labels(NER, [[0, 3], [1], []], pa.large_list(pa.int8())) == [[0, 3], [1], []]
    assert labels(NER, [[0, 3], [1, None]], pa.list_(pa.uint8())) == [[0, 3], [1, -100]]


def test_rows_of_another_task():
    kept = np.array([True, False, True, False])
    assert labels(TOPIC, [2, 9, None, 7], kept=kept) == [2, -100, -100, -100]
    assert labels(STARS, [0.5, float("nan"), 1.0, 2.0], kept=kept) == [0.5, -100.0, 1.0, -100.0]
    given = [[0, 1], [7, 7, 7], None, [5]]
    assert labels(TAGS, given, kept=kept) == [[0.0, 1.0], [-100.0] * 2, [-100.0] * 2, [-100.0] * 2]
    assert labels(NER, given, kept=kept, lengths=np.array([2, 3, 1, 4])) == [[0, 1], [-100] * 3, [-100], [-100] * 4]


@pytest.mark.parametrize("values", [None, pa.chunked_array([pa.nulls(3)])])
def test_no_labels_at_all(values):
    def of(task, **options):
        return label_array(task, values, rows=3, **options).to_pylist()

    assert of(TOPIC) == [-100] * 3 and of(STARS) == [-100.0] * 3
    assert of(TAGS) == of(POINT) == [[-100.0, -100.0]] * 3
    assert of(NER, lengths=np.array([1, 0, 2])) == [[-100], [], [-100, -100]]
    assert of(NER) == [[], [], []]


def test_lengths_are_left_as_they_are():
    lengths = np.array([2, 3])
    label_array(NER, column([[1, 2], None]), rows=2, lengths=lengths)
    assert lengths.tolist() == [2, 3]


@pytest.mark.parametrize("seed", range(4))
def test_against_a_loop_over_rows(seed):
    random = np.random.default_rng(seed)
    rows = 50
    lengths = random.integers(1, 6, rows)
    given = [random.integers(0, 4, length).tolist() if random.random() < 0.8 else None for length in lengths]
    kept = random.random(rows) < 0.6
    expected = [
        list(values) if values is not None and keep else [-100] * int(length)
        for values, keep, length in zip(given, kept, lengths, strict=True)
    ]
    assert labels(NER, given, kept=kept, lengths=lengths) == expected


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "wrong"), [([0, 3], "`3`"), ([-1, 0], "`-1`"), ([0.5, 1.0], "`0.5`")])
def test_what_is_no_class(values, wrong):
    with pytest.raises(ValueError, match=f"reviews holds the labels {wrong} of task `topic`.*class of 0 to 2.*-100"):
        labels(TOPIC, values, where="reviews")


def test_what_is_no_class_of_a_token_or_no_yes_or_no():
    with pytest.raises(ValueError, match="holds the labels `4` of task `ner`.*class of 0 to 3"):
        labels(NER, [[0, 4], [1]])
    with pytest.raises(ValueError, match="holds the labels `2` of task `tags`.*0 or 1 for each class"):
        labels(TAGS, [[0, 2], [1, 1]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers(value):
    with pytest.raises(ValueError, match="task `stars` in the data set hold values that are no finite.*-100 or null"):
        labels(STARS, [1.0, value])


def test_rows_of_another_width():
    with pytest.raises(ValueError, match="row with 3 labels of task `tags` and 2 outputs.*one label for each"):
        labels(TAGS, [[0, 1], [0, 1, 1]])
    with pytest.raises(ValueError, match="row with 2 labels of task `ner` and 3 tokens.*which label belongs"):
        labels(NER, [[0, 1], [0, 1]], lengths=np.array([2, 3]))


@pytest.mark.parametrize(
    ("task", "values"),
    [(TOPIC, ["a", "b"]), (NER, [["a"], ["b", None]]), (TAGS, [["a", "b"]] * 2)],
)
def test_labels_that_are_text(task, values):
    with pytest.raises(ValueError, match=f"labels of task `{task.name}` in the data set are .*class_encode_column"):
        labels(task, values)
