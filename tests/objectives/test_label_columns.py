"""Label columns of the training data: read without the inputs, and refused where a task cannot learn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_transfer import Task
from hf_transfer.objectives.multitask.label_columns import check_label_columns
from tests.objectives.task_rows import EVERY, STARS, TAGS, TOPIC, WORDS


GOOD = {
    "labels_topic": [0, -100, 3, -100],
    "labels_stars": [-100.0, 2.5, -100.0, -100.0],
    "labels_tags": [[1.0, 0.0, 1.0], [-100.0] * 3, [-100.0] * 3, [0.0, 0.0, -100.0]],
    "labels_words": [[-100, 4], [0], [], [-100, -100, -100]],
    "task": [0, 1, 2, 3],
}


class Loader:
    """A data loader over a data set whose inputs must not be read."""

    def __init__(self, columns):
        self.dataset = Dataset.from_dict({**columns, "text": ["a"] * len(columns["labels_topic"])})

    def __iter__(self):
        raise AssertionError("the inputs were read")


def padded(columns):
    """Collated batches of two rows."""
    found = {}
    for name, column in columns.items():
        if name == "labels_words":
            column = [[*row, *[-100] * (3 - len(row))] for row in column]
        found[name] = torch.tensor(column)
    return [{name: x[start : start + 2] for name, x in found.items()} for start in (0, 2)]


FORMS = {"data set": Loader, "batches": padded}
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
def test_good_data(form):
    check_label_columns(EVERY, FORMS[form](GOOD))
    without = {name: column for name, column in GOOD.items() if name != "task"}  # rows labelled for several tasks
    check_label_columns(EVERY, FORMS[form](without))


def test_a_transform_is_not_run():
    loader = Loader(GOOD)
    loader.dataset.set_transform(lambda rows: 1 / 0)
    check_label_columns(EVERY, loader)


def test_many_pieces(monkeypatch):
    monkeypatch.setattr("hf_transfer.objectives.multitask.label_columns.CHUNK", 1)
    check_label_columns(EVERY, Loader(GOOD))
    rows = Loader({**GOOD, "labels_topic": [0, -100, 7, -100]})
    with pytest.raises(ValueError, match="holds 7"):
        check_label_columns(EVERY, rows)


def test_fixed_lists_and_numpy_batches():
    from datasets import Features, List, Value

    features = Features({"labels_tags": List(Value("float32"), length=3), "labels_topic": Value("int64")})
    dataset = Dataset.from_dict({name: GOOD[name] for name in features}, features=features)
    check_label_columns([TOPIC, TAGS], DataLoader(dataset))
    check_label_columns([TOPIC], [{"labels_topic": np.array([1, -100])}])


def test_a_sliced_data_set_is_read_as_sliced():
    loader = Loader(GOOD)
    loader.dataset = loader.dataset.select(range(2))
    check_label_columns([TOPIC, STARS, TAGS, WORDS], loader)
    loader.dataset = loader.dataset.select(range(1, 2))
    with pytest.raises(ValueError, match="`topic` has no labelled row"):
        check_label_columns(EVERY, loader)


WRONG = [
    ("labels_topic", [0, -100, 4, -100], r"`labels_topic` holds 4,.*`topic` \(classification, 4 outputs\).*0 to 3"),
    ("labels_topic", [0, -1, 3, -100], "`labels_topic` holds -1"),
    ("labels_stars", [-100.0, float("nan"), 1.0, 2.0], "`labels_stars` holds nan.*Give finite numbers"),
    ("labels_tags", [[1.0, 0.5, 1.0], *GOOD["labels_tags"][1:]], "`labels_tags` holds 0.5.*0 or 1 for every class"),
    ("labels_words", [[-100, 5], [0], [], [1]], r"`labels_words` holds 5.*numbers from 0 to 4"),
    ("labels_words", [[-100], [-100], [], [-100]], "Task `words` has no labelled row.*leave it out"),
    ("labels_stars", [-100.0] * 4, "Task `stars` has no labelled row.*`labels_stars` holds labels beside -100"),
    ("task", [0, 1, 2, 4], "column `task` holds 4, which is none of 0 = `topic`, 1 = `stars`.*`mix_tasks"),
    ("task", [0, -1, 2, 3], "column `task` holds -1"),
]


@every_form
@pytest.mark.parametrize(("name", "column", "message"), WRONG)
def test_refuses(form, name, column, message):
    with pytest.raises(ValueError, match=message):
        check_label_columns(EVERY, FORMS[form]({**GOOD, name: column}))


def test_refuses_a_missing_column():
    tasks = [TOPIC, Task("mood", num_labels=2)]
    message = "needs column `labels_mood` for task `mood`; the batch has labels_topic, text.*`mix_tasks"
    with pytest.raises(ValueError, match=message):
        check_label_columns(tasks, [{"labels_topic": torch.tensor([1]), "text": ["a"]}])
    with pytest.raises(ValueError, match="the batch has none of any task"):
        check_label_columns(tasks, [{}])
