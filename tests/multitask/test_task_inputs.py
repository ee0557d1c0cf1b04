from __future__ import annotations

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from transformers import ViTImageProcessorPil

from hf_transfer.multitask.parts import Part, parts_of
from hf_transfer.multitask.task import Task
from hf_transfer.multitask.task_inputs import prepared
from tests.multitask.words import WORDS, word_tokenizer


TOPIC = Task("topic", num_labels=3)
NER = Task("ner", "tokens", num_labels=5)
POS = Task("pos", "tokens", num_labels=3)
TASKS = {task.name: task for task in (TOPIC, NER, POS)}


def ids(*words: str) -> list[int]:
    return [WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]


def one(data: Dataset, names=None, label_columns=None) -> Part:
    (part,) = parts_of(data, names, label_columns)
    return part


def of_topic(data: Dataset) -> Part:
    return Part(data, {"topic": "label"}, task="topic")


def test_texts_are_tokenised():
    data = Dataset.from_dict({"text": ["good salty", "bad"], "label": [2, 0]})
    part = prepared(of_topic(data), TASKS, word_tokenizer())
    assert set(part.inputs) - {"token_type_ids"} == {"input_ids", "attention_mask"}
    assert part.dataset["input_ids"][:] == [ids("good", "salt", "##y"), ids("bad")]
    assert part.dataset[part.columns["topic"]][:] == [2, 0]


def test_inputs_of_other_names_and_pairs_and_no_other_columns():
    data = Dataset.from_dict({"id": [7], "sentence": ["good"], "label": [1]})
    part = prepared(of_topic(data.add_column("number", [1])), TASKS, word_tokenizer())
    assert "id" not in part.inputs and "number" not in part.inputs and "sentence" not in part.inputs
    pair = Dataset.from_dict({"premise": ["good"], "hypothesis": ["bad"], "label": [1]})
    part = prepared(of_topic(pair), TASKS, word_tokenizer())
    assert part.dataset["input_ids"][:] == [[*ids("good"), *ids("bad")[1:]]]


def test_labels_of_words_go_to_first_pieces():
    data = Dataset.from_dict({"tokens": [["Anna", "sweeter"], ["Rome"]], "ner_tags": [[4, 1], [2]]})
    part = prepared(Part(data, {"ner": "ner_tags"}, task="ner"), TASKS, word_tokenizer())
    assert part.dataset["input_ids"][:] == [ids("Anna", "sweet", "##er"), ids("Rome")]
    assert part.dataset[part.columns["ner"]][:] == [[-100, 4, 1, -100, -100], [-100, 2, -100]]


def test_two_tasks_of_words_and_one_of_rows():
    data = Dataset.from_dict(
        {
            "tokens": [["Anna", "sweeter"], ["Rome"]],
            "ner": [[4, 1], [2]],
            "pos": [[0, 2], [1]],
            "topic": [1, None],
        }
    )
    part = prepared(one(data, ["pos", "topic", "ner"]), TASKS, word_tokenizer())
    labels = {name: part.dataset[column][:] for name, column in part.columns.items()}
    assert labels == {
        "pos": [[-100, 0, 2, -100, -100], [-100, 1, -100]],
        "ner": [[-100, 4, 1, -100, -100], [-100, 2, -100]],
        "topic": [1, None],
    }
    assert set(part.inputs) <= {"input_ids", "attention_mask", "token_type_ids"}


def test_words_of_a_task_of_rows():
    data = Dataset.from_dict({"tokens": [["Anna", "sweeter"]], "label": [1]})
    part = prepared(of_topic(data), TASKS, word_tokenizer())
    assert part.dataset["input_ids"][:] == [ids("Anna", "sweet", "##er")]
    assert part.dataset[part.columns["topic"]][:] == [1]


def test_a_task_for_each_row():
    data = Dataset.from_dict({"text": ["good", "bad"], "label": [2, 0], "task": ["topic", "other"]})
    part = prepared(one(data), {**TASKS, "other": Task("other", num_labels=2)}, word_tokenizer())
    assert part.by_row and part.shares_column and part.dataset["task"][:] == ["topic", "other"]
    assert part.dataset[part.columns["other"]][:] == [2, 0]


def test_the_longest_text():
    part = prepared(
        of_topic(Dataset.from_dict({"text": ["good bad good bad"], "label": [0]})),
        TASKS,
        word_tokenizer(),
        max_length=4,
    )
    assert part.dataset["input_ids"][:] == [ids("good", "bad")]


@pytest.fixture
def pictures() -> Dataset:
    from PIL import Image as PIL

    features = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": [PIL.new("RGB", (4, 4), (255, 0, 0))] * 2, "label": [2, 0]}, features)


def test_images_are_processed_when_they_are_read(pictures):
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    part = prepared(of_topic(pictures), TASKS, processor, augment=lambda images: images * 0 + 7)
    row = part.dataset[0]
    assert row["pixel_values"].shape == (3, 8, 8) and torch.all(row["pixel_values"] == 7)
    assert part.inputs == ["image"] and row[part.columns["topic"]] == 2


def test_what_is_prepared_stays_as_it_is(pictures):
    done = Dataset.from_dict({"input_ids": [[1]], "id": [3], "label": [0]})
    for data in (done, pictures.with_transform(lambda batch: batch)):
        part = of_topic(data)
        assert prepared(part, TASKS, word_tokenizer()) is part


def test_a_processor_that_does_not_read_the_inputs(pictures):
    with pytest.raises(ValueError, match="holds images, but the model came with .*does not read them"):
        prepared(of_topic(pictures), TASKS, word_tokenizer())


def test_several_inputs():
    data = Dataset.from_dict({"one": ["good"], "other": ["bad"], "label": [1]})
    with pytest.raises(ValueError, match="2 columns may be the input: `one`, `other`"):
        prepared(of_topic(data), TASKS, word_tokenizer())
