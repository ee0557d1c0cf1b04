"""Confusion, mistakes and the map of features, against loops."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from hf_transfer.compare.cells import Predictions
from hf_transfer.compare.explaining import EDGE, LETTERS, confusion, feature_map, find_mistakes, thumbnail
from hf_transfer.data.preparation import collator_for, prepare
from tests.compare.tiny_problems import texts, tokenizer
from tests.models import tiny_bert


def said(rows: int = 40, classes: int = 3, *, seed: int = 0, tokens: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    shape = (rows, tokens) if tokens else (rows,)
    labels = random.integers(-1 if tokens else 0, classes, shape)
    labels = np.where(labels < 0, -100, labels)
    logits = random.normal(size=(*shape, classes)).astype(np.float32)
    return Predictions(random.permutation(rows).astype(np.int64), labels, logits)


@pytest.mark.parametrize("tokens", [0, 4])
def test_confusion_counts_every_row_once(tokens):
    runs = [said(seed=0, tokens=tokens), said(seed=1, tokens=tokens)]
    counts = [[0] * 3 for _ in range(3)]
    for own in runs:
        for truth, logits in zip(own.labels.reshape(-1), own.logits.reshape(-1, 3), strict=True):
            if truth >= 0:
                counts[truth][max(range(3), key=lambda c, logits=logits: logits[c])] += 1
    assert confusion(runs, 3) == counts


def test_confusion_of_nothing_is_none():
    assert confusion([], 3) is None
    own = said(4)
    own.logits[2, 0] = np.nan
    found = confusion([own], 3)
    assert found is not None and sum(map(sum, found)) == 3


def test_mistakes_are_the_surest_wrong_rows():
    runs, rows = [said(seed=0), said(seed=1)], Dataset.from_dict({"text": [f"row {row}" for row in range(40)]})
    expected: dict[int, tuple[float, int]] = {}
    for own in runs:
        for row, truth, logits in zip(own.ids, own.labels, own.logits, strict=True):
            shares = torch.tensor(logits, dtype=torch.float64).softmax(0)
            guess = int(shares.argmax())
            if guess != truth and float(shares[guess]) > expected.get(int(row), (0.0, 0))[0]:
                expected[int(row)] = (float(shares[guess]), guess)
    found = find_mistakes(runs, rows, ["a", "b", "c"], most=12)
    assert len(found) == 12 and len({one.row for one in found}) == 12
    assert all(first.probability >= second.probability for first, second in pairwise(found))
    assert found[0].probability == pytest.approx(max(sure for sure, _ in expected.values()))
    for one in found:
        assert one.probability == pytest.approx(expected[one.row][0])
        assert one.predicted == "abc"[expected[one.row][1]] != one.truth and one.text == f"row {one.row}"


def test_a_model_that_is_right_makes_none():
    labels = np.array([0, 1])
    assert find_mistakes([Predictions(np.arange(2), labels, np.eye(2, dtype=np.float32))], None, "ab") == []


def test_a_sentence_of_tokens_stands_for_its_worst_word():
    labels, logits = np.array([[0, 1, -100]]), np.zeros((1, 3, 2), np.float32)
    logits[0, 0, 1], logits[0, 1, 0], logits[0, 2, 0] = 1.0, 3.0, 9.0
    rows = Dataset.from_dict({"tokens": [["anna", "sings"]]})
    [one] = find_mistakes([Predictions(np.array([0]), labels, logits)], rows, ["O", "PER"])
    assert (one.truth, one.predicted, one.text) == ("PER", "O", "anna sings")
    assert one.probability == pytest.approx(float(torch.tensor([3.0, 0.0]).softmax(0)[0]))


def test_pairs_and_long_texts_are_shown_in_short():
    wrong = Predictions(np.array([0]), np.array([1]), np.array([[1.0, 0.0]]))
    rows = Dataset.from_dict({"text": ["a  b\nc"], "text_pair": ["x" * 1000]})
    [one] = find_mistakes([wrong], rows, ["no", "yes"])
    assert one.text == f"a b c / {'x' * LETTERS}..." and one.image is None


@pytest.mark.parametrize(("size", "kind"), [((8, 6), "png"), ((640, 300), "jpeg")])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_pictures_are_small_and_whole(size, kind, mode):
    uri = thumbnail(Image.new("RGB", size, (200, 30, 30)).convert(mode))
    head, _, content = uri.partition(",")
    assert head == f"data:image/{kind};base64" and len(uri) < 6000
    small = Image.open(io.BytesIO(base64.b64decode(content)))
    assert max(small.size) == min(EDGE, max(size)) and small.mode == "RGB"
    assert abs(small.size[0] / small.size[1] - size[0] / size[1]) < 0.05


def mapped(rows: int, *, after: Any = None, most: int = 500) -> Any:
    torch.manual_seed(0)
    model, words = tiny_bert(), tokenizer()
    ready: Any = prepare(texts(rows), words)
    return feature_map(model, after, ready, collator_for(words, tokens=False), batch_size=4, most=most)


def test_the_map_keeps_what_two_components_can():
    found = mapped(10)
    assert found.labels == [row % 2 for row in range(10)] and found.after is None and found.method == "PCA"
    torch.manual_seed(0)
    model: Any = tiny_bert().eval()
    batch = tokenizer()(list(texts(10)["text"]), padding=True, return_tensors="pt")
    with torch.no_grad():
        features = model.bert(**batch).pooler_output.numpy().astype(np.float64)
    centred = features - features.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred)
    places = np.array(found.before)
    assert np.allclose((places**2).sum(0), values[::-1][:2], rtol=1e-3)
    assert np.allclose(places.mean(0), 0, atol=1e-4)


def test_a_trained_model_has_a_map_of_its_own():
    torch.manual_seed(1)
    found = mapped(8, after=tiny_bert())
    assert len(found.after) == 8 and found.after != found.before


def test_many_rows_are_thinned_out_and_few_have_no_map():
    assert len(mapped(12, most=5).before) == 5
    assert mapped(2) is None
