from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value, load_from_disk

from hf_transfer.multitask.parts import parts_of
from hf_transfer.multitask.tables import mix_parts
from hf_transfer.multitask.task import Task


TOPIC = Task("topic", label_names=("a", "b", "c"))
STARS = Task("stars", "regression")
NER = Task("ner", "tokens", num_labels=5)
TAGS = Task("tags", "multi_label", num_labels=2)
TOPICS = Dataset.from_dict({"text": ["t0", "t1", "t2", "t3"], "label": [0, 1, 2, 1]})
RATINGS = Dataset.from_dict({"text": ["s0", "s1"], "label": [4.5, -1.0]})


def mixed(datasets, *tasks: Task, label_columns=None) -> Dataset:
    return mix_parts(parts_of(datasets, [task.name for task in tasks], label_columns), tasks)


def test_a_data_set_for_each_task():
    data = mixed({"topic": TOPICS, "stars": RATINGS}, TOPIC, STARS)
    assert data.to_dict() == {
        "text": ["t0", "t1", "t2", "t3", "s0", "s1"],
        "labels_topic": [0, 1, 2, 1, -100, -100],
        "labels_stars": [-100.0, -100.0, -100.0, -100.0, 4.5, -1.0],
        "task": [0, 0, 0, 0, 1, 1],
    }
    assert data.features == Features(
        {
            "text": Value("string"),
            "labels_topic": ClassLabel(names=["a", "b", "c"]),
            "labels_stars": Value("float32"),
            "task": Value("int64"),
        }
    )


def test_the_numbers_are_those_of_the_tasks():
    data = mixed({"topic": TOPICS, "stars": RATINGS}, STARS, TOPIC)
    assert data["task"][:] == [0, 0, 1, 1, 1, 1] and data["text"][:] == ["s0", "s1", "t0", "t1", "t2", "t3"]


def test_a_column_for_each_task():
    data = Dataset.from_dict({"text": ["x", "y", "z"], "category": [0, None, 2], "rating": [None, 2.5, -100.0]})
    both = mixed(data, TOPIC, STARS, label_columns={"topic": "category", "stars": "rating"})
    assert both.to_dict() == {
        "text": ["x", "y", "z"],
        "labels_topic": [0, -100, 2],
        "labels_stars": [-100.0, 2.5, -100.0],
    }


def test_a_task_for_each_row():
    data = Dataset.from_dict({"text": ["x", "y", "z"], "label": [2, 4, 0], "task": ["topic", "stars", "topic"]})
    assert mixed(data, TOPIC, STARS).to_dict() == {
        "text": ["x", "y", "z"],
        "labels_topic": [2, -100, 0],
        "labels_stars": [-100.0, 4.0, -100.0],  # 4 is no class of the topic, and not asked to be one
        "task": [0, 1, 0],
    }


def test_what_was_mixed_mixes_to_itself():
    once = mixed({"topic": TOPICS, "stars": RATINGS}, TOPIC, STARS)
    twice = mixed(once, TOPIC, STARS)
    assert twice.to_dict() == once.to_dict() and twice.features == once.features


def test_tokens_of_other_tasks_have_lists_of_their_length():
    words = Dataset.from_dict({"input_ids": [[1, 2, 3], [4]], "labels": [[0, 4, -100], [1]]})
    texts = Dataset.from_dict({"input_ids": [[5, 6], [7, 8, 9]], "label": [1, 0]})
    several = Dataset.from_dict({"input_ids": [[5]], "label": [[0, 1]]})
    data = mixed({"ner": words, "topic": texts, "tags": several}, NER, TOPIC, TAGS)
    assert data["labels_ner"][:] == [[0, 4, -100], [1], [-100] * 2, [-100] * 3, [-100]]
    assert data["labels_tags"][:] == [[-100.0] * 2] * 4 + [[0.0, 1.0]]


@pytest.mark.parametrize("how", ["select", "slice", "shuffle", "filter", "disk"])
def test_rows_behind_indices(how, tmp_path):
    topics = TOPICS
    if how == "select":
        topics = topics.select([3, 0])
    elif how == "slice":
        topics = topics.select(range(1, 3))
    elif how == "shuffle":
        topics = topics.shuffle(seed=1)
    elif how == "filter":
        topics = topics.filter(lambda row: row["text"] != "t1")
    elif how == "disk":
        topics.save_to_disk(tmp_path)
        topics = load_from_disk(tmp_path)
    data = mixed({"topic": topics, "stars": RATINGS}, TOPIC, STARS)
    assert (
        data["text"][: len(topics)] == topics["text"][:] and data["labels_topic"][: len(topics)] == topics["label"][:]
    )
    assert data["labels_stars"][:] == [-100.0] * len(topics) + [4.5, -1.0]
    last = data.shuffle(seed=2)[0]
    original = {row["text"]: row["label"] for row in [*TOPICS, *RATINGS]}
    assert last["labels_topic" if last["task"] == 0 else "labels_stars"] == original[last["text"]]


