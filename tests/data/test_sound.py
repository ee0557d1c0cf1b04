from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, Features, Value
from transformers import (
    ASTFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    ViTImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from hf_transfer import mix_domains
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.data.sound import SoundCollator, SoundTransform, resampled, samples, stored_sound


def sine(rate: int, hertz: float, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def wav(values: np.ndarray, rate: int = 8000, *, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    content = io.BytesIO()
    soundfile.write(content, values, rate, format=kind, subtype=subtype)
    return content.getvalue()


def recordings(*waves: np.ndarray, rate: int = 16000) -> Dataset:
    """A column of sound with the type that a data set of the Hub has."""
    stored = {"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": ClassLabel(names=["a", "b"])}
    rows = {"audio": [{"bytes": wav(wave, rate), "path": None} for wave in waves], "label": [0, 1] * len(waves)}
    rows["label"] = rows["label"][: len(waves)]
    return Dataset.from_dict(rows, features=Features(stored)).cast_column("audio", Audio())


# --- decoding


@pytest.mark.parametrize(
    ("kind", "subtype", "error"), [("WAV", "FLOAT", 0), ("WAV", "PCM_16", 1e-4), ("FLAC", None, 1e-4)]
)
def test_bytes_are_decoded(kind, subtype, error):
    wave = 0.5 * sine(8000, 440)
    found = samples({"bytes": wav(wave, kind=kind, subtype=subtype), "path": None}, 8000)
    assert found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, wave, atol=error)


def test_paths_are_decoded(tmp_path):
    wave = sine(8000, 440)
    (tmp_path / "a.wav").write_bytes(wav(wave))
    for sound in ({"bytes": None, "path": str(tmp_path / "a.wav")}, tmp_path / "a.wav", str(tmp_path / "a.wav")):
        np.testing.assert_array_equal(samples(sound, 8000), wave)


def test_channels_are_averaged():
    left, right = sine(8000, 440), sine(8000, 100)
    stereo = np.stack([left, right], axis=1)
    for sound in ({"bytes": wav(stereo), "path": None}, {"array": stereo.T, "sampling_rate": 8000}):
        np.testing.assert_allclose(samples(sound, 8000), (left + right) / 2, atol=1e-7)


def test_a_decoder_of_torchcodec_is_taken_as_it_is():
    class Samples:
        data, sample_rate = torch.tensor([[1.0, 3.0], [3.0, 5.0]]), 8000

    class Decoder:
        def get_all_samples(self) -> Samples:
            return Samples()

    assert samples(Decoder(), 8000).tolist() == [2.0, 4.0]


def test_the_first_seconds_are_kept():
    wave = sine(8000, 440, seconds=1.0)
    for sound in ({"bytes": wav(wave), "path": None}, {"array": wave, "sampling_rate": 8000}):
        np.testing.assert_array_equal(samples(sound, 8000, seconds=0.25), wave[:2000])
        np.testing.assert_array_equal(samples(sound, 8000, seconds=9.0), wave)
    assert len(samples({"bytes": wav(wave), "path": None}, 16000, seconds=0.25)) == 4000


def test_silence_is_an_answer():
    assert not samples({"bytes": wav(np.zeros(100)), "path": None}, 8000).any()


# --- resampling


@pytest.mark.parametrize(("rate", "new"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 11025)])
def test_a_sine_stays_a_sine_at_another_rate(rate, new):
    """Away from the ends, where the filter sees zeros."""
    found, expected = resampled(sine(rate, 440), rate, new), sine(new, 440)
    assert len(found) == -(-round(rate * 0.5) * new // rate) and found.dtype == np.float32
    middle = slice(len(found) // 10, -len(found) // 10)
    np.testing.assert_allclose(found[: len(expected)][middle], expected[: len(found)][middle], atol=5e-3)


def test_what_the_new_rate_cannot_hold_is_removed_and_not_folded_back():
    found = resampled(sine(16000, 7000), 16000, 8000)
    middle = found[200:-200]
    assert np.abs(middle).max() < 0.01
    assert np.abs(sine(16000, 7000)[::2]).max() > 0.9  # dropping samples would leave a tone of 1,000 Hz


def test_the_same_rate_changes_nothing():
    wave = sine(8000, 440)
    assert resampled(wave, 8000, 8000) is wave


# --- refused


def test_a_file_that_is_none_of_sound(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    message = r"The recording `.*bad.wav` cannot be decoded .*libsndfile .* reads WAV.*Convert it.*or drop the row"
    with pytest.raises(ValueError, match=message):
        samples(str(tmp_path / "bad.wav"), 16000)
    with pytest.raises(ValueError, match="The recording `far.wav` cannot be decoded"):
        samples({"bytes": b"no sound", "path": "far.wav"}, 16000)


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match="`.*gone.wav` does not exist: its row .*Put it back, or load"):
        samples({"bytes": None, "path": str(tmp_path / "gone.wav")}, 16000)
    with pytest.raises(ValueError, match="is missing: its row holds neither bytes nor a path.*Drop the row"):
        samples({"bytes": None, "path": None}, 16000)


def test_a_recording_without_samples(tmp_path):
    (tmp_path / "empty.wav").write_bytes(wav(np.zeros(0)))
    with pytest.raises(ValueError, match="empty.wav` has no samples: there is nothing to hear. Record it anew"):
        samples(str(tmp_path / "empty.wav"), 16000)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(value):
    with pytest.raises(
        ValueError, match="`x.wav` has samples that are not finite.*all outputs of a model NaN. Repair"
    ):
        samples({"bytes": wav(np.array([0.0, value])), "path": "x.wav"}, 8000)


def test_without_soundfile(monkeypatch):
    content = wav(sine(8000, 440))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"decoded by soundfile, which is not installed .*pip install .*\[recipes\]"):
        samples({"bytes": content, "path": None}, 8000)


# --- too short for the extractor


@pytest.mark.parametrize("samples_there", [1, 100])
def test_less_than_a_window_of_sound(samples_there, tmp_path):
    (tmp_path / "click.wav").write_bytes(wav(np.ones(samples_there), 16000))
    message = f"click.wav` has {samples_there} samples at 16000 a second, of which ASTFeatureExtractor makes no input "
    with pytest.raises(ValueError, match=message + r"\(.*\): a spectrogram is of whole windows.*25 ms. Drop the row"):
        SoundTransform(ASTFeatureExtractor(num_mel_bins=16, max_length=20))({"audio": [str(tmp_path / "click.wav")]})


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")
@pytest.mark.parametrize("samples_there", [399, 500])
def test_a_window_that_gives_nothing_or_not_a_number(samples_there):
    heard = {"array": np.ones(samples_there, np.float32), "sampling_rate": 16000}
    with pytest.raises(ValueError, match=f"A recording has {samples_there} samples.* makes no input: a spectrogram"):
        SoundTransform(SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16))({"audio": [heard]})


# --- preparing


def extractor(**options: Any) -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(**{"do_normalize": False, **options})


def test_sound_is_processed_when_a_row_is_fetched():
    split = prepare(recordings(sine(8000, 440), sine(8000, 100), rate=8000), extractor())
    row = split[1]
    assert split.column_names == ["audio", "labels"] and row["labels"] == 1
    assert row["input_values"].shape == (8000,)
    np.testing.assert_array_equal(row["input_values"], resampled(sine(8000, 100), 8000, 16000))


def test_each_recording_is_normalised_by_itself():
    waves = [np.random.default_rng(0).normal(3, 2, size).astype(np.float32) for size in (500, 300)]
    found = SoundTransform(extractor(do_normalize=True))(
        {"audio": [{"array": wave, "sampling_rate": 16000} for wave in waves]}
    )
    for wave, values in zip(waves, found["input_values"], strict=True):
        np.testing.assert_allclose(values, (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7), atol=1e-5)


def test_rows_are_padded_and_masked_as_the_extractor_says():
    split = prepare(recordings(np.ones(4), np.ones(2)), extractor(return_attention_mask=True))
    batch = collator_for(extractor(return_attention_mask=True))([split[0], split[1]])
    assert batch["input_values"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]] and batch["labels"].tolist() == [0, 1]
    split = prepare(recordings(np.ones(4), np.ones(2)), extractor())
    assert set(collator_for(extractor())([split[0], split[1]])) == {"input_values", "labels"}


