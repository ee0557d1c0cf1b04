"""The whole answer: what is in the table, that test rows choose nothing, and that it fits in JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from hf_transfer.compare.cells import Costs
from hf_transfer.compare.judging.answering import answer
from tests.compare.scored_runs import drawn, planned, right, run


SHARES = {"majority": 0.3, "scratch": 0.4, "probe": 0.6, "full": 0.82, "lora": 0.81}


def costs(**seconds):
    return {("m", name): Costs(float(value)) for name, value in seconds.items()}


COSTS = costs(majority=0, scratch=9, probe=1, full=10, lora=2)


def test_table():
    found = answer(
        planned(SHARES, seeds=2),
        planned({"full": 0.7}),
        COSTS,
        reasons={("m", "dann"): "no target", ("m", "full"): "a seed failed", ("m", "l2sp"): "the budget ended"},
        statuses={("m", "l2sp"): "skipped", ("m", "full"): "skipped"},
        commands={("m", "full"): "run full"},
        notes={("m", "full"): "rate 1e-4"},
    )
    assert [row.strategy for row in found.rows] == ["full", "lora", "probe", "scratch", "majority", "dann", "l2sp"]
    full, lora, probe, scratch, majority, dann, l2sp = found.rows
    assert (full.status, full.reason, full.seeds, full.command) == ("finished", "a seed failed", [0, 1], "run full")
    assert (dann.status, dann.reason, dann.seeds) == ("failed", "no target", [])
    assert (l2sp.status, dann.validation, dann.against_best, dann.tied) == ("skipped", None, None, False)
    assert full.note == "rate 1e-4" and lora.costs == Costs(2.0) and dann.costs == Costs()
    assert full.test.mean == pytest.approx(0.7) and lora.test is None
    assert lora.validation.low < lora.validation.mean == pytest.approx(0.81)
    assert [row.tied for row in found.rows] == [True, True, False, False, False, False, False]
    assert full.against_best.mean == full.against_best.low == 0
    assert lora.against_best.mean == pytest.approx(-0.01) and scratch.against_best.mean == pytest.approx(-0.42)
    assert probe.against_scratch.mean == pytest.approx(0.2) and probe.against_scratch.decided
    assert scratch.against_scratch is None and majority.against_best.decided
    assert found.recommendation.strategy == "lora" and found.verdict.verdict == "positive"


def test_test_rows_choose_nothing():
    generator = np.random.default_rng(0)
    runs = drawn(generator, SHARES, seeds=3, rows=100, effect=0.02)
    tested = drawn(generator, SHARES, seeds=3, rows=70)
    other = {key: dict(own) for key, own in tested.items()}
    keys = list(other)
    swapped = {key: other[keys[-place - 1]] for place, key in enumerate(keys)}  # the worst look best
    first, second, third = (answer(runs, test, COSTS) for test in (tested, swapped, {}))
    assert [row.test for row in first.rows] != [row.test for row in second.rows]
    stripped = [replace(one, rows=[replace(row, test=None) for row in one.rows]) for one in (first, second, third)]
    assert stripped[0] == stripped[1] == stripped[2]


def test_scratch_is_that_of_the_same_model():
    runs = planned({"full": 0.8, "scratch": 0.3}, model="vit") | planned({"full": 0.7, "scratch": 0.5}, model="bit")
    found = answer(runs, {}, {})
    against = {(row.model, row.strategy): row.against_scratch for row in found.rows}
    assert against["vit", "full"].mean == pytest.approx(0.5) and against["bit", "full"].mean == pytest.approx(0.2)
    # the verdict is on the best of either
    assert found.verdict.against_scratch.mean == pytest.approx(0.3)
    assert {(row.model, row.strategy) for row in found.rows if row.tied} == {("vit", "full")}


def test_curve_and_outlook_are_of_the_recommended():
    curve = {("m", "lora", 0.5): (50, {0: right(0.6)}), ("m", "lora", 1.0): (100, {0: right(0.81)})}
    found = answer(planned(SHARES), {}, COSTS, curve=curve)
    assert [point.rows for point in found.curve] == [50, 100]
    assert found.outlook.labels.startswith("Twice as many labels would likely bring 0.210 or less: ")
    assert found.outlook.strategy.startswith("full has the best mean; lora differs from it by")
    plain = answer(planned(SHARES), {}, COSTS)
    assert plain.outlook.labels == "" and plain.curve == ()


def test_nothing_finished_or_nothing_worth_taking():
    found = answer({}, {}, {}, reasons={("m", "full"): "out of memory"})
    assert (found.recommendation, found.outlook, found.verdict.verdict) == (None, None, "undecided")
    assert [row.status for row in found.rows] == ["failed"]
    found = answer(planned({"majority": 0.5, "scratch": 0.4, "full": 0.45}), {}, COSTS)
    assert found.recommendation is None and "no strategy is worth taking" in found.verdict.sentence
    found = answer({("m", "full"): {}}, {}, {}, statuses={("m", "full"): "skipped"})
    assert found.rows[0].status == "skipped"


def test_it_is_json_and_deterministic():
    generator = np.random.default_rng(0)
    runs = drawn(generator, SHARES, seeds=3, rows=60, folds=True)
    labels = np.arange(60) % 3
    runs = {
        key: {s: run(one.scores, ids=one.ids, labels=labels) for s, one in own.items()} for key, own in runs.items()
    }
    found = answer(runs, runs, COSTS, label_names=["a", "b", "c"])
    written = json.dumps(asdict(found), allow_nan=False)
    assert json.loads(written)["verdict"]["classes"][0]["label"] == "a"
    assert answer(runs, runs, COSTS, label_names=["a", "b", "c"]) == found
    assert answer(runs, runs, COSTS, label_names=["a", "b", "c"], seed=1) != found
    single = answer({("m", "full"): {0: run([1])}}, {}, {})
    assert json.loads(json.dumps(asdict(single), allow_nan=False))["rows"][0]["validation"]["low"] is None


def test_the_order_in_which_runs_finished_plays_no_part():
    runs = drawn(np.random.default_rng(0), SHARES | {"twin": 0.7, "other": 0.7}, seeds=3, rows=50, effect=0.02)
    labels = np.arange(50) % 2
    runs = {key: {s: run(one.scores, labels=labels) for s, one in own.items()} for key, own in runs.items()}
    curve = {(*key, 1.0): (10, own) for key, own in runs.items()}
    backwards = {key: dict(reversed(list(own.items()))) for key, own in reversed(list(runs.items()))}
    again = {key: (10, backwards[key[:2]]) for key in reversed(list(curve))}
    costs_again = dict(reversed(list(COSTS.items())))
    assert answer(runs, runs, COSTS, curve=curve) == answer(backwards, backwards, costs_again, curve=again)


def test_more_seeds_are_narrower():
    runs = drawn(np.random.default_rng(1), SHARES, seeds=5, rows=200, effect=0.02)
    widths = []
    for seeds in (3, 5):
        table = {key: {s: own[s] for s in range(seeds)} for key, own in runs.items()}
        rows = answer(table, {}, COSTS).rows
        widths.append(np.mean([row.validation.high - row.validation.low for row in rows if row.validation]))
    assert widths[1] < widths[0]


def test_large_tables_take_seconds():
    generator = np.random.default_rng(0)
    shares = {"majority": 0.2, "scratch": 0.4} | {f"strategy {number}": 0.7 for number in range(10)}
    runs = drawn(generator, shares, seeds=5, rows=2000)
    start = time.process_time()
    answer(runs, runs, {})
    assert time.process_time() - start < 10