def test_inputs_of_other_widths_become_those_of_the_first():
    short = RATINGS.add_column("length", [1, 2]).cast_column("length", Value("int16"))
    long = TOPICS.add_column("length", [1, 2, 3, 4])
    data = mixed({"topic": long, "stars": short.cast_column("text", Value("large_string"))}, TOPIC, STARS)
    assert data.features["length"] == Value("int64") and data.features["text"] == Value("string")
    assert data["length"][:] == [1, 2, 3, 4, 1, 2]


def test_the_order_of_columns_does_not_matter():
    data = mixed({"topic": TOPICS, "stars": RATINGS.select_columns(["label", "text"])}, TOPIC, STARS)
    assert data["text"][4:] == ["s0", "s1"]


def test_images_stay_encoded(tmp_path):
    from PIL import Image as PIL

    PIL.new("RGB", (2, 2)).save(tmp_path / "black.png")
    features = Features({"image": Image(), "label": Value("int64")})
    one = Dataset.from_dict({"image": [str(tmp_path / "black.png")] * 2, "label": [0, 1]}, features)
    data = mixed({"topic": one, "other": one}, TOPIC, Task("other", num_labels=2))
    assert data.features["image"] == Image() and data[3]["image"].size == (2, 2)
    assert data.data.column("image").to_pylist() == one.data.column("image").to_pylist() * 2


def test_the_inputs_are_left_alone():
    mixed({"topic": TOPICS, "stars": RATINGS}, TOPIC, STARS)
    assert TOPICS.column_names == ["text", "label"] and TOPICS["label"][:] == [0, 1, 2, 1]


def test_other_labels_have_another_fingerprint():
    def fingerprint(labels):
        rows = {"text": [str(number) for number in range(100)], "label": labels}
        base = Dataset.from_dict(rows)
        base._fingerprint = "same"
        return mixed({"topic": base}, TOPIC)._fingerprint

    middle = [0] * 50 + [1] + [0] * 49  # far from what a printed array shows
    assert fingerprint([0] * 100) != fingerprint(middle) and fingerprint(middle) == fingerprint(list(middle))

    def of_tokens(labels):
        base = Dataset.from_dict({"input_ids": [[1, 2], [3]], "label": labels})
        base._fingerprint = "same"
        return mixed({"ner": base}, NER)._fingerprint

    assert of_tokens([[1, 2], [3]]) != of_tokens([[1, 3], [3]])


# --- errors --------------------------------------------------------------------------------------------------------


def test_a_task_without_a_label():
    data = Dataset.from_dict({"text": ["x"], "topic": [0], "stars": [None]})
    with pytest.raises(ValueError, match="Task `stars` has no labelled row.*leave the task out"):
        mixed(data, TOPIC, STARS)
    masked = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]]})
    with pytest.raises(ValueError, match="Task `ner` has no labelled row"):
        mixed({"ner": masked}, NER)


def test_a_named_task_without_a_row():
    data = Dataset.from_dict({"text": ["x"], "label": [0], "task": ["topic"]})
    with pytest.raises(ValueError, match="Task `stars` has no row in the training set"):
        mixed(data, TOPIC, STARS)


def test_a_label_out_of_range_names_the_data_set():
    with pytest.raises(ValueError, match="data set of task `small` holds the labels `2` of task `small`"):
        mixed({"small": TOPICS}, Task("small", num_labels=2))


def test_other_names_of_classes_and_other_inputs():
    named = TOPICS.cast_column("label", ClassLabel(names=["a", "c", "b"]))
    with pytest.raises(ValueError, match="the same number would mean another class"):
        mixed({"topic": named}, TOPIC)
    with pytest.raises(ValueError, match="data set of task `stars` has other input columns"):
        mixed({"topic": TOPICS, "stars": RATINGS.rename_column("text", "review")}, TOPIC, STARS)


def test_labels_of_tokens_that_do_not_fit():
    words = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[0, 4]]})
    with pytest.raises(ValueError, match="2 labels of task `ner` and 3 tokens"):
        mixed({"ner": words}, NER)
    whole = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[0, 4, 1]]})
    assert mixed({"ner": whole}, NER).features["labels_ner"] == List(Value("int64"))