@pytest.mark.parametrize(
    ("processor", "name", "shape"),
    [
        (ASTFeatureExtractor(num_mel_bins=16, max_length=20), "input_values", (20, 16)),
        (WhisperFeatureExtractor(feature_size=16, chunk_length=1), "input_features", (16, 100)),
    ],
)
def test_spectrograms_have_one_length(processor, name, shape):
    split = prepare(recordings(sine(16000, 440, 0.1), sine(16000, 440, 2.0)), processor)
    batch = collator_for(processor)([split[0], split[1]])
    assert set(batch) == {name, "labels"} and batch[name].shape == (2, *shape)


def test_the_longest_recording_is_a_field_of_the_extractor(tmp_path):
    processor: Any = extractor()
    processor.max_seconds = 0.25
    processor.save_pretrained(tmp_path)
    again = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    for each in (processor, again):
        split = prepare(recordings(sine(16000, 440), sine(16000, 440, 0.1)), each)
        assert [len(row["input_values"]) for row in split] == [4000, 1600]


def test_unlabelled_rows_and_other_columns_are_handed_on():
    split = prepare(recordings(np.ones(4), np.ones(2)).rename_column("label", "domain"), extractor())
    assert split[1]["domain"] == 1 and "labels" not in split[1]
    batch = SoundCollator(extractor())([{"input_values": torch.ones(3)}, {"input_values": torch.ones(2)}])
    assert set(batch) == {"input_values"} and batch["input_values"].tolist()[1] == [1, 1, 0]


