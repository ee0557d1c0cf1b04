from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate
from transformers import DataCollatorWithPadding

from hf_transfer.multitask.collator import TaskCollator
from hf_transfer.multitask.task import Task
from tests.models import tiny_bert, tiny_llama, tiny_token_bert
from tests.multitask.words import word_tokenizer


TOPIC = Task("topic", num_labels=4)
STARS = Task("stars", "regression")
POINT = Task("point", "regression", num_labels=2)
TAGS = Task("tags", "multi_label", num_labels=3)
NER = Task("ner", "tokens", num_labels=5)
ALL = [TOPIC, STARS, POINT, TAGS, NER]


def row(length: int, **labels) -> dict:
    absent = {
        "labels_topic": -100,
        "labels_stars": -100.0,
        "labels_point": [-100.0] * 2,
        "labels_tags": [-100.0] * 3,
        "labels_ner": [-100] * length,
    }
    ids = list(range(1, length + 1))
    return {"input_ids": ids, "attention_mask": [1] * length, **absent, **labels}


ROWS = [
    row(2, labels_topic=3, task=0),
    row(4, labels_stars=2.5, labels_point=[1.0, -1.0], task=1),
    row(3, labels_tags=[1.0, 0.0, -100.0], labels_ner=[4, -100, 2], task=4),
]


def padding(side: str = "right") -> DataCollatorWithPadding:
    tokenizer = word_tokenizer()
    tokenizer.padding_side = side
    return DataCollatorWithPadding(tokenizer)


