"""A trained head takes the classes of a data set, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_transfer.data.loading import TransferData
from hf_transfer.distillation.classes import matching, take_classes
from tests.models import tiny_bert, tiny_resnet


def data(*names: str) -> TransferData:
    rows = Dataset.from_dict({"text": ["a"], "label": [0]})
    return TransferData(rows, None, None, "text-classification" if names else "regression", ("text",), names)


def named(*names: str, make: Any = tiny_bert) -> Any:
    numbers = {name: number for number, name in enumerate(names)}
    return make(num_labels=len(names), id2label=dict(enumerate(names)), label2id=numbers).eval()


def inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}


def test_another_order_and_fewer_classes():
    model = named("neutral", "positive", "negative")
    before = model(**inputs()).logits
    taken = take_classes(model, data("negative", "positive"))
    after = taken(**inputs(), labels=torch.tensor([0, 1]))
    torch.testing.assert_close(after.logits, before[:, [2, 1]])
    torch.testing.assert_close(after.loss, torch.nn.functional.cross_entropy(before[:, [2, 1]], torch.tensor([0, 1])))
    assert taken.config.id2label == {0: "negative", 1: "positive"} and taken.config.num_labels == 2


def test_the_same_classes_are_left_alone():
    model = named("a", "b")
    head = model.classifier.weight
    assert matching(model.config, data("a", "b")) is None
    assert take_classes(model, data("a", "b")).classifier.weight is head


def test_unnamed_outputs_are_the_classes_if_there_are_as_many():
    model: Any = tiny_bert(num_labels=2)
    assert take_classes(model, data("a", "b")).config.id2label == {0: "a", 1: "b"}
    with pytest.raises(ValueError, match="--train_teacher true"):
        take_classes(tiny_bert(num_labels=3), data("a", "b"))


def test_a_class_that_it_does_not_know():
    with pytest.raises(ValueError, match="no class `c`.*--train_teacher true"):
        take_classes(named("a", "b"), data("a", "c"))


def test_real_values_have_no_classes():
    model: Any = tiny_bert(num_labels=1, problem_type="regression")
    before = model.eval()(**inputs()).logits
    assert torch.equal(take_classes(model, data())(**inputs()).logits, before)


def test_a_convolutional_model():
    model = named("a", "b", "c", make=tiny_resnet)
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = model(pixel_values=pixels).logits
    torch.testing.assert_close(take_classes(model, data("c", "a"))(pixel_values=pixels).logits, before[:, [2, 0]])
