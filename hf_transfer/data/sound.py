"""Recordings as samples: decoded with libsndfile, averaged to one channel, resampled to the rate of a model."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Audio, Dataset
from torch import Tensor


__all__ = ["SoundCollator", "SoundTransform", "resampled", "samples", "stored_sound"]


def samples(sound: Any, rate: int, *, seconds: float | None = None, where: str | None = None) -> np.ndarray:
    """
    The samples of a recording: the mean of its channels, at the rate of a model.

    Args:
        sound (`Any`):
            What a column of sound gives: `{"bytes", "path"}` as it is stored, `{"array", "sampling_rate"}` with an
            array `(N,)` or `(channels, N)`, a decoder of torchcodec; or the path of a file.
        rate (`int`):
            Samples a second of the result.
        seconds (`float`, *optional*):
            Keep the first so many; the rest of a file is not read.
        where (`str`, *optional*):
            How errors call a recording without a path.

    Returns:
        `np.ndarray`: `(N,)` float32, mostly in [-1, 1].

    Degenerate cases:
        A recording of zeros is returned as zeros: silence is an answer, and extractors divide by a variance that is
        kept from zero. A short one stays short: whether there is a window of sound in it, [`SoundTransform`] tells.

    Raises:
        ImportError: if there is something to decode and soundfile is not installed.
        FileNotFoundError: if the file is missing.
        ValueError: if it cannot be decoded, has no samples, or some that are not finite.

    Example:
        >>> samples({"array": np.ones((2, 8000)), "sampling_rate": 8000}, 16000, seconds=0.5).shape
        (8000,)
    """
    name = _name(sound, where)
    if isinstance(sound, dict) and sound.get("array") is not None:
        wave, own_rate = np.asarray(sound["array"], dtype=np.float32), int(sound["sampling_rate"])
    elif not isinstance(sound, dict) and hasattr(sound, "get_all_samples"):  # torchcodec, not imported here
        decoded = sound.get_all_samples()
        wave, own_rate = np.asarray(decoded.data, dtype=np.float32), int(decoded.sample_rate)
    else:
        wave, own_rate = _decoded(sound, name, seconds)
    wave = wave.reshape(-1) if wave.ndim == 1 else wave.mean(axis=0)
    if seconds is not None:
        wave = wave[: max(1, round(seconds * own_rate))]
    if not len(wave):
        raise ValueError(f"{name} has no samples: there is nothing to hear. Record it anew, or drop the row.")
    if not np.isfinite(wave).all():
        raise ValueError(
            f"{name} has samples that are not finite numbers: one of them makes all outputs of a model NaN. Repair "
            "the file, or drop the row."
        )
    return np.ascontiguousarray(resampled(wave, own_rate, rate), dtype=np.float32)


def resampled(wave: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    r"""
    Samples at another rate, by a polyphase filter that removes what the new rate cannot hold.

    With the rates in lowest terms, $u / d$ = new / old, it is the signal with $u - 1$ zeros between samples, through a
    low-pass with the cut at $1 / \max(u, d)$ of half the rate, every $d$-th sample of it.

    Args:
        wave (`np.ndarray`): `(N,)` samples.
        rate, new_rate (`int`): samples a second, before and after.

    Returns:
        `np.ndarray`: `(ceil(N * new_rate / rate),)`, of the type of `wave`.

    Degenerate cases:
        Equal rates return `wave` itself.

    Example:
        >>> resampled(np.zeros(441, dtype=np.float32), 44_100, 16_000).shape
        (160,)
    """
    if rate == new_rate:
        return wave
    from scipy.signal import resample_poly

    shared = math.gcd(rate, new_rate)
    return resample_poly(wave, new_rate // shared, rate // shared).astype(wave.dtype)


def stored_sound(split: Dataset) -> Dataset:
    """The split with its column `audio`, if it has one, as stored: nothing decodes it on the way."""
    feature = split.features.get("audio")
    if not isinstance(feature, Audio) or not feature.decode:
        return split
    return split.cast_column("audio", Audio(decode=False))


@dataclass(frozen=True)
class SoundTransform:
    """
    Turns the column `audio` into a model's inputs, each recording by itself; other columns are handed on.

    Recordings are decoded, resampled to the rate of the extractor and cut to its `max_seconds`, if it has been given
    some ([`hf_transfer.models.load_processor`]), when a batch is fetched. It is pickled into data loader workers.

    Args:
        processor (`SequenceFeatureExtractor`): of the model.

    Raises:
        ValueError: if a recording cannot be read, or is too short for one window of a spectrogram.
    """

    processor: Any

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The inputs of each row by name."""
        if "audio" not in batch:
            return batch
        rate, seconds = int(self.processor.sampling_rate), getattr(self.processor, "max_seconds", None)
        found: dict[str, list[Any]] = {}
        for sound in batch["audio"]:
            wave = samples(sound, rate, seconds=seconds)
            inputs = self._heard(wave, rate, _name(sound, None))
            for name in inputs:
                found.setdefault(name, []).append(inputs[name][0])
        return {**{name: values for name, values in batch.items() if name != "audio"}, **found}

    def _heard(self, wave: np.ndarray, rate: int, name: str) -> Any:
        """What the extractor makes of one recording; of less than a window they give errors, nothing, or NaN."""
        reason = ""
        try:
            with np.errstate(invalid="ignore", divide="ignore"):
                inputs = self.processor(wave, sampling_rate=rate, return_tensors="pt")
            main: Tensor = inputs[self.processor.model_input_names[0]]
            if main.numel() and bool(main.isfinite().all()):
                return inputs
        except ValueError as error:
            reason = f" ({error})"
        raise ValueError(
            f"{name} has {len(wave)} samples at {rate} a second, of which {type(self.processor).__name__} makes no "
            f"input{reason}: a spectrogram is of whole windows of sound, mostly 25 ms. Drop the row, or record more."
        )


