"""Few-shot classifiers as heads: their answers are those of the definitions, also inside a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_transfer.features import head_features
from hf_transfer.few_shot.heads import FOLDABLE, as_probe, describe_head
from tests.models import tiny_bert


def rows(count: int = 60, width: int = 7, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = 2 * random.standard_normal((classes, width))
    return centres[labels] + random.standard_normal((count, width)) * random.uniform(0.5, 4, (count, 1)), labels


def test_nearest_mean_answers_by_the_cosine():
    features, labels = rows()
    wanted = []
    for row in features:
        cosines = []
        for number in range(4):
            mean = sum(other / np.linalg.norm(other) for other in features[labels == number])
            cosines.append(row @ mean / np.linalg.norm(row) / np.linalg.norm(mean))
        wanted.append(int(np.argmax(cosines)))
    probe = as_probe("nearest_mean", features, labels)
    assert probe.predict(features).tolist() == wanted
    assert not probe.linear()[1].any()  # so that a head without a bias takes it


def test_prototypes_answer_by_the_squared_distance():
    features, labels = rows()
    wanted = []
    for row in features:
        distances = [((row - features[labels == number].mean(0)) ** 2).sum() for number in range(4)]
        wanted.append(int(np.argmin(distances)))
    assert as_probe("prototypes", features, labels).predict(features).tolist() == wanted
    assert wanted != as_probe("nearest_mean", features, labels).predict(features).tolist()


def test_constant_and_empty_features_give_finite_logits():
    for features in (np.zeros((6, 3)), np.ones((6, 3))):
        for method in ("nearest_mean", "prototypes"):
            assert np.isfinite(as_probe(method, features, np.arange(6) % 2).logits(features)).all()


@pytest.mark.parametrize("method", FOLDABLE)
def test_inside_a_model_the_answers_are_the_same(method):
    torch.manual_seed(0)
    model: Any = tiny_bert().eval()
    labels = torch.arange(24) % 3
    batch = {"input_ids": torch.randint(1, 20, (24, 5)), "labels": labels}
    features, found = head_features(model, [batch])
    names = list(model.config.id2label.values())[: model.config.num_labels]
    if model.config.num_labels != 3:
        pytest.skip("written for three classes")
    probe = as_probe(method, features.numpy(), found.numpy(), label_names=names)
    probe.fold_into(model)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits
    assert logits.argmax(-1).tolist() == probe.predict(features.numpy()).tolist()
    assert describe_head(method)


def test_what_is_no_linear_layer_is_refused():
    with pytest.raises(
        ValueError, match="`tim` is no linear layer: no head has its answers. Choose from nearest_mean"
    ):
        as_probe("tim", *rows())
