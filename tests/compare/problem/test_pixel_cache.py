from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, Image, concatenate_datasets
from transformers import Wav2Vec2FeatureExtractor

from hf_transfer import mix_domains
from hf_transfer.compare.problem.pixel_cache import PixelCache, with_augmentation
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.data.sound import stored_sound
from tests.compare.tiny_problems import image_processor, images
from tests.data.test_sound import recordings


def test_beyond_the_limit_images_stay_lazy():
    lazy, kept = image_processor(), 3 * 8 * 8 * 4
    cache = PixelCache(limit=kept * 11)
    first, second = cache.prepared(images(4), images(5), processor=lazy)
    assert "image" not in first.column_names and cache.used == kept * 9
    third, fourth = cache.prepared(images(2), images(1), processor=lazy)
    assert "image" in third.column_names and "image" in fourth.column_names and cache.used == kept * 9
    assert torch.equal(third[1]["pixel_values"], second[1]["pixel_values"]) or len(second) == 5


def test_images_of_several_sizes_stay_lazy():
    processor = image_processor()
    processor.do_resize = False
    mixed = concatenate_datasets([images(3), images(1, size=12)])
    (split,) = PixelCache().prepared(mixed, processor=processor)
    assert "image" in split.column_names and split[3]["pixel_values"].shape == (3, 12, 12)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    rows = images(4).cast_column("image", Image(decode=False)).to_list()
    rows[2]["image"] = {"bytes": b"no image", "path": None}
    broken = type(images(1)).from_list(rows, features=images(1).features)
    with pytest.raises(ValueError, match=r"row 2 cannot be read.*every run would fail.*Repair the file"):
        PixelCache().prepared(broken, processor=image_processor())


def test_kept_images_can_be_mixed_with_those_of_a_target():
    source, target = PixelCache().prepared(images(4), images(6).remove_columns("label"), processor=image_processor())
    mixed = mix_domains(source, target)
    assert mixed["domain"][:] == [0] * 4 + [1] * 6
    assert mixed[5]["labels"] == -100 and torch.equal(mixed[5]["pixel_values"], target[1]["pixel_values"])


def brighter(pixels: torch.Tensor) -> torch.Tensor:
    assert pixels.shape[1:] == (3, 8, 8)
    return pixels + 1


def test_kept_images_are_augmented_a_batch_at_a_time():
    (split,) = PixelCache().prepared(images(5), processor=image_processor())
    changed = with_augmentation(split, brighter)
    for rows in (slice(0, 3), slice(4, 5)):
        plain, bright = split[rows]["pixel_values"], changed[rows]["pixel_values"]
        assert all(torch.equal(one + 1, other) for one, other in zip(plain, bright, strict=True))
    assert changed["labels"][:] == split["labels"][:]


def test_kept_images_go_to_workers_of_a_data_loader():
    (split,) = PixelCache().prepared(images(3), processor=image_processor())
    again = pickle.loads(pickle.dumps(with_augmentation(split.select([2, 0]), brighter)))
    assert torch.equal(again[0]["pixel_values"], split[2]["pixel_values"] + 1)


def test_recordings_of_several_lengths_are_kept_as_they_are_processed():
    extractor: Any = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    split = recordings(*(np.random.default_rng(size).normal(size=size).astype(np.float32) for size in (60, 90, 40)))
    cache = PixelCache()
    kept, target = cache.prepared(split, split.remove_columns("label").select([1]), processor=extractor)
    assert "audio" not in kept.column_names and cache.used == 4 * (60 + 90 + 40 + 90)
    lazy = prepare(split, extractor)
    for one, other in zip(kept, lazy, strict=True):
        assert torch.equal(one["input_values"], other["input_values"]) and one["labels"] == other["labels"]
    assert torch.equal(target[0]["input_values"], lazy[1]["input_values"])
    first, second = (collator_for(extractor)([rows[0], rows[1]]) for rows in (kept, lazy))
    # a mask of one row is of ones: the collator makes that of a batch
    assert torch.equal(first["input_values"], second["input_values"]) and first["labels"].tolist() == [0, 1]
    assert torch.equal(first["attention_mask"], second["attention_mask"])
    (still,) = PixelCache(limit=600).prepared(split, processor=extractor)
    assert "audio" in still.column_names


def test_a_recording_that_cannot_be_read_is_named():
    rows = stored_sound(recordings(np.ones(40), np.ones(40))).to_list()
    rows[1]["audio"] = {"bytes": b"no sound", "path": "far.wav"}
    broken = Dataset.from_list(rows).cast_column("audio", Audio(decode=False))
    message = r"The recording in row 1 cannot be read \(ValueError: The recording `far.wav` cannot be decoded .*Repair"
    with pytest.raises(ValueError, match=message):
        PixelCache().prepared(broken, processor=Wav2Vec2FeatureExtractor())


def test_a_row_can_be_changed_without_the_others_seeing_it():
    (split,) = PixelCache().prepared(images(2), processor=image_processor())
    before = split[0]["pixel_values"].clone()
    split[0]["pixel_values"].zero_()
    assert torch.equal(split[0]["pixel_values"], before) and before.any()
