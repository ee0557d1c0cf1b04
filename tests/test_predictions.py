"""`predict`: labels and probabilities against what the model's own logits say, by task."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoTokenizer,
    Wav2Vec2FeatureExtractor,
)

from hf_transfer.adapters.loading import load_adapter
from hf_transfer.data.sound import resampled
from hf_transfer.predictions import predict
from tests.adapters.saved import LABELS, load_base, save_base
from tests.models import tiny_wav2vec2
from tests.test_series_models import CLASSIFIERS


TEXTS = ["the book is good", "bad", "anna is very fine the pan is poor"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base("text", tmp_path_factory.mktemp("text"))


def logits_of(model, tokenizer, text):
    with torch.no_grad():
        return model.eval()(**tokenizer(text, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_one_label(base, batch_size):
    model, tokenizer = load_base("text", base), AutoTokenizer.from_pretrained(base)
    rows = predict(model, tokenizer, TEXTS, batch_size=batch_size)
    assert [row["input"] for row in rows] == TEXTS
    for row in rows:
        expected = logits_of(model, tokenizer, row["input"]).softmax(0)
        assert row["label"] == LABELS[int(expected.argmax())]
        assert list(row["probabilities"]) == LABELS
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-5)
        assert row["probability"] == max(row["probabilities"].values())


def test_several_labels(base):
    model = load_base("text", base, problem_type="multi_label_classification")
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([3.0, -3.0, 3.0, -3.0, -3.0]))
    tokenizer = AutoTokenizer.from_pretrained(base)
    (row,) = predict(model, tokenizer, TEXTS[:1])
    assert row["labels"] == ["red", "blue"]
    expected = logits_of(model, tokenizer, TEXTS[0]).sigmoid()
    np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-5)


def test_regression(base):
    model, tokenizer = load_base("text", base, ["score"]), AutoTokenizer.from_pretrained(base)
    (row,) = predict(model, tokenizer, TEXTS[:1])
    assert row == {"input": TEXTS[0], "value": pytest.approx(logits_of(model, tokenizer, TEXTS[0]).item(), abs=1e-5)}


def test_tokens_give_a_row_for_each_word(base):
    model, tokenizer = load_base("tokens", base), AutoTokenizer.from_pretrained(base)
    rows = predict(model, tokenizer, TEXTS)
    assert [row["word"] for row in rows] == " ".join(TEXTS).split()
    assert [row["position"] for row in rows[:5]] == [0, 1, 2, 3, 0]
    expected = logits_of(model, tokenizer, TEXTS[0]).softmax(-1)[1:-1]  # without [CLS] and [SEP]
    assert [row["label"] for row in rows[:4]] == [LABELS[best] for best in expected.argmax(-1)]
    np.testing.assert_allclose([row["probability"] for row in rows[:4]], expected.amax(-1), atol=1e-5)


def test_word_of_several_pieces_has_the_label_of_the_first(base):
    model, tokenizer = load_base("tokens", base), AutoTokenizer.from_pretrained(base)
    rows = predict(model, tokenizer, ["good,bad"])  # three pieces
    first = logits_of(model, tokenizer, "good,bad").softmax(-1)[1]
    assert len(rows) == 1 and rows[0]["probability"] == pytest.approx(first.max().item(), abs=1e-5)


def test_words_that_do_not_fit_are_told(base, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    model, tokenizer = load_base("tokens", base), AutoTokenizer.from_pretrained(base)
    assert len(predict(model, tokenizer, ["good " * 30])) == 14  # of 16 places two are [CLS] and [SEP]
    assert "Only the first 14 of 30 words" in caplog.text


def test_images(tmp_path):
    base = save_base("image", tmp_path / "base")
    random = np.random.default_rng(0)
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(path)
    Image.new("L", (5, 5), 90).save(tmp_path / "grey.png")
    model = AutoModelForImageClassification.from_pretrained(base)
    processor = AutoImageProcessor.from_pretrained(base)
    rows = predict(model, processor, [*paths, str(tmp_path / "grey.png")], batch_size=2)
    assert [row["input"] for row in rows] == [*paths, str(tmp_path / "grey.png")]
    pixels = processor(Image.open(paths[1]).convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        expected = model(**pixels).logits[0].softmax(0)
    np.testing.assert_allclose(list(rows[1]["probabilities"].values()), expected, atol=1e-5)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="broken.png` cannot be read as an image .*Save it anew"):
        predict(model, processor, [str(tmp_path / "broken.png")])


def test_adapter_and_merged_say_the_same(tmp_path):
    from tests.adapters.saved import adapted

    base = save_base("text", tmp_path / "base")
    from hf_transfer.adapters.saving import save_adapter

    save_adapter(adapted("text", base), tmp_path / "adapter")
    one = predict(*load_adapter(tmp_path / "adapter"), TEXTS)
    two = predict(*load_adapter(tmp_path / "adapter", merge=True), TEXTS)
    assert [row["label"] for row in one] == [row["label"] for row in two]


def test_sound(tmp_path):
    """Of several lengths and rates, in batches with padding: as each recording by itself, under a mask."""
    torch.manual_seed(0)
    model: Any = tiny_wav2vec2(feat_extract_norm="layer", conv_bias=True).eval()
    processor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    random, waves = np.random.default_rng(0), []
    for number, (size, rate) in enumerate([(900, 16000), (1500, 16000), (700, 8000)]):
        waves.append(random.uniform(-0.5, 0.5, size).astype(np.float32))
        soundfile.write(tmp_path / f"{number}.wav", waves[-1], rate, subtype="FLOAT")
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    rows = predict(model, processor, paths, batch_size=3)
    assert [row["input"] for row in rows] == paths
    waves[2] = resampled(waves[2], 8000, 16000)
    for row, wave in zip(rows, waves, strict=True):
        with torch.no_grad():
            expected = model(**processor(wave, sampling_rate=16000, return_tensors="pt")).logits[0].softmax(0)
        assert row["label"] == model.config.id2label[int(expected.argmax())]
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=1e-5)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="broken.wav` cannot be decoded .*Convert it"):
        predict(model, processor, [paths[0], str(tmp_path / "broken.wav")])
    with pytest.raises(ValueError, match="Neither the adapter .* has a tokenizer, image processor or feature extract"):
        predict(model, None, paths)


def test_series_are_refused():
    with pytest.raises(ValueError, match="reads `past_values`: only images, sound and text.*`transformers.pipeline`"):
        predict(CLASSIFIERS[0](), None, ["a.csv"])


def test_no_processor(base):
    with pytest.raises(ValueError, match="Neither the adapter nor its base model has a tokenizer"):
        predict(load_base("text", base), None, TEXTS)
