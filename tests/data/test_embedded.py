from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import ResNetConfig, ResNetForImageClassification

from hf_transfer.data.embedded import EMBEDDED_SETS, digits, load_embedded, reviews
from hf_transfer.data.source_models import _train


@pytest.fixture(scope="module")
def plain() -> DatasetDict:
    return digits()


@pytest.fixture(scope="module")
def shifted() -> DatasetDict:
    return digits(shifted=True)


def pixels(data: DatasetDict, split: str) -> np.ndarray:
    images = np.stack([np.asarray(image) for image in data[split]["image"][:]])
    return images.reshape(len(images), -1).astype(np.float32) / 255


def test_splits_and_columns(plain):
    assert {name: len(split) for name, split in plain.items()} == {"train": 1078, "validation": 180, "test": 539}
    for split in plain.values():
        assert split.features["label"].names == [str(digit) for digit in range(10)]
        assert split[0]["image"].mode == "RGB" and split[0]["image"].size == (32, 32)
    counts = np.bincount(plain["train"]["label"][:])
    assert counts.min() > 90


def test_it_is_the_same_every_time(plain, shifted):
    for data, again in ((plain, digits(range(10))), (shifted, digits(shifted=True))):
        assert np.array_equal(pixels(data, "validation"), pixels(again, "validation"))


def test_no_image_is_in_two_splits(plain):
    seen = [{image.tobytes() for image in pixels(plain, split)} for split in plain]
    assert not seen[0] & seen[2] and not seen[1] & seen[2] and not seen[0] & seen[1]


def test_label_splits_are_parts_of_the_whole(plain):
    low, high = digits(range(5)), digits(range(5, 10))
    assert low["train"].features["label"].names == list("01234")
    assert high["train"].features["label"].names == list("56789")
    assert len(low["train"]) + len(high["train"]) == len(plain["train"])
    assert set(high["train"]["label"][:]) == set(range(5))
    of_whole = {image.tobytes() for image in pixels(plain, "test")}
    assert {image.tobytes() for image in pixels(low, "test")} < of_whole


def test_the_shifted_copy_shows_the_same_digits(plain, shifted):
    assert shifted["test"]["label"][:] == plain["test"]["label"][:]
    assert not np.allclose(pixels(shifted, "test"), pixels(plain, "test"), atol=0.1)


@pytest.mark.slow
def test_the_shift_hurts_and_can_be_learned(plain, shifted):
    """The figures of the docstring: a small residual network, trained on either domain and tested on both."""
    accuracy = {}
    for source, data in (("plain", plain), ("shifted", shifted)):
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic", num_labels=10
        )
        model = ResNetForImageClassification(config)
        inputs = {"pixel_values": tensor(data, "train")}
        _train(model, inputs, data["train"]["label"][:], epochs=10, learning_rate=5e-3)
        for target, other in (("plain", plain), ("shifted", shifted)):
            with torch.no_grad():
                guesses = model(tensor(other, "test")).logits.argmax(-1).numpy()
            accuracy[source, target] = np.mean(guesses == other["test"]["label"][:])
    assert accuracy["plain", "plain"] > 0.97
    assert 0.5 < accuracy["plain", "shifted"] < 0.8
    assert accuracy["shifted", "shifted"] > 0.9


def tensor(data: DatasetDict, split: str) -> torch.Tensor:
    return torch.tensor(pixels(data, split)).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2) * 2 - 1


@pytest.mark.parametrize("labels", [[3], [3, 3], [0, 10], []])
def test_digits_need_two_classes(labels):
    with pytest.raises(ValueError, match=r"not at least two different digits.*range\(5\)"):
        digits(labels)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"need scikit-learn and Pillow.*pip install"):
        digits()


def test_reviews_are_split_without_duplicates():
    data = reviews("books", rows=500, seed=3)
    assert {name: len(split) for name, split in data.items()} == {"train": 300, "validation": 50, "test": 150}
    texts = [text for split in data.values() for text in split["text"][:]]
    assert len(set(texts)) == 500
    for split in data.values():
        assert split.features["label"].names == ["negative", "positive"]
        assert sum(split["label"][:]) * 2 == len(split)
    with pytest.raises(ValueError, match="rows=9 cannot fill three splits.*10 or more"):
        reviews("books", rows=9)


def test_reviews_of_the_other_domain_are_harder():
    """Bag of words: high in the domain, clearly lower across, but above chance."""
    data = {domain: reviews(domain) for domain in ("books", "kitchen")}
    for source in data:
        words = CountVectorizer()
        features = words.fit_transform(data[source]["train"]["text"][:])
        model = LogisticRegression(max_iter=1000).fit(features, data[source]["train"]["label"][:])
        for target, splits in data.items():
            score = model.score(words.transform(splits["test"]["text"][:]), splits["test"]["label"][:])
            assert (0.88 < score < 0.98) if source == target else (0.6 < score < 0.75), (source, target, score)


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_every_name_loads(name):
    assert set(load_embedded(name)) == {"train", "validation", "test"}


def test_unknown_names():
    with pytest.raises(ValueError, match="no embedded data set `cats`.*`embedded:digits`, .*`embedded:reviews/books`"):
        load_embedded("cats")
