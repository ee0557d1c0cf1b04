from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image
from tokenizers import normalizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPProcessor,
    ViTImageProcessorPil,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_transfer.features.cache.digests import processor_digest
from tests.features.cache.digest_program import tokenizer


def test_a_call_with_padding_and_truncation_leaves_no_trace():
    one = tokenizer()
    digest = processor_digest(one)
    one(["a b c", "a"], padding=True, truncation=True, max_length=2)
    one("a b", padding="max_length", max_length=8)
    assert one.backend_tokenizer.padding is not None
    assert processor_digest(one) == digest
    one(["a"])
    assert processor_digest(one) == digest == processor_digest(tokenizer())


@pytest.mark.parametrize(
    "change",
    [
        lambda one: setattr(one, "padding_side", "left"),
        lambda one: setattr(one, "truncation_side", "left"),
        lambda one: setattr(one, "model_max_length", 8),
        lambda one: setattr(one, "pad_token", "a"),
        lambda one: setattr(one, "model_input_names", ["input_ids"]),
        lambda one: one.add_tokens(["g"]),
        lambda one: one.add_special_tokens({"cls_token": "[CLS]"}),
        lambda one: setattr(one.backend_tokenizer, "normalizer", normalizers.NFC()),
    ],
)
def test_every_option_of_a_fast_tokenizer_counts(change):
    one = tokenizer()
    change(one)
    assert processor_digest(one) != processor_digest(tokenizer())


def test_the_vocabulary_of_a_fast_tokenizer_counts():
    digests = [processor_digest(tokenizer(words)) for words in ("a b c d e f", "a b c d e g", "b a c d e f", "a b c")]
    assert len(set(digests)) == 4


def test_a_tokenizer_that_was_saved_and_loaded(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    loaded = type(tokenizer()).from_pretrained(tmp_path)
    assert processor_digest(loaded) == processor_digest(tokenizer())


def slow(folder, words: str = "a b c", **options):
    folder.mkdir(exist_ok=True)
    vocabulary = folder / "vocab.json"
    pieces = ["<pad>", "<s>", "</s>", "<unk>", "|", *words.split()]
    vocabulary.write_text("{" + ", ".join(f'"{piece}": {number}' for number, piece in enumerate(pieces)) + "}")
    return Wav2Vec2CTCTokenizer(str(vocabulary), **options)


def test_slow_tokenizers_count_by_what_they_save(tmp_path):
    one = slow(tmp_path / "a")
    assert not one.is_fast
    digest = processor_digest(one)
    one(["a b", "c"], padding=True)
    assert digest == processor_digest(one) == processor_digest(slow(tmp_path / "b"))
    others = [
        slow(tmp_path / "c", "a c b"),
        slow(tmp_path / "d", do_lower_case=True),
        slow(tmp_path / "e", padding_side="left"),
    ]
    assert len({digest, *map(processor_digest, others)}) == 4


IMAGE = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


@pytest.mark.parametrize(
    "options",
    [
        *({"do_resize": False}, {"size": {"height": 8, "width": 8}}, {"resample": 0}, {"do_rescale": False}),
        *(
            {"rescale_factor": 1 / 127},
            {"do_normalize": False},
            {"image_mean": [0.1, 0.5, 0.5]},
            {"image_std": [1, 1, 1]},
        ),
    ],
)
def test_every_field_of_an_image_processor_counts(options):
    assert processor_digest(ViTImageProcessorPil(**options)) != processor_digest(ViTImageProcessorPil())


def test_an_image_processor_is_the_same_after_use_and_after_saving(tmp_path):
    one = ViTImageProcessorPil()
    digest = processor_digest(one)
    one(IMAGE)
    assert processor_digest(one) == digest
    one.save_pretrained(tmp_path)
    assert processor_digest(ViTImageProcessorPil.from_pretrained(tmp_path)) == digest
    assert processor_digest(CLIPImageProcessorPil()) != digest


def test_every_field_of_a_feature_extractor_counts():
    digest = processor_digest(Wav2Vec2FeatureExtractor())
    for options in ({"sampling_rate": 8000}, {"do_normalize": False}, {"padding_value": 1.0}, {"feature_size": 2}):
        assert processor_digest(Wav2Vec2FeatureExtractor(**options)) != digest
    whisper = WhisperFeatureExtractor()
    digest = processor_digest(whisper)
    whisper(np.zeros(1600, np.float32), sampling_rate=16000)
    assert processor_digest(whisper) == digest
    whisper.mel_filters = whisper.mel_filters * 2  # `to_dict` does not show them
    assert processor_digest(whisper) != digest


def test_a_processor_of_two_counts_by_both():
    def both(**options):
        return CLIPProcessor(CLIPImageProcessorPil(**options), tokenizer("a b", padding_side="right"))

    one = both()
    digest = processor_digest(one)
    one.tokenizer(["a", "a b"], padding=True)
    assert processor_digest(one) == digest == processor_digest(both())
    assert processor_digest(both(do_resize=False)) != digest
    one.tokenizer.padding_side = "left"
    assert processor_digest(one) != digest


def test_anything_else_that_can_be_pickled():
    assert processor_digest(None) == processor_digest(None) != processor_digest(str.upper)
    assert processor_digest(str.upper) == processor_digest(str.upper) != processor_digest(str.lower)


def test_a_copy_is_the_same():
    for one in (tokenizer(), ViTImageProcessorPil(), WhisperFeatureExtractor()):
        assert processor_digest(copy.deepcopy(one)) == processor_digest(one)
