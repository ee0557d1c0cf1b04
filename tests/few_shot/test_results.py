"""Results: means, intervals, differences and tables against values computed apart."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from scipy import stats

from hf_transfer.few_shot.results import FewShotResults


ACCURACIES = np.random.default_rng(0).uniform(0.3, 0.9, (3, 40))
ACCURACIES[1] = ACCURACIES[0] + 0.05 + 0.01 * np.random.default_rng(1).standard_normal(40)
RESULTS = FewShotResults(("mean", "rectified", "other"), ACCURACIES, 5, 1, 15, 7, ("rectified",), {"mean": 0.25})


def interval(values):
    return stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))


def test_summary_is_students_interval_over_episodes():
    summary = RESULTS.summary("mean")
    assert (summary.mean, summary.n) == (pytest.approx(ACCURACIES[0].mean()), 40)
    assert summary.interval == pytest.approx(interval(ACCURACIES[0]))
    assert RESULTS.mean("mean") == pytest.approx(summary.mean)


def test_differences_are_paired():
    """What the episodes have in common cancels: the interval is far narrower than those of the methods."""
    difference = RESULTS.difference("rectified", "mean")
    assert difference.interval == pytest.approx(interval(ACCURACIES[1] - ACCURACIES[0]))
    assert difference.excludes_zero and difference.half_width < 0.1 * RESULTS.summary("mean").half_width
    assert RESULTS.difference("mean", "rectified").mean == pytest.approx(-difference.mean)


def test_best_and_of():
    assert RESULTS.best == RESULTS.methods[int(np.argmax(ACCURACIES.mean(1)))]
    assert (RESULTS.of("other") == ACCURACIES[2]).all() and RESULTS.episodes == 40


def test_confidence_widens_the_interval():
    wide = FewShotResults(("a",), ACCURACIES[:1], 5, 1, 15, confidence=0.99).summary("a").half_width
    assert wide / RESULTS.summary("mean").half_width == pytest.approx(stats.t.ppf(0.995, 39) / stats.t.ppf(0.975, 39))


def test_another_method_may_join():
    joined = RESULTS.with_method("trained", ACCURACIES[2] + 0.1, transductive=True, seconds=3.0)
    assert joined.methods == (*RESULTS.methods, "trained") and joined.transductive == ("rectified", "trained")
    assert joined.difference("trained", "other").mean == pytest.approx(0.1)
    assert joined.seconds == {"mean": 0.25, "trained": 3.0} and RESULTS.seconds == {"mean": 0.25}


def test_records_are_plain_values():
    lines = json.loads(json.dumps(RESULTS.records()))
    assert [line["method"] for line in lines] == list(RESULTS.methods)
    assert [line["transductive"] for line in lines] == [False, True, False]
    assert lines[0]["difference"] is None and lines[1]["difference"] == pytest.approx(0.05, abs=0.01)
    assert lines[0]["seconds"] == 0.25 and lines[1]["seconds"] is None
    assert RESULTS.records("other")[2]["difference"] is None


def test_frame_has_a_line_a_method():
    frame = RESULTS.frame("other")
    assert frame.index.tolist() == list(RESULTS.methods)
    assert frame.loc["mean", "accuracy"] == pytest.approx(ACCURACIES[0].mean())
    assert math.isnan(frame.loc["other", "difference"])


def test_frame_without_pandas_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="`frame` needs pandas.*pip install pandas"):
        RESULTS.frame()


def test_the_table_shows_the_setting_the_kind_and_what_is_sure():
    shown = str(RESULTS)
    assert shown.startswith("5-way 1-shot, 15 queries a class, 40 episodes (seed 7)\n\n| method | accuracy |")
    lines = shown.splitlines()
    assert len(lines) == 7 and "against mean" in lines[2]
    low, high = interval(ACCURACIES[0])
    assert lines[4] == f"| mean | {ACCURACIES[0].mean():.4f} | {low:.4f} to {high:.4f} | | 0.25 |"
    assert lines[5].startswith("| rectified (transductive) |") and "**+0.0" in lines[5]
    assert "**" not in lines[6] or RESULTS.difference("other", "mean").excludes_zero


def test_one_method_and_one_episode():
    alone = FewShotResults(("a",), np.array([[0.5]]), 2, 1, 1)
    assert alone.summary("a").interval is None
    assert str(alone).splitlines()[-1] == "| a | 0.5000 | | |"
    pair = FewShotResults(("a", "b"), np.array([[0.5], [0.7]]), 2, 1, 1)
    assert str(pair).splitlines()[-1] == "| b | 0.7000 | | +0.2000 | |"


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="no method `tim` among mean, rectified, other.*Pass one of these"):
        RESULTS.of("tim")


@pytest.mark.parametrize(("name", "accuracies"), [("mean", np.zeros(40)), ("new", np.zeros(39))])
def test_a_method_of_other_episodes_is_refused(name, accuracies):
    with pytest.raises(ValueError, match=f"`{name}` with accuracies of shape.*one accuracy for each of the same"):
        RESULTS.with_method(name, accuracies)


def test_the_table_may_compare_with_any_method():
    lines = RESULTS.table("other").splitlines()
    assert "against other" in lines[0] and lines[-1].endswith("| | |")
    difference = RESULTS.difference("mean", "other")
    low, high = difference.interval
    shown = f"{difference.mean:+.4f}"
    shown = f"**{shown}**" if difference.excludes_zero else shown
    assert f"| {shown} ({low:+.4f} to {high:+.4f}) |" in lines[2]


def test_seconds_are_shown_where_they_are_known():
    assert [line.split("|")[-2].strip() for line in RESULTS.table().splitlines()[2:]] == ["0.25", "", ""]


def test_equal_methods_differ_by_exactly_nothing():
    twins = FewShotResults(("a", "b"), ACCURACIES[[0, 0]], 5, 1, 15)
    difference = twins.difference("a", "b")
    assert (difference.mean, difference.interval, difference.excludes_zero) == (0.0, (0.0, 0.0), False)
    assert "+0.0000 (+0.0000 to +0.0000)" in str(twins) and "**" not in str(twins)


def test_results_are_not_changed_by_who_joins():
    before = RESULTS.accuracies.copy()
    RESULTS.with_method("a", np.zeros(40)).with_method("b", [0.5] * 40)
    assert (RESULTS.accuracies == before).all() and RESULTS.methods == ("mean", "rectified", "other")
