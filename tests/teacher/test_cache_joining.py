from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_transfer.teacher.cache_joining import WithTeacherColumns, beside, check_free


def numbered(count=8):
    return Dataset.from_dict({"x": list(range(count)), "labels": [0] * count})


def said(of):
    return Dataset.from_dict({"teacher_logits": [[float(x), -float(x)] for x in of["x"]]})


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: data.select(range(2, 6)),
        lambda data: data.shuffle(seed=0),
        lambda data: data.shuffle(seed=0).select([5, 1, 1, 3]),
        lambda data: data.select([7]),
        lambda data: data.select([6, 0]).select([1, 0]),
    ],
)
def test_each_row_gets_its_own(change):
    data = change(numbered())
    joined = beside(data, said(data))
    assert joined["x"] == data["x"] and joined.features["labels"] == data.features["labels"]
    for row in (*joined, *joined.shuffle(seed=3), *joined.flatten_indices()):
        assert row["teacher_logits"] == [row["x"], -row["x"]]  # type: ignore[call-overload,index]
    assert data.column_names == ["x", "labels"]  # as it was


def test_a_selection_is_not_copied():
    data = numbered().shuffle(seed=0)
    assert beside(data, said(data))._indices is data._indices


def doubled(batch):
    return {"x": [2 * x for x in batch["x"]]}


def test_formats_and_transforms():
    data = numbered()
    shown = beside(data.with_transform(doubled), said(data))
    assert shown[3] == {"x": 6, "teacher_logits": [3.0, -3.0]}
    chosen = beside(data.with_format("torch", columns=["x"]), said(data))[2]
    assert set(chosen) == {"x", "teacher_logits"} and torch.equal(chosen["teacher_logits"], torch.tensor([2.0, -2.0]))
    assert WithTeacherColumns(doubled)({"x": [1]}) == {"x": [2]}


def test_two_data_sets_differ_in_their_fingerprints():
    data = numbered()
    other = Dataset.from_dict({"teacher_logits": [[1.0]] * 8})
    assert len({beside(data, said(data))._fingerprint, beside(data, other)._fingerprint, data._fingerprint}) == 3


def test_taken_names():
    check_free(numbered())
    with pytest.raises(ValueError, match="already: two teachers would stand under one name"):
        check_free(said(numbered()))
