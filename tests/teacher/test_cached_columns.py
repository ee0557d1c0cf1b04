from __future__ import annotations

import pytest
import torch

from hf_transfer import RDrop, TransferBatch, attach
from hf_transfer.objectives import CutMix, Mixup
from hf_transfer.teacher.cached_columns import column_names, is_cached, is_per_token, read_columns
from hf_transfer.teacher.output import TeacherOutput
from hf_transfer.teacher.top_k import keep_top_k, restore_top_k
from tests.models import batch_for, tiny_bert, tiny_vit
from tests.teacher.cache_data import PlainDistillation


def batch_with(logits=None, **columns):
    rows = 2 if logits is None else len(logits)
    return TransferBatch(features=torch.zeros(rows, 4), logits=logits, columns=columns)


def said(classes=3):
    return TeacherOutput(torch.ones(2, classes), torch.ones(2, 5), {"block": torch.ones(2, 3)}, {"map": torch.ones(1)})


def test_names():
    names = column_names(["b", "a", "b"])
    assert names[-2:] == ("teacher_hidden.a", "teacher_hidden.b") and len(set(names)) == len(names)
    assert all(is_cached(name) for name in names)
    assert not any(is_cached(name) for name in ("labels", "teacher_input_ids", "teacher", "teacher_hidden"))


def test_without_columns_there_is_nothing():
    assert read_columns(batch_with(teacher_input_ids=torch.ones(2, 3))) is None


def test_half_precision_is_read_as_float32():
    logits = torch.randn(2, 3).half()
    batch = batch_with(torch.zeros(2, 3), teacher_logits=logits, teacher_features=logits.double())
    read = read_columns(batch)
    assert read is not None
    for value in (read.logits, read.features):
        assert value.dtype == torch.float32 and torch.equal(value, logits.float())


def test_what_is_not_stored_is_asked_for_once_and_only_then():
    calls = []
    batch = batch_with(
        torch.zeros(2, 3), **{"teacher_logits": torch.zeros(2, 3), "teacher_hidden.a": torch.ones(2, 7)}
    )
    read = read_columns(batch, run=lambda: calls.append(1) or said())
    assert read is not None
    assert read.logits.sum() == 0 and read.hidden_states["a"].shape == (2, 7) and list(read.hidden_states) == ["a"]
    assert not calls
    assert read.features.shape == (2, 5) and read.hidden_states["block"].shape == (2, 3) and "map" in read.attentions
    assert calls == [1]


def test_without_a_model_it_says_what_is_missing():
    read = read_columns(batch_with(torch.zeros(2, 3), teacher_logits=torch.zeros(2, 3)))
    assert read is not None
    with pytest.raises(ValueError, match="the batch holds teacher_logits: there is no model to ask. Store them too"):
        read.features  # noqa: B018
    with pytest.raises(ValueError, match=r"teacher_hidden\.x are needed"):
        read.hidden_states["x"]
    with pytest.raises(ValueError, match="attention maps are needed"):
        read.attentions  # noqa: B018


def test_classes_are_aligned_and_their_number_compared():
    stored = torch.arange(8.0).view(2, 4)
    batch = batch_with(torch.zeros(2, 3), teacher_logits=stored)
    read = read_columns(batch, align=lambda logits: logits[..., [2, 0, 1]])
    assert read is not None and torch.equal(read.logits, stored[:, [2, 0, 1]])
    plain = read_columns(batch)
    assert plain is not None
    with pytest.raises(ValueError, match="are of 4 classes where 3 are expected"):
        plain.logits  # noqa: B018


def test_largest_logits_are_restored_and_their_number_of_classes_compared():
    logits = torch.randn(2, 6)
    values, indices, rest = keep_top_k(logits, 2)
    columns = {
        "teacher_top_values": values,
        "teacher_top_indices": indices.int(),
        "teacher_log_rest": rest,
        "teacher_classes": torch.tensor([6, 6]),
    }
    read = read_columns(batch_with(torch.zeros(2, 6), **columns))
    assert read is not None and torch.equal(read.logits, restore_top_k(values, indices, rest, 6))
    aligned = read_columns(batch_with(torch.zeros(2, 2), **columns), align=lambda z: z[..., :2], num_classes=6)
    assert aligned is not None and aligned.logits.shape == (2, 2)
    bare = read_columns(batch_with(**columns))
    assert bare is not None and bare.logits.shape == (2, 6)
    other = read_columns(batch_with(torch.zeros(2, 9), **columns))
    assert other is not None
    with pytest.raises(ValueError, match="are of 6 classes where 9 are expected"):
        other.logits  # noqa: B018


def test_other_rows_and_other_tokens():
    read = read_columns(batch_with(torch.zeros(3, 3), teacher_logits=torch.zeros(2, 3)))
    assert read is not None
    with pytest.raises(ValueError, match="holds 2 rows and the model saw 3: some objective added"):
        read.logits  # noqa: B018
    tokens = read_columns(batch_with(torch.zeros(2, 5, 3), teacher_logits=torch.zeros(2, 4, 3)))
    assert tokens is not None
    with pytest.raises(ValueError, match="4 tokens a row and the student reads 5: .* another tokenizer"):
        tokens.logits  # noqa: B018


@pytest.mark.parametrize("mixing", [Mixup, CutMix])
def test_mixed_images_are_refused_at_the_first_batch(mixing):
    model = tiny_vit()
    batch = batch_for(model, 4)
    batch.pop("domain", None)
    with attach(model, [mixing(), PlainDistillation(tiny_vit())]):
        model.train()
        with pytest.raises(ValueError, match=f"{mixing.__name__} changes the inputs of each batch"):
            model(**batch, teacher_logits=torch.zeros(4, 3))
        assert model(**batch).loss.isfinite()  # the teacher itself sees the mixture


def test_two_passes_read_the_columns_twice():
    model = tiny_bert()
    stored = torch.randn(4, 3)
    batch = {**batch_for(model, 4), "teacher_logits": stored}
    batch.pop("domain", None)
    seen = []

    class Looking(PlainDistillation):
        def forward(self, batch):
            seen.append(self.taught(batch).logits)
            return super().forward(batch)

    with attach(model, [RDrop(), Looking(tiny_bert())]):
        model.train()
        model(**batch)
    assert torch.equal(seen[0], torch.cat([stored, stored]))


def test_what_belongs_to_each_token():
    assert is_per_token("teacher_log_rest", [torch.zeros(4)]) and not is_per_token(
        "teacher_log_rest", [torch.zeros(())]
    )
    assert is_per_token("teacher_hidden.x", [torch.zeros(4, 2)]) and not is_per_token(
        "teacher_classes", [torch.zeros(2, 2)]
    )
