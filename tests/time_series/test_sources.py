"""Windows of several source series."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_transfer.time_series.sources import Source, SourceWindows, sources_of
from tests.time_series.tiny_forecasters import H, L, series, windows


OPTIONS = {
    "context_length": L,
    "prediction_length": H,
    "split": {"fractions": (0.7, 0.15, 0.15)},
    "one_channel": True,
    "masked": False,
    "stride": 1,
}


def test_every_window_of_every_channel_is_a_row_scaled_by_the_training_rows_of_its_series():
    given = [series(120, 3), series(80, 1, name="short", seed=1)]
    sources = sources_of(given, **OPTIONS)
    assert [len(source.train) for source in sources] == [3 * (84 - L - H + 1), 56 - L - H + 1]
    for one, source in zip(given, sources, strict=True):
        known = one.values[: source.parts.train.stop]
        scaled = (one.values - known.mean(0)) / known.std(0)
        item = source.train[1]  # the second channel of the first window; of the one-channel series the second window
        expected = scaled[:L, 1] if len(one.channels) > 1 else scaled[1 : L + 1, 0]
        np.testing.assert_allclose(item["past_values"][:, 0], expected, rtol=1e-5, atol=1e-6)
        assert item["future_values"].shape == (H, 1)


@pytest.mark.parametrize("masked", [False, True])
def test_rows_after_the_evaluation_part_change_nothing(masked):
    given = series(120)
    source = Source(given, **{**OPTIONS, "masked": masked})
    stop = source.parts.eval.stop
    other = replace(given, values=np.r_[given.values[:stop], given.values[stop:] * 100 + 7])
    again = Source(other, **{**OPTIONS, "masked": masked})
    for first, second in ((source.train, again.train), (source.eval, again.eval)):
        assert len(first) == len(second)
        for number in range(len(first)):
            for name, tensor in first[number].items():
                assert torch.equal(tensor, second[number][name])


def test_the_evaluation_part_changes_nothing_of_the_training_windows():
    given = series(120)
    source = Source(given, **OPTIONS)
    stop = source.parts.train.stop
    other = replace(given, values=np.r_[given.values[:stop], given.values[stop:] * 100 + 7])
    again = Source(other, **OPTIONS)
    assert all(
        torch.equal(source.train[number][name], again.train[number][name])
        for number in range(len(source.train))
        for name in ("past_values", "future_values")
    )


def test_masked_windows_of_the_evaluation_hold_no_training_row_where_there_is_room():
    roomy = Source(series(300), **{**OPTIONS, "masked": True, "prediction_length": 1})
    assert roomy.eval.starts[0] - L == roomy.parts.eval.start
    narrow = Source(series(100), **{**OPTIONS, "masked": True, "prediction_length": 1})
    assert narrow.eval.starts[0] == narrow.parts.eval.start


@pytest.mark.parametrize(("mix", "shares"), [("proportional", [0.75, 0.25]), ("sqrt", [0.634, 0.366])])
def test_batches_hold_each_series_in_its_share(mix, shares):
    long, short = windows(15 * 4 + L + H - 1), windows(5 * 4 + L + H - 1)
    both = SourceWindows([long, short], mix)
    assert len(both) == 80
    sampler = both.sampler(batch_size=20, ranks=1, seed=0)
    rows = list(sampler)
    first = [sum(row < 60 for row in rows[start : start + 20]) / 20 for start in range(0, 80, 20)]
    np.testing.assert_allclose(np.mean(first), shares[0], atol=0.03)
    assert sampler.shares == pytest.approx(shares, abs=1e-3)
    if mix == "proportional":
        assert sorted(rows) == list(range(80))


def test_facts_say_what_was_used():
    facts = Source(series(120, missing=0.1), **OPTIONS).facts()
    assert facts["training_rows"] == [0, 84] and facts["eval_rows"] == [84, 102]
    assert facts["first_date"].startswith("2020-01-01") and facts["last_date"].startswith("2020-04-11")
    assert 0.03 < facts["missing_share"] < 0.2


def test_no_series_and_an_unknown_mix_are_refused():
    with pytest.raises(ValueError, match="There is no series to pretrain on"):
        sources_of([], **OPTIONS)
    with pytest.raises(ValueError, match="mix='cube' is no way to mix series"):
        SourceWindows([windows()], "cube")  # type: ignore[arg-type]
