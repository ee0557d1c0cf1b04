"""Rows as a student takes them: held out alike, unlabelled ones without their labels, tokens of the teacher beside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from hf_transfer.data.loading import TransferData
from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments
from hf_transfer.distillation.rows import Rows, load_data, prepare_rows
from hf_transfer.recipe_arguments import DataArguments
from tests.recipes.conftest import image_folder, write_reviews


WORDS = ["the", "book", "pan", "is", "very", "good", "bad"]
REVERSED = WORDS[::-1]


def tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    ids = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16)


def split(texts: list[str], **columns: list[str]) -> Dataset:
    kinds = {
        "text": Value("string"),
        **dict.fromkeys(columns, Value("string")),
        "label": ClassLabel(names=["no", "yes"]),
    }
    labels = [number % 2 for number in range(len(texts))]
    return Dataset.from_dict({"text": texts, **columns, "label": labels}, features=Features(kinds))


def data(texts: list[str], *, test: bool = False, **columns: list[str]) -> TransferData:
    train, other = split(texts, **columns), split(texts[:1], **{name: rows[:1] for name, rows in columns.items()})
    inputs = ("text", *columns)
    return TransferData(train, other, other if test else None, "text-classification", inputs, ("no", "yes"))


TEXTS = ["the book is good", "bad pan", "very very good", "is it"]


# --- loading


@pytest.fixture
def reviews(tmp_path):
    (tmp_path / "reviews").mkdir()
    for name, rows in (("train", 20), ("test", 4)):
        lines = [f"the {number} book,{('neg', 'pos')[number % 2]}" for number in range(rows)]
        (tmp_path / "reviews" / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return tmp_path / "reviews"


def recipe(dataset, **options: Any) -> DistillationArguments:
    return DistillationArguments("teacher", str(dataset), student_blocks="1", **options)


def test_validation_rows_are_held_out_by_class_and_by_the_seed(reviews):
    (first, none), (same, _), (other, _) = (load_data(recipe(reviews), DataArguments(), seed) for seed in (0, 0, 1))
    assert none == [] and first.eval is not None and first.test is not None
    assert (len(first.train), len(first.eval), len(first.test)) == (16, 4, 4)
    assert sorted(first.eval["label"]) == [0, 0, 1, 1]
    held_out = [set(found.eval["text"]) for found in (first, same, other) if found.eval is not None]
    assert first.train[:] == same.train[:] and held_out[0] == held_out[1] != held_out[2]
    assert not held_out[0] & set(first.train["text"]) and len(held_out[0] | set(first.train["text"])) == 20


def test_validation_rows_that_there_are_stay(reviews):
    write_reviews(reviews / "validation.csv", "pan", ["pos", "neg"])
    found, _ = load_data(recipe(reviews), DataArguments(), 0)
    assert found.eval is not None and len(found.train) == 20 and "pan" in found.eval[0]["text"]


def test_unlabelled_data_needs_no_labels_and_is_not_thinned_by_class(reviews, tmp_path):
    write_reviews(tmp_path / "more" / "train.csv", "pan", None, rows=7)
    options = DataArguments(samples_per_class=3)
    found, (other,) = load_data(recipe(reviews, unlabelled_dataset=[str(tmp_path / "more")]), options, 0)
    assert len(found.train) <= 6 and len(other.train) == 7 and other.train.column_names == ["text"]


def test_unlabelled_data_of_another_kind_is_refused(reviews, tmp_path):
    pictures = image_folder(tmp_path / "images", ("train",))
    with pytest.raises(ValueError, match="`--unlabelled_dataset .*images` has image and the data text.*same kind"):
        load_data(recipe(reviews, unlabelled_dataset=[str(pictures)]), DataArguments(), 0)


# --- preparing


def test_rows_of_text():
    own = tokenizer(WORDS)
    rows = prepare_rows(data(TEXTS, test=True), [], own, DataArguments(max_length=2))
    assert set(rows.splits) == {"eval", "test"} and (rows.domains, rows.longest) == (1, 4)
    assert rows.labelled[:] == rows.taught[:] and "domain" not in rows.taught.column_names
    assert rows.taught[0]["input_ids"] == own(TEXTS[0])["input_ids"][:2] and rows.taught["labels"][:] == [0, 1, 0, 1]
    batch = rows.collate([rows.taught[0], rows.taught[1]])
    assert batch["input_ids"].shape == (2, 2) and batch["labels"].tolist() == [0, 1]
    assert set(prepare_rows(data(TEXTS), [], own, DataArguments()).splits) == {"eval"}


def test_unlabelled_rows_stand_in_a_domain_of_their_own_without_labels():
    more = ["the bad pan", "very good", "bad", "good", "book"]
    rows = prepare_rows(data(TEXTS), [data(more), data(["pan"])], tokenizer(WORDS), DataArguments())
    assert (rows.domains, rows.longest, len(rows.labelled)) == (3, 5, 4) and "domain" not in rows.labelled.column_names
    found = [rows.taught[number] for number in range(len(rows.taught))]
    by_domain = {domain: [row for row in found if row["domain"] == domain] for domain in range(3)}
    assert [len({tuple(row["input_ids"]) for row in by_domain[domain]}) for domain in range(3)] == [4, 5, 1]
    assert [row["labels"] for row in by_domain[0]] == [0, 1, 0, 1]
    assert {row.get("labels") for row in by_domain[1] + by_domain[2]} == {-100}
    batch = rows.collate([by_domain[0][1], by_domain[1][0]])
    assert batch["labels"].tolist() == [1, -100] and batch["domain"].tolist() == [0, 1]


def test_the_teacher_is_asked_for_the_raw_rows_of_every_part_and_no_split():
    seen = []

    def ask(dataset: Dataset) -> Dataset:
        seen.append((dataset.column_names, len(dataset)))
        return dataset.add_column("teacher_logits", [[float(number)] * 2 for number in range(len(dataset))])  # type: ignore[call-arg]

    rows = prepare_rows(data(TEXTS, test=True), [data(["bad", "good"])], tokenizer(WORDS), DataArguments(), ask=ask)
    assert seen == [(["text", "label"], 4), (["text"], 2)]
    assert "teacher_logits" not in rows.labelled.column_names
    assert all("teacher_logits" not in part.column_names for part in rows.splits.values())
    batch = rows.collate([rows.taught[3], rows.taught[5]])
    assert batch["teacher_logits"].tolist() == [[3.0, 3.0], [1.0, 1.0]]


def test_a_teacher_with_another_tokenizer_reads_tokens_of_its_own():
    own, theirs = tokenizer(WORDS), tokenizer(REVERSED)
    pairs = data(TEXTS, text_pair=["good", "bad", "book", "pan"])
    rows = prepare_rows(pairs, [], own, DataArguments(max_length=4), teacher_processor=theirs)
    row = rows.taught[1]
    assert row["input_ids"] == own("bad pan", "bad")["input_ids"]
    assert row["teacher_input_ids"] == theirs("bad pan", "bad")["input_ids"] != row["input_ids"]
    assert len(rows.taught[0]["teacher_input_ids"]) == 4  # of five: cut as the student's are
    batch = rows.collate([rows.taught[0], row])
    assert batch["teacher_input_ids"].shape == (2, 4) and batch["teacher_attention_mask"].sum(1).tolist() == [4, 3]
    assert not any(name.startswith("teacher_") for name in rows.labelled.column_names)
    assert not any(name.startswith("teacher_") for name in rows.splits["eval"].column_names)


@pytest.mark.parametrize("teacher", [None, tokenizer(WORDS), ViTImageProcessorPil()])
def test_a_teacher_that_reads_the_same_has_none(teacher):
    rows = prepare_rows(data(TEXTS), [], tokenizer(WORDS), DataArguments(), teacher_processor=teacher)
    assert not any(name.startswith("teacher_") for name in rows.taught.column_names)


def test_only_training_images_are_augmented():
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    # bright in one corner, so that whatever moves it shows
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:3, :3] = 255
    kinds = Features({"image": Image(), "label": ClassLabel(names=["no", "yes"])})
    part = Dataset.from_dict({"image": [Pictures.fromarray(pixels)] * 2, "label": [0, 1]}, features=kinds)
    images = TransferData(part, part, None, "image-classification", ("image",), ("no", "yes"))
    rows = prepare_rows(images, [images], processor, DataArguments(augmentation="strong"))
    plain = rows.splits["eval"][0]["pixel_values"]
    assert torch.equal(rows.splits["eval"][0]["pixel_values"], plain)
    for trained in (rows.labelled, rows.taught):
        assert any(not torch.equal(trained[number]["pixel_values"], plain) for number in range(len(trained)))
    assert (rows.domains, rows.longest) == (2, 2)


def test_words_with_labels_of_their_own():
    tags = Features({"tokens": [Value("string")], "label": [ClassLabel(names=["O", "B"])]})
    part = Dataset.from_dict({"tokens": [["good", "book"], ["bad"]], "label": [[0, 1], [1]]}, features=tags)
    named = TransferData(part, part, None, "token-classification", ("tokens",), ("O", "B"))
    rows = prepare_rows(named, [], tokenizer(WORDS), DataArguments())
    batch = rows.collate([rows.taught[0], rows.taught[1]])
    assert batch["labels"].tolist() == [[0, 1], [1, -100]] and batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


# --- how long


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"num_train_epochs": 3.0}, 8),  # 3 times 10 rows, 4 at a time
        ({"num_train_epochs": 3.0, "gradient_accumulation_steps": 2}, 4),
        ({"num_train_epochs": 0.5}, 2),
    ],
)
def test_steps_are_those_of_the_largest_domain(tmp_path, options, steps):
    rows = Rows(split(TEXTS), split(TEXTS), {}, lambda batch: batch, domains=2, longest=10)
    args = DistillationLoopArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4, **options)
    assert rows.steps(args) == steps
