"""The made-up series are the same every time and hold what they are said to hold."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hf_transfer.time_series.accuracy import seasonal_scale
from hf_transfer.time_series.embedded import CLASSES, EMBEDDED_SERIES, embedded_classes, embedded_series


@pytest.mark.parametrize("name", EMBEDDED_SERIES)
def test_a_series_is_the_same_every_time_and_quickly_made(name):
    began = time.process_time()
    first = embedded_series(name)
    assert time.process_time() - began < 1
    assert np.array_equal(first.values, embedded_series(name).values, equal_nan=True)


@pytest.mark.parametrize("name", EMBEDDED_SERIES)
def test_days_repeat_and_weeks_repeat_better(name):
    values = embedded_series(name).values
    hour, day, week = (seasonal_scale(values, period).mean() for period in (12, 24, 168))
    assert day < 0.7 * hour and week < 0.95 * day


def test_the_target_is_short_has_gaps_and_comes_after_the_source():
    source, target = (embedded_series(name) for name in EMBEDDED_SERIES)
    assert not np.isnan(source.values).any() and len(target) < len(source) / 3
    assert 0.01 < np.isnan(target.values).mean() < 0.04 and np.isnan(target.values).all(1).sum() == 12
    assert target.dates[0] > source.dates[-1] and len(target.channels) != len(source.channels)
    assert (target.dates[0] - source.dates[0]) % np.timedelta64(7, "D") == np.timedelta64(0, "D")


def test_profiles_of_the_source_say_more_of_the_target_than_its_own_level():
    # the mean week of the source, mixed anew, explains most of the target
    source, target = (embedded_series(name) for name in EMBEDDED_SERIES)
    week = np.stack([source.values[hour::168].mean(0) for hour in range(168)])
    basis = np.column_stack([np.tile(week - week.mean(0), (8, 1))[: len(target)], np.ones(len(target))])
    for channel in target.values.T:
        seen = ~np.isnan(channel)
        fit = basis[seen] @ np.linalg.lstsq(basis[seen], channel[seen], rcond=None)[0]
        assert np.var(channel[seen] - fit) < 0.7 * np.var(channel[seen])


def test_labelled_series_are_balanced_and_of_one_shape():
    splits = embedded_classes()
    assert {name: len(split) for name, split in splits.items()} == {"train": 160, "validation": 40, "test": 120}
    for split in splits.values():
        assert np.array(split["values"]).shape == (len(split), 64, 2)
        assert np.bincount(split["label"]).tolist() == [len(split) // len(CLASSES)] * len(CLASSES)
    assert embedded_classes()["test"][5] == splits["test"][5]


def test_level_and_scale_tell_nothing_of_the_class_but_the_shape_does():
    from sklearn.neighbors import KNeighborsClassifier

    splits = embedded_classes()
    values = {name: np.array(split["values"]) for name, split in splits.items()}

    def accuracy(features) -> float:
        classifier = KNeighborsClassifier(5).fit(features(values["train"]), splits["train"]["label"])
        return float(classifier.score(features(values["test"]), splits["test"]["label"]))

    def spectrum(series: np.ndarray) -> np.ndarray:
        standard = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
        return np.abs(np.fft.rfft(standard[..., 0], axis=1))

    assert accuracy(lambda series: series.mean(1)) < 0.45
    assert accuracy(spectrum) > 0.7