def test_the_transform_travels_to_the_workers_of_a_loader():
    transform: Any = prepare(recordings(np.ones(4)), extractor()).format["format_kwargs"]["transform"]
    again = pickle.loads(pickle.dumps(transform))
    assert len(again({"audio": [{"bytes": wav(np.ones(4), 16000), "path": None}]})["input_values"][0]) == 4
    assert transform({"domain": [1]}) == {"domain": [1]}


def test_two_domains_of_sound_are_mixed():
    source, target = (prepare(recordings(np.full(4, level), np.full(2, level)), extractor()) for level in (0.25, 0.5))
    mixed: Any = mix_domains(source, target)
    assert mixed[3]["labels"] == -100 and mixed[3]["domain"] == 1 and mixed[3]["input_values"].tolist() == [0.5, 0.5]


def test_a_column_of_sound_is_never_decoded_by_datasets():
    split = recordings(np.ones(4))
    assert isinstance(stored_sound(split)[0]["audio"]["bytes"], bytes)
    texts = Dataset.from_dict({"text": ["a"]})
    assert stored_sound(texts) is texts


def test_sound_needs_a_feature_extractor():
    message = (
        "holds sound, but the model came with ViTImage.*Choose a model with a feature extractor, or .*input_columns"
    )
    with pytest.raises(ValueError, match=message):
        prepare(recordings(np.ones(4)), ViTImageProcessorPil())


def test_files_on_disk_are_named_when_a_batch_fails(tmp_path: Path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    rows = Dataset.from_dict({"audio": [str(tmp_path / "bad.wav")]}).cast_column("audio", Audio(decode=False))
    with pytest.raises(ValueError, match=r"bad.wav` cannot be decoded"):
        prepare(rows, extractor())[0]
