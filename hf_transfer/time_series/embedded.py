"""Made-up series that need no network: a long source, a short target of the same kind, and labelled short ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_transfer.data.columns import listed
from hf_transfer.time_series.series import Series


if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = ["CLASSES", "EMBEDDED_CLASSES", "EMBEDDED_SERIES", "embedded_classes", "embedded_series"]

EMBEDDED_SERIES = ("series/source", "series/target")
EMBEDDED_CLASSES = "series/classes"

CLASSES = ("wave", "pulses", "sawtooth", "chirp")
"""Shapes of the labelled series."""

_START = np.datetime64("2020-01-01T00", "ns")
_HOUR = np.timedelta64(1, "h")


def embedded_series(name: str) -> Series:
    """
    One of `EMBEDDED_SERIES`, always the same.

    Every channel is a mixture of a daily and a weekly profile, a slow trend and correlated noise, with hours as rows.
    `series/source` has 4 channels over 4,000 hours. `series/target` begins after it and has 3 over 1,200, mixes the
    same profiles in other proportions on other levels under more noise, and lacks 1 % of its values and half a day of
    rows: what is learned of profiles on the first helps on the second, where there is too little to learn them from.

    Args:
        name (`str`): `"series/source"` or `"series/target"`.

    Raises:
        ValueError: if there is no such series.

    Example:
        >>> source, target = (embedded_series(name) for name in EMBEDDED_SERIES)
        >>> source.values.shape, target.values.shape
        ((4000, 4), (1200, 3))
    """
    if name not in EMBEDDED_SERIES:
        raise ValueError(
            f"There is no embedded series `{name}`; nothing can be read. Pass one of "
            f"{listed(f'embedded:{known}' for known in EMBEDDED_SERIES)}."
        )
    source = name == "series/source"
    rows, channels, noise = (4000, 4, 0.15) if source else (1200, 3, 0.25)
    random = np.random.default_rng(1 if source else 2)
    mixture = random.normal(size=(_profiles(np.arange(1)).shape[1], channels))
    trend = np.cumsum(random.normal(scale=0.02, size=(rows, channels)), axis=0)
    values = _profiles(np.arange(rows)) @ mixture + trend + noise * _correlated(random, rows, channels)
    values = values * random.uniform(2, 20, channels) + random.uniform(-50, 50, channels)
    if not source:
        values[random.random(values.shape) < 0.01] = np.nan
        values[500:512] = np.nan
    # the target comes after the source, on the same hour of the same day of the week
    dates = _START + (np.arange(rows) + (0 if source else 24 * 168)) * _HOUR
    return Series(name, dates, values, tuple("abcd"[:channels]), _HOUR)


def embedded_classes() -> DatasetDict:
    """
    Labelled series of 64 rows and 2 channels in four [`CLASSES`] by their shape, in splits train (160 rows),
    validation (40) and test (120), balanced and always the same.

    The columns are `values`, a list of 64 lists of 2 numbers, and `label`. Phase, period, level and scale differ from
    row to row and tell nothing of the class; the second channel is the first one later, under noise.

    Example:
        >>> train = embedded_classes()["train"]
        >>> np.shape(train[0]["values"]), train.features["label"].names
        ((64, 2), ['wave', 'pulses', 'sawtooth', 'chirp'])
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import List as Listed

    features = Features({"values": Listed(Listed(Value("float32"))), "label": ClassLabel(names=list(CLASSES))})
    random = np.random.default_rng(3)
    splits = {}
    for split, count in (("train", 160), ("validation", 40), ("test", 120)):
        labels = [row % len(CLASSES) for row in range(count)]
        values = [_shape(CLASSES[label], random).tolist() for label in labels]
        splits[split] = Dataset.from_dict({"values": values, "label": labels}, features=features)
    return DatasetDict(splits)


def _profiles(rows: np.ndarray) -> np.ndarray:
    """`(N, 6)` what channels are mixtures of: hours of the day, days of the week, and both together."""
    day, week = 2 * np.pi * rows / 24, 2 * np.pi * rows / 168
    morning = np.exp(3 * (np.cos(day - 2.2) - 1))
    evening = np.exp(5 * (np.cos(day - 4.8) - 1))
    working = 1 / (1 + np.exp(-6 * (np.cos(week - 2.3) + 0.3)))
    return np.stack([np.sin(day), morning, evening, working, morning * working, np.sin(week)], axis=1)


def _correlated(random: np.random.Generator, rows: int, channels: int) -> np.ndarray:
    """Noise of unit variance that forgets 20 % an hour."""
    shocks = random.normal(size=(rows, channels)) * 0.6
    noise = np.zeros((rows, channels))
    for row in range(1, rows):
        noise[row] = 0.8 * noise[row - 1] + shocks[row]
    return noise


def _shape(name: str, random: np.random.Generator) -> np.ndarray:
    """`(64, 2)` a series of this class."""
    period, phase = random.uniform(12, 24), random.uniform(0, 1)
    later = np.array([0.0, random.uniform(0.1, 0.4)])
    turns = np.arange(64)[:, None] / period + phase - later
    if name == "wave":
        drawn = np.sin(2 * np.pi * turns)
    elif name == "pulses":
        drawn = 2.5 * np.exp(20 * (np.cos(2 * np.pi * turns) - 1)) - 0.5
    elif name == "sawtooth":
        drawn = 2 * (turns % 1) - 1
    else:
        drawn = np.sin(2 * np.pi * turns * (0.5 + np.arange(64)[:, None] / 64))
    return drawn * random.uniform(0.5, 2) + random.normal(size=2) + 0.3 * random.normal(size=(64, 2))
