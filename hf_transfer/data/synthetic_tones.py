"""Made-up sounds of eight kinds in two domains: clean, and noisy as over a bad telephone line."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_transfer.data.columns import listed


RATE = 8_000
"""Samples a second."""

KINDS = ("tone", "rising", "noise", "tremolo", "falling", "vibrato", "chord", "clicks")
"""What is heard: the classes, in the order of their numbers."""

__all__ = ["KINDS", "RATE", "synthetic_tones"]


def synthetic_tones(
    rows: int, kinds: Sequence[str] = KINDS, *, noisy: bool = False, seed: int = 0
) -> tuple[list[bytes], list[int]]:
    """
    Sounds as 16-bit WAV files in memory, and the numbers of their kinds, which take turns.

    A sound has 0.25 to 0.5 seconds, a pitch of 200 to 1,600 Hz, and a loudness of its own. It is a steady tone; one
    that rises or falls by an octave; one that swells and fades (tremolo) or sways in pitch (vibrato) 6 to 12 times a
    second; a chord of three tones; clicks with the pitch of a tone, 8 to 20 a second; or noise. All have a faint hiss.
    In the noisy domain it is heard with an echo, through the band of 300 to 3,000 Hz, over a background of brown
    noise that is 10 to 20 decibels lower.

    Args:
        rows (`int`): how many.
        kinds (`Sequence[str]`, *optional*, defaults to all): of `KINDS`, in the order of their numbers.
        noisy (`bool`, *optional*, defaults to `False`): whether from the second domain.
        seed (`int`, *optional*, defaults to 0): a row depends on it and on its number alone.

    Raises:
        ValueError: if fewer than two different kinds are given, or an unknown one.

    Example:
        >>> sounds, labels = synthetic_tones(3, ["noise", "tone"])
        >>> labels, sounds[0][:4]
        ([0, 1, 0], b'RIFF')
    """
    kept = list(kinds)
    if len(set(kept)) != len(kept) or len(kept) < 2 or not set(kept) <= set(KINDS):
        raise ValueError(
            f"kinds={kept} are not at least two different kinds of sound; a classifier needs two classes. Pass some "
            f"of {listed(KINDS)}."
        )
    labels = [row % len(kept) for row in range(rows)]
    return [_wav(_sound(kept[label], noisy, [seed, row])) for row, label in enumerate(labels)], labels


def _sound(kind: str, noisy: bool, seed: list[int]) -> np.ndarray:
    random = np.random.default_rng(seed)
    length = random.uniform(0.25, 0.5)
    time = np.arange(round(length * RATE)) / RATE
    pitch, beat = 200 * 8 ** random.uniform(), random.uniform(6, 12)
    made = _made(kind, time, pitch, beat, random)
    edge = np.minimum(time, time[::-1]) / 0.01  # 10 ms in and out
    made = made * np.clip(edge, 0, 1) / max(float(np.abs(made).max()), 1e-9)
    made = made + 0.01 * random.standard_normal(len(made)) if not noisy else _over_the_line(made, random)
    return random.uniform(0.2, 0.9) * made / max(float(np.abs(made).max()), 1e-9)


def _made(kind: str, time: np.ndarray, pitch: float, beat: float, random: np.random.Generator) -> np.ndarray:
    start, turn = random.uniform(0, 2 * np.pi), 2 * np.pi * time
    if kind == "noise":
        return random.standard_normal(len(time))
    if kind in ("rising", "falling"):
        share = time / time[-1]
        octaves = share if kind == "rising" else 1 - share
        return np.sin(start + 2 * np.pi * np.cumsum(pitch * 2**octaves) / RATE)
    if kind == "vibrato":
        return np.sin(start + 2 * np.pi * np.cumsum(pitch * (1 + 0.15 * np.sin(beat * turn))) / RATE)
    if kind == "chord":
        return np.sum([np.sin(start * n + pitch * ratio * turn) for n, ratio in enumerate((1, 1.26, 1.5))], axis=0)
    tone = np.sin(start + pitch * turn)
    if kind == "tremolo":
        return tone * (0.5 + 0.5 * np.sin(beat * turn + random.uniform(0, 2 * np.pi)))
    if kind == "clicks":
        since = (time * random.uniform(8, 20) + random.uniform()) % 1  # as a share of the time to the next
        return tone * np.exp(-30 * since)
    return tone


def _over_the_line(made: np.ndarray, random: np.random.Generator) -> np.ndarray:
    delay = round(random.uniform(0.01, 0.04) * RATE)
    heard = made + 0.5 * np.pad(made, (delay, 0))[: len(made)]
    brown = np.cumsum(random.standard_normal(len(made)))
    brown -= np.linspace(brown[0], brown[-1], len(brown))
    spectra = np.fft.rfft([heard, brown])
    frequencies = np.fft.rfftfreq(len(made), 1 / RATE)
    spectra[:, (frequencies < 300) | (frequencies > 3000)] = 0
    heard, brown = np.fft.irfft(spectra, len(made))
    ratio = 10 ** (random.uniform(10, 20) / 20)
    return heard + brown * (np.std(heard) / max(float(np.std(brown)), 1e-9) / ratio)


def _wav(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    # the stub takes no file object for "wb"
    file: Any = wave.open(content, "wb")
    with file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return content.getvalue()
