"""The time of a comparison: read from a command line, counted over sessions, said in words."""

from __future__ import annotations

import json
import math

import pytest

from hf_transfer.compare.planning.budget import Budget, Clock, duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        (" 1H30M ", 5400),
        ("1d2h3m4s", 86400 + 7200 + 180 + 4),
        ("1.5h", 5400),
        (".5m", 30),
        ("120", 120),
        ("0.25", 0.25),
        (45, 45),
        (2.5, 2.5),
    ],
)
def test_a_budget_is_read(text, seconds):
    assert Budget.parse(text).seconds == seconds


@pytest.mark.parametrize(
    "text", ["", "  ", "soon", "30 minutes", "5x", "30m1h", "1h1h", "m", "1:30", "-5m", "1e3s", "."]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(
        ValueError, match=r"is no time: it is not known when to stop\. Give seconds, or a time such as"
    ):
        Budget.parse(text)


@pytest.mark.parametrize("seconds", [0, "0", "0m", -3, math.inf, math.nan])
def test_no_time_at_all_is_refused(seconds):
    with pytest.raises(ValueError, match="in which something could run.*Give a positive one such as 30m"):
        Budget.parse(seconds)


def test_a_budget_is_taken_as_it_is():
    budget = Budget(10, cells=0.5)
    assert Budget.parse(budget) is budget


def test_parts_of_a_budget_end_one_after_the_other():
    budget = Budget(1000)
    ends = [budget.until(part) for part in ("pilots", "extras", "cells", "curve", "all")]
    assert ends == sorted(ends) == [250, 750, 900, 970, 1000]


class _Now:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def test_a_clock_counts_from_the_start():
    now = _Now(100.0)
    clock = Clock(started=90.0, now=now)
    assert clock.spent == 10
    now.now = 130.0
    assert clock.spent == 40
    assert clock.at(50.0) == 140.0
    assert clock.started + 50 == clock.at(50.0)


def test_time_of_earlier_sessions_counts(tmp_path):
    now = _Now()
    first = Clock(tmp_path, now=now)
    now.now = 30.0
    first.cells["cells/m/full/seed_0"] = 12.0
    first.speeds["m/row"] = 0.5
    first.save()
    now.now = 50.0  # 20 s that nobody wrote down, of a process that was killed
    second = Clock(tmp_path, started=1000.0, now=_Now(1005.0))
    assert second.spent == 35.0
    assert second.at(60.0) == 1030.0
    assert second.cells == {"cells/m/full/seed_0": 12.0} and second.speeds == {"m/row": 0.5}
    second.save()
    assert Clock(tmp_path, now=_Now(7.0)).spent == 35.0


def test_saving_twice_counts_once(tmp_path):
    now = _Now()
    clock = Clock(tmp_path, now=now)
    for now.now in (1.0, 2.0, 3.0):
        clock.save()
    assert Clock(tmp_path, now=_Now()).spent == 3.0


def test_earlier_sessions_may_be_left_out(tmp_path):
    clock = Clock(tmp_path, started=0.0, now=_Now(9.0))
    clock.save()
    assert Clock(tmp_path, now=_Now(), resume=False).spent == 0


def test_one_process_writes(tmp_path):
    Clock(tmp_path, write=False).save()
    assert not list(tmp_path.iterdir())
    Clock().save()  # and none without a folder


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seconds": "long"}', "{}"])
def test_a_damaged_file_counts_nothing_and_says_so(tmp_path, content, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    (tmp_path / "time.json").write_text(content)
    assert Clock(tmp_path, now=_Now()).spent == 0
    assert "the time of earlier sessions does not count" in caplog.text


def test_the_file_is_json_and_nothing_else_is_left(tmp_path):
    Clock(tmp_path, started=0.0, now=_Now(2.0)).save()
    assert [path.name for path in tmp_path.iterdir()] == ["time.json"]
    assert json.loads((tmp_path / "time.json").read_text()) == {"seconds": 2.0, "cells": {}, "speeds": {}}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599.6, "1 h"),
        (3600 * 5 + 90, "5 h 2 min"),
    ],
)
def test_times_in_words(seconds, words):
    assert duration(seconds) == words