class SoundCollator:
    """
    Makes a batch of recordings: padded at their end as the extractor pads, and everything else stacked.

    A mask goes with them where the extractor says so (`return_attention_mask`). Without one, as for the wav2vec2 whose
    first norm is over time, what the model says of a row depends on how long the others are.

    Args:
        processor (`SequenceFeatureExtractor`): of the model.

    Example:
        >>> import torch
        >>> from transformers import Wav2Vec2FeatureExtractor
        >>> collate = SoundCollator(Wav2Vec2FeatureExtractor(return_attention_mask=True))
        >>> batch = collate([{"input_values": torch.ones(n), "labels": n} for n in (2, 3)])
        >>> batch["input_values"].tolist(), batch["attention_mask"].tolist()
        ([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [[1, 1, 0], [1, 1, 1]])
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of rows."""
        from transformers import default_data_collator

        names = [name for name in (self.processor.model_input_names[0], "attention_mask") if name in rows[0]]
        padded = self.processor.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
        rest = [{name: value for name, value in row.items() if name not in names} for row in rows]
        return {**padded, **(default_data_collator(rest) if rest[0] else {})}


def _name(sound: Any, where: str | None) -> str:
    path = sound.get("path") if isinstance(sound, dict) else sound if isinstance(sound, (str, os.PathLike)) else None
    return f"The recording `{path}`" if path else f"The recording {where}" if where else "A recording"


def _decoded(sound: Any, name: str, seconds: float | None) -> tuple[np.ndarray, int]:
    """`(channels, N)` float32 samples and their rate."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise ImportError(
            f"Sound is decoded by soundfile, which is not installed ({error}): recordings cannot be read. Run "
            '`pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    content: bytes | None
    path: Any
    content, path = (sound.get("bytes"), sound.get("path")) if isinstance(sound, dict) else (None, sound)
    if content is None and path is None:
        raise ValueError(
            f"{name} is missing: its row holds neither bytes nor a path, so there is nothing to hear. Drop the row."
        )
    if content is None and not os.path.exists(os.fspath(path)):
        raise FileNotFoundError(
            f"{name} does not exist: its row in the data set points to a file that was moved. Put it back, or load "
            "the data set again."
        )
    try:
        with soundfile.SoundFile(os.fspath(path) if content is None else io.BytesIO(content)) as file:
            frames = -1 if seconds is None else max(1, round(seconds * file.samplerate))
            return file.read(frames, dtype="float32", always_2d=True).T, file.samplerate
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: of headerless .raw files
        raise ValueError(
            f"{name} cannot be decoded ({error}): libsndfile {soundfile.__libsndfile_version__} reads WAV, FLAC, OGG, "
            "MP3, AIFF and AU. Convert it, for instance with `ffmpeg -i file file.wav`, or drop the row."
        ) from error
