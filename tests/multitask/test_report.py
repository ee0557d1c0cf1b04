"""Every task against itself alone: signed changes, their intervals, verdicts and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_transfer import compare_tasks
from hf_transfer.functional.bootstrap import paired_intervals
from hf_transfer.multitask.scoring import RowScores
from tests.multitask.running_rows import STARS, TOPIC


def runs(seed_scores, name="topic"):
    """By seed, rows that score as given."""
    return {seed: {name: RowScores(np.asarray(own, float), np.ones(len(own)))} for seed, own in seed_scores.items()}


def share(right, rows=200):
    return [1.0] * right + [0.0] * (rows - right)


def test_the_change_is_relative_to_the_score_alone():
    report = compare_tasks([TOPIC], runs({0: share(150), 1: share(154)}), runs({0: share(100), 1: share(104)}))
    own = report.changes[0]
    assert (own.alone, own.together) == (pytest.approx(0.51), pytest.approx(0.76))
    assert own.change == pytest.approx((0.76 - 0.51) / 0.51) and own.verdict == "helps"
    by_seed = [(0.75 - 0.5) / 0.5, (0.77 - 0.52) / 0.52]
    assert report.overall is not None and report.overall.mean == pytest.approx(np.mean(by_seed))
    assert (own.seeds, own.rows, own.metric) == (2, 200, "accuracy")


def test_of_errors_less_is_better():
    low, high = np.random.default_rng(0).uniform(0, 1, (2, 100)) * [[1.0], [3.0]]
    report = compare_tasks([STARS], runs({0: high}, "stars"), runs({0: low}, "stars"))
    own = report.changes[0]
    assert own.change == pytest.approx(-(high.mean() - low.mean()) / low.mean()) and own.verdict == "hurts"
    assert own.interval[0] < own.change < own.interval[1] < 0
    better = compare_tasks([STARS], runs({0: low}, "stars"), runs({0: high}, "stars")).changes[0]
    assert better.verdict == "helps" and better.interval[0] > 0


def test_the_interval_is_that_of_the_paired_bootstrap():
    random = np.random.default_rng(3)
    together, alone = random.integers(0, 2, (2, 2, 60)).astype(float)
    report = compare_tasks([TOPIC], runs(dict(enumerate(together))), runs(dict(enumerate(alone))), confidence=0.9)
    columns = np.stack([together[0], alone[0], together[1], alone[1]], 1)
    found = paired_intervals(
        columns, np.ones_like(columns), [0, 1, 0, 1], [0, 0, 1, 1], [(0, 1)], confidence=0.9, familywise=False
    )
    ends = np.array([found.low[0], found.high[0]]) / alone.mean()
    np.testing.assert_allclose(report.changes[0].interval, ends)
    assert report.changes[0].verdict == "undecided" and "90% interval" in report.table()


def test_delta_m_is_the_mean_over_tasks():
    together = {0: {**runs({0: share(120)})[0], **runs({0: [0.5] * 50}, "stars")[0]}}
    alone = {0: {**runs({0: share(100)})[0], **runs({0: [1.0] * 50}, "stars")[0]}}
    report = compare_tasks([TOPIC, STARS], together, alone)
    assert report.overall is not None and report.overall.mean == pytest.approx((0.2 + 0.5) / 2)
    assert report.overall.interval is None  # one seed


def test_a_score_of_zero_alone_has_no_relative_change():
    report = compare_tasks([TOPIC], runs({0: share(120)}), runs({0: share(0)}))
    own = report.changes[0]
    assert own.change is None and own.verdict == "helps" and report.overall is None
    assert own.interval[0] < 0.6 < own.interval[1] and own.interval[1] < 1
    assert json.loads(json.dumps(report.as_dict()))["delta_m"] is None and "| topic | accuracy |" in str(report)


def test_rows_that_are_alike_decide_nothing():
    same = runs({0: share(50), 1: share(50)})
    own = compare_tasks([TOPIC], same, same).changes[0]
    assert own.change == 0 and own.interval == (0.0, 0.0) and own.verdict == "undecided"


def test_the_table_and_the_file(tmp_path):
    report = compare_tasks([TOPIC], runs({0: share(150)}), runs({0: share(100)}))
    lines = report.table().splitlines()
    assert lines[0] == "| task | score | alone | together | relative change | 95% interval | the others |"
    assert lines[2].startswith("| topic | accuracy | 0.500 | 0.750 | **+50.0%** | +") and lines[2].endswith(
        "| helps |"
    )
    assert lines[3].startswith("| mean | | | | +50.0% |")
    report.save(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["tasks"]["topic"]["verdict"] == "helps" and stored["delta_m"] == pytest.approx(0.5)


def test_what_it_refuses():
    one = runs({0: share(10)})
    with pytest.raises(ValueError, match=r"Seeds \[0\] together and \[1\] alone: runs cannot be paired. Run both"):
        compare_tasks([TOPIC], one, runs({1: share(10)}))
    with pytest.raises(ValueError, match="Seeds .* cannot be paired"):
        compare_tasks([TOPIC], {}, {})
    with pytest.raises(ValueError, match="Task `stars` has no scores together with seed 0: .* Score every task"):
        compare_tasks([STARS], one, one)
    with pytest.raises(ValueError, match="Task `topic` has no scores alone with seed 0"):
        compare_tasks([TOPIC], one, {0: {}})
    with pytest.raises(
        ValueError, match=r"scored on other rows together \(200\) than alone \(100\) with seed 0: their"
    ):
        compare_tasks([TOPIC], one, runs({0: share(10, rows=100)}))
