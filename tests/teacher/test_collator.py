"""The collator of a teacher's columns: padded as the batch is, and refused where tokens differ."""

from __future__ import annotations

import pickle

import pytest
import torch
from transformers import DataCollatorWithPadding, default_data_collator

from hf_transfer import TeacherCollator
from hf_transfer.data.source_models import _tokenizer
from hf_transfer.teacher.cache_rows import token_checksum


@pytest.fixture(scope="module")
def tokenizer():
    return _tokenizer(["a b c d e f g h"])


def row(ids, **columns):
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "teacher_tokens": token_checksum(ids), **columns}


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_was_said_of_a_token_stands_where_it_is(tokenizer, side):
    tokenizer.padding_side = side
    rows = [row([5, 6, 7], teacher_logits=[[1.0, 2.0]] * 3), row([8], teacher_logits=[[3.0, 4.0]])]
    batch = TeacherCollator(DataCollatorWithPadding(tokenizer))(rows)
    assert batch["teacher_logits"].shape == (2, 3, 2) and "teacher_tokens" not in batch
    real = batch["attention_mask"].bool()
    assert (batch["teacher_logits"][~real] == 0).all()
    assert batch["teacher_logits"][1][real[1]].tolist() == [[3.0, 4.0]]


def test_what_was_said_of_a_row_is_stacked(tokenizer):
    rows = [
        row([5, 6], teacher_logits=[1.0, 2.0], teacher_classes=2),
        row([8], teacher_logits=[3, 4], teacher_classes=2),
    ]
    batch = TeacherCollator(DataCollatorWithPadding(tokenizer))(rows)
    assert batch["teacher_logits"].tolist() == [[1.0, 2.0], [3.0, 4.0]] and batch["teacher_classes"].tolist() == [2, 2]
    without = [{"labels": 1, "teacher_features": [0.5]}, {"labels": 0, "teacher_features": [1.5]}]
    assert TeacherCollator(default_data_collator)(without)["teacher_features"].tolist() == [[0.5], [1.5]]


def test_other_tokens_are_refused(tokenizer):
    collate = TeacherCollator(DataCollatorWithPadding(tokenizer))
    rows = [row([5, 6], teacher_logits=[[1.0]] * 2), row([7], teacher_logits=[[1.0]])]
    with pytest.raises(ValueError, match="tokens of row 1 of a batch are not those that the teacher read"):
        collate([rows[0], {**rows[1], "input_ids": [8]}])
    with pytest.raises(ValueError, match=r"holds \[2, 2\] tokens a row and the batch \[2, 1\] tokens"):
        collate([rows[0], {**rows[1], "teacher_logits": [[1.0]] * 2}])
    with pytest.raises(ValueError, match="1 of 2 rows of a batch have no `teacher_logits`.*mix_domains"):
        collate([rows[0], {name: value for name, value in rows[1].items() if name != "teacher_logits"}])


def test_tokens_of_its_own_need_its_tokenizer(tokenizer):
    rows = [{"labels": 0, "teacher_input_ids": [1, 2]}, {"labels": 1, "teacher_input_ids": [3]}]
    with pytest.raises(ValueError, match="TeacherCollator was given no tokenizer.*Give the teacher's"):
        TeacherCollator(default_data_collator)(rows)
    collate = pickle.loads(pickle.dumps(TeacherCollator(default_data_collator, tokenizer)))
    tokenizer.padding_side = "right"
    assert collate(rows)["teacher_attention_mask"].sum(1).tolist() == [2, 1]
    with pytest.raises(ValueError, match="Some rows of a batch hold tokens of the teacher.*before they are mixed"):
        collate([rows[0], {"labels": 1}])
    images = [{"labels": 0, "teacher_pixel_values": torch.ones(3, 2, 2)}] * 2
    assert TeacherCollator(default_data_collator)(images)["teacher_pixel_values"].shape == (2, 3, 2, 2)
