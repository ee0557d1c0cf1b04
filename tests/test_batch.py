"""`TransferBatch` and `ModelSpec`."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from hf_transfer import ModelSpec, TransferBatch


def test_features_of_examples_are_the_features_where_there_is_one_row_each():
    features = torch.randn(3, 4)
    assert TransferBatch(features=features).example_features is features


def test_features_of_token_classifiers_are_averaged_over_the_tokens_that_count():
    features = torch.randn(2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = torch.stack([(features[0, 0] + features[0, 1]) / 2, features[1].mean(0)])
    pooled = TransferBatch(features=features, attention_mask=mask).example_features
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("mask", [None, torch.ones(2, 7)], ids=["absent", "of another length"])
def test_without_a_mask_that_fits_all_tokens_count(mask):
    features = torch.randn(2, 3, 4)
    assert torch.equal(TransferBatch(features=features, attention_mask=mask).example_features, features.mean(1))


def test_a_row_without_tokens_gives_zeros_not_nan():
    features = torch.randn(1, 3, 4)
    pooled = TransferBatch(features=features, attention_mask=torch.zeros(1, 3)).example_features
    assert torch.equal(pooled, torch.zeros(1, 4))


def test_extra_columns_are_attributes():
    batch = TransferBatch(features=torch.zeros(1, 1), columns={"teacher_logits": torch.ones(1, 2)})
    assert batch.teacher_logits is batch.columns["teacher_logits"]
    assert not hasattr(batch, "sample_weight")


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))], ids=["copy", "pickle"])
def test_copies(clone):
    batch = TransferBatch(features=torch.ones(1, 1), columns={"a": torch.ones(1)})
    assert torch.equal(clone(batch).a, batch.a)


def test_spec_equality_ignores_the_model():
    assert ModelSpec(4, 3, model=torch.nn.Linear(1, 1)) == ModelSpec(4, 3)


def test_rows_of_examples():
    batch = TransferBatch(
        features=torch.randn(3, 4),
        logits=torch.randn(3, 2),
        labels=torch.tensor([1, -100, 0]),
        domain=torch.tensor([0, 1, 0]),
        attention_mask=torch.ones(3, 7),
    )
    rows = batch.rows
    assert rows.features is batch.features and rows.logits is batch.logits and rows.domain is batch.domain
    assert rows.counted.tolist() == [True] * 3
    assert rows.labelled.tolist() == [True, False, True]
    assert rows.unlabelled.tolist() == [False, True, False]


def test_rows_of_tokens():
    # the first example has labels on its words, the second none at all, the third only padding behind one token
    batch = TransferBatch(
        features=torch.randn(3, 2, 4),
        logits=torch.randn(3, 2, 5),
        labels=torch.tensor([[-100, 3], [-100, -100], [-100, -100]]),
        domain=torch.tensor([0, 1, 2]),
        attention_mask=torch.tensor([[1, 1], [1, 1], [1, 0]]),
    )
    rows = batch.rows
    for number in range(6):
        example, token = divmod(number, 2)
        assert torch.equal(rows.features[number], batch.features[example, token])
        assert torch.equal(rows.logits[number], batch.logits[example, token])
    assert rows.domain.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.counted.tolist() == [True, True, True, True, True, False]
    assert rows.labelled.tolist() == [False, True, False, False, False, False]
    assert rows.unlabelled.tolist() == [False, False, True, True, True, False]


def test_rows_of_tokens_without_a_mask_all_count():
    batch = TransferBatch(features=torch.randn(1, 2, 4), logits=torch.randn(1, 2, 5), labels=torch.full((1, 2), -100))
    assert batch.rows.counted.all() and batch.rows.unlabelled.all() and batch.rows.domain is None