def by_hand(rows: list[dict], left: bool = False) -> dict[str, torch.Tensor]:
    """Inputs padded without a tokenizer."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[int]) -> list[int]:
        zeros = [0] * (longest - len(values))
        return zeros + values if left else values + zeros

    return {name: torch.tensor([padded(row[name]) for row in rows]) for name in ("input_ids", "attention_mask")}


def test_every_kind_of_label():
    batch = TaskCollator(padding(), ALL)(ROWS)
    assert batch["labels_topic"].tolist() == [3, -100, -100] and batch["labels_topic"].dtype == torch.int64
    assert batch["labels_stars"].tolist() == [-100.0, 2.5, -100.0] and batch["labels_stars"].dtype == torch.float32
    assert batch["labels_point"].tolist() == [[-100.0, -100.0], [1.0, -1.0], [-100.0, -100.0]]
    assert batch["labels_tags"].tolist() == [[-100.0] * 3, [-100.0] * 3, [1.0, 0.0, -100.0]]
    assert batch["labels_tags"].dtype == batch["labels_point"].dtype == torch.float32
    assert batch["labels_ner"].tolist() == [[-100] * 4, [-100] * 4, [4, -100, 2, -100]]
    assert batch["labels_ner"].dtype == torch.int64
    assert batch["task"].tolist() == [0, 1, 4]
    assert batch["labels"].tolist() == [-100] * 3 and batch["labels"].dtype == torch.int64
    assert batch["input_ids"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [1, 2, 3, 0]]


def test_the_losses_take_the_labels_as_they_are():
    batch = TaskCollator(padding(), ALL)(ROWS)
    for task in ALL:
        shape = (3, 4, task.num_labels) if task is NER else (3, task.num_labels)
        assert torch.isfinite(task.loss(torch.zeros(shape), batch[task.column]))
    assert STARS.loss(torch.zeros(3, 1), batch["labels_stars"]).item() == 2.5**2


def test_rows_are_left_as_they_are():
    before = pickle.dumps(ROWS)
    TaskCollator(padding(), ALL)(ROWS)
    assert pickle.dumps(ROWS) == before


def test_labels_of_tokens_stand_where_the_tokens_do():
    labels = TaskCollator(padding("left"), ALL)(ROWS)["labels_ner"]
    assert labels.tolist() == [[-100] * 4, [-100] * 4, [-100, 4, -100, 2]]
    for left in (False, True):
        batch = TaskCollator(lambda rows, left=left: by_hand(rows, left), ALL)(ROWS)  # no tokenizer to ask
        kept = batch["labels_ner"][2][batch["attention_mask"][2].bool()]
        assert kept.tolist() == [4, -100, 2]


def test_a_token_classifier_gets_labels_of_tokens():
    rows = [{name: value for name, value in one.items() if name in ("input_ids", "labels_ner")} for one in ROWS]
    batch = TaskCollator(padding(), [NER], of_tokens=True)(rows)
    assert batch["labels"].tolist() == [[-100] * 4] * 3 and "task" not in batch


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (tiny_bert(), (3,)),
        (tiny_bert(problem_type="single_label_classification"), (3,)),
        (tiny_bert(problem_type="regression"), (3, 3)),
        (tiny_bert(problem_type="regression", num_labels=1), (3, 1)),
        (tiny_bert(problem_type="multi_label_classification"), (3, 3)),
        (tiny_token_bert(), (3, 4)),
        (tiny_llama(), (3,)),
    ],
)
def test_the_head_of_the_model_gets_labels_of_the_shape_it_takes(model, shape):
    collator = TaskCollator.for_model(padding(), ALL, model)
    batch = collator(ROWS)
    assert batch["labels"].shape == shape and batch["labels"].unique().tolist() == [-100]
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    assert model(**given).loss.shape == ()  # no error of shapes or types


def test_for_a_model_under_peft():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_token_bert(), LoraConfig(target_modules=["query"]))
    assert TaskCollator.for_model(padding(), ALL, model).of_tokens


def test_empty_lists_are_rows_without_labels():
    rows = [{**ROWS[0], "labels_ner": []}, ROWS[2]]
    assert TaskCollator(padding(), ALL)(rows)["labels_ner"].tolist() == [[-100] * 3, [4, -100, 2]]


def test_labels_that_were_there_do_not_reach_the_head_of_the_model():
    batch = TaskCollator(padding(), ALL)([{**one, "labels": 1} for one in ROWS])
    assert batch["labels"].tolist() == [-100] * 3


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_formatted_rows(kind):
    make = torch.tensor if kind == "tensor" else np.array
    rows = [
        {name: make(value) if "labels" in name or name == "task" else value for name, value in one.items()}
        for one in ROWS
    ]
    plain, formatted = TaskCollator(padding(), ALL)(ROWS), TaskCollator(padding(), ALL)(rows)
    assert plain.keys() == formatted.keys()
    assert all(torch.equal(plain[name], formatted[name]) for name in plain)


def test_images():
    rows = [{"pixel_values": torch.ones(3, 2, 2), "labels_topic": 1, "labels_stars": 0.5}] * 2
    batch = TaskCollator(default_collate, [TOPIC, STARS])(rows)
    assert batch["pixel_values"].shape == (2, 3, 2, 2) and batch["labels_stars"].tolist() == [0.5, 0.5]


# --- rows of one task, and of none ---------------------------------------------------------------------------------


def test_an_evaluation_of_one_task_keeps_its_labels():
    collator = TaskCollator(padding(), ALL)

    def labels(first, second):
        rows = [{"input_ids": [1], "labels": first}, {"input_ids": [1, 2], "labels": second}]
        batch = collator(rows)
        assert batch["input_ids"].shape == (2, 2) and not any(name.startswith("labels_") for name in batch)
        return batch["labels"]

    assert labels(2, 0).tolist() == [2, 0]
    assert labels(2, 0).dtype == torch.int64
    assert labels(0.5, 1.0).tolist() == [0.5, 1.0]
    assert labels(torch.tensor(3), torch.tensor(1)).tolist() == [3, 1]
    assert labels([3], [4, -100]).tolist() == [[3, -100], [4, -100]]  # tokens
    assert labels([1.0, 0.0, 1.0], [0.0, 0.0, 1.0]).tolist() == [[1, 0, 1], [0, 0, 1]]  # several labels


def test_rows_without_labels():
    batch = TaskCollator(padding(), ALL)([{"input_ids": [1, 2]}, {"input_ids": [3], "task": 1}])
    assert set(batch) == {"input_ids", "attention_mask"}


def test_travels_to_the_workers_of_a_loader():
    collator = pickle.loads(pickle.dumps(TaskCollator(default_collate, [TOPIC])))
    loader = torch.utils.data.DataLoader(
        [{"pixel_values": torch.ones(2), "labels_topic": 1}] * 4, batch_size=2, collate_fn=collator
    )
    assert [batch["labels_topic"].tolist() for batch in loader] == [[1, 1], [1, 1]]


# --- errors --------------------------------------------------------------------------------------------------------


def test_a_column_that_is_missing():
    rows = [{name: value for name, value in one.items() if name != "labels_stars"} for one in ROWS]
    with pytest.raises(ValueError, match="rows have labels_topic, .* and no labels_stars.*mix_tasks"):
        TaskCollator(padding(), ALL)(rows)


def test_more_labels_than_tokens():
    with pytest.raises(ValueError, match="`labels_ner` of row 1 .* holds 6 labels for 4 tokens.*prepare"):
        TaskCollator(padding(), ALL)([ROWS[1], {**ROWS[2], "labels_ner": [1] * 6}])


def test_rows_of_different_widths():
    with pytest.raises(ValueError, match=r"`labels_tags` holds \(2,\) labels in one row and \(3,\).*each class"):
        TaskCollator(padding(), ALL)([ROWS[0], {**ROWS[2], "labels_tags": [1.0, 0.0]}])


def test_tokens_without_input_ids():
    rows = [{"pixel_values": torch.ones(2), "labels_ner": [1]}]
    with pytest.raises(ValueError, match="labels_ner, pixel_values|pixel_values has no `input_ids`"):
        TaskCollator(default_collate, [NER])(rows)


def test_two_tasks_of_one_name():
    with pytest.raises(ValueError, match="two tasks are called `topic`"):
        TaskCollator(default_collate, [TOPIC, TOPIC])
