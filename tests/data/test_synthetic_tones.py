from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from hf_transfer.data.embedded import tones
from hf_transfer.data.synthetic_tones import KINDS, RATE, synthetic_tones


def heard(rows: int, *kinds: str, noisy: bool = False, seed: int = 0) -> list[np.ndarray]:
    sounds, _ = synthetic_tones(rows, kinds, noisy=noisy, seed=seed)
    return [soundfile.read(io.BytesIO(sound))[0] for sound in sounds]


def peak(wave: np.ndarray) -> float:
    """The loudest frequency in hertz."""
    return float(np.fft.rfftfreq(len(wave), 1 / RATE)[np.abs(np.fft.rfft(wave)).argmax()])


def test_sounds_have_the_length_and_loudness_they_should():
    for wave in heard(2 * len(KINDS), *KINDS) + heard(2 * len(KINDS), *KINDS, noisy=True):
        assert 0.25 * RATE <= len(wave) <= 0.5 * RATE and 0.19 < np.abs(wave).max() <= 0.9


def test_a_tone_keeps_its_pitch_and_a_rising_one_does_not():
    for row, wave in enumerate(heard(12, "tone", "rising", "falling")):
        start, end = peak(wave[: len(wave) // 4]), peak(wave[-len(wave) // 4 :])
        ratio = [1, 1.68, 1 / 1.68][row % 3]  # from the middle of the first quarter to that of the last
        assert end / start == pytest.approx(ratio, rel=0.15), row


def test_noise_has_no_pitch_and_a_tone_has_one():
    for row, wave in enumerate(heard(8, "noise", "tone")):
        power = np.abs(np.fft.rfft(wave)) ** 2
        assert (power.max() / power.sum() > 0.2) == bool(row % 2)


def test_a_row_depends_on_its_number_and_the_seed_alone():
    few, _ = synthetic_tones(3, KINDS)
    many, labels = synthetic_tones(17, KINDS)
    other, _ = synthetic_tones(3, KINDS, seed=1)
    assert many[:3] == few and other != few and labels == [row % 8 for row in range(17)]


def test_kinds_that_do_not_make_a_task_are_refused():
    for kinds in (["tone"], ["tone", "tone"], ["tone", "bark"]):
        with pytest.raises(ValueError, match="are not at least two different kinds .*Pass some of `tone`"):
            synthetic_tones(4, kinds)


def test_splits_are_balanced_and_share_no_sound():
    data = tones(rows=160)
    assert {name: len(split) for name, split in data.items()} == {"train": 96, "validation": 16, "test": 48}
    for split in data.values():
        assert split.features["label"].names == list(KINDS)
        assert set(np.bincount(split["label"][:])) == {len(split) // 8}
    sounds = [row["audio"]["bytes"] for split in data.values() for row in split]
    assert len(set(sounds)) == 160
    other = {row["audio"]["bytes"] for row in tones(rows=160, noisy=True)["train"]}
    assert not other & set(sounds)
    with pytest.raises(ValueError, match="rows=19 cannot fill three splits with 2 classes. Pass 20 or more"):
        tones(["tone", "noise"], rows=19)
