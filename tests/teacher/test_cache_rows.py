from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import List, Value

from hf_transfer.features.extraction.text_rows import TextWindow
from hf_transfer.teacher.cache_rows import TeacherRows, token_checksum, token_checksums


def test_rows_stand_where_they_belong_whatever_the_order():
    rows = TeacherRows(range(10, 13), "float32")
    rows.add(np.array([2, 0]), {"teacher_logits": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    rows.add(np.array([1, 1]), {"teacher_logits": torch.tensor([[5.0, 6.0], [5.0, 6.0]])})  # filled up
    columns, types = rows.finish(None)
    assert columns["teacher_logits"].tolist() == [[3.0, 4.0], [5.0, 6.0], [1.0, 2.0]]
    assert types["teacher_logits"] == List(Value("float32"), length=2)


def test_types_of_tokens_maps_and_indices():
    window = TextWindow({"input_ids": (np.array([5, 6, 7]), np.array([2, 1]))}, {"input_ids"}, {})
    rows = TeacherRows(range(2), "float16")
    rows.add(
        np.arange(2),
        {
            "teacher_logits": [torch.zeros(2, 3), torch.ones(1, 3)],
            "teacher_log_rest": [torch.zeros(2), torch.ones(1)],
            "teacher_top_indices": [torch.zeros(2, 4, dtype=torch.int32), torch.ones(1, 4, dtype=torch.int32)],
            "teacher_hidden.x": torch.zeros(2, 3, 4, 5),
        },
    )
    columns, types = rows.finish(window)
    assert types["teacher_logits"] == List(List(Value("float16"), length=3))
    assert types["teacher_log_rest"] == List(Value("float32"))
    assert types["teacher_top_indices"] == List(List(Value("int32"), length=4))
    assert types["teacher_hidden.x"] == List(List(List(Value("float16"), length=5), length=4), length=3)
    assert columns["teacher_tokens"].tolist() == [token_checksum([5, 6]), token_checksum([7])]


def test_checksums_leave_padding_out():
    ids, mask, lengths = np.array([5, 6, 0, 7, 0, 0]), np.array([1, 1, 0, 1, 0, 0]), np.array([3, 3])
    padded = {"input_ids": (ids, lengths), "attention_mask": (mask, lengths)}
    window = TextWindow(padded, {"input_ids"}, {})
    checksums = token_checksums(window)
    assert checksums is not None
    assert checksums.tolist() == [token_checksum([5, 6, 9], [1, 1, 0]), token_checksum(torch.tensor([7]))]
    assert token_checksum([5, 6]) != token_checksum([6, 5])


def test_what_is_not_finite_or_too_large():
    with pytest.raises(ValueError, match="values that are not finite for row 7"):
        TeacherRows(range(7, 8), "float32").add(np.array([0]), {"teacher_logits": torch.tensor([[float("inf")]])})
    with pytest.raises(ValueError, match=r"up to 7e\+04 for row 0 .*half precision ends at 65504"):
        TeacherRows(range(1), "float16").add(np.array([0]), {"teacher_logits": torch.tensor([[7e4]])})
