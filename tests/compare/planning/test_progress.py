"""How far a comparison is: one line in a terminal, a line for every run in a log, nothing on other ranks."""

from __future__ import annotations

import io

import pytest

from hf_transfer.compare.cells import FAILED, SKIPPED, CellKey, CellResult, Costs
from hf_transfer.compare.planning import progress as module
from hf_transfer.compare.planning.progress import Progress, named


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(module.logger, "info", found.append)
    return found


def _result(**options):
    defaults = {"scores": {"validation_accuracy": 0.8125}, "costs": Costs(seconds=12.3)}
    return CellResult(CellKey("vit", "full", 1), "f", **{**defaults, **options})


def test_a_log_has_a_line_for_every_run(lines):
    progress = Progress(stream=io.StringIO(), spent=lambda: 75.0)
    progress.plan(3)
    progress.starts(CellKey("vit", "full", 1), 40.0)
    assert lines == []
    progress.ends(_result(), 26.0, score="validation_accuracy")
    progress.ends(_result(status=FAILED, reason="ran out of memory", scores={}), None, score="validation_accuracy")
    progress.ends(_result(), None, score="validation_accuracy", found=True)
    progress.close()
    assert lines == [
        "1 of 3 runs, 1 min 15 s so far, about 26 s left: vit full, seed 1 validation_accuracy 0.8125 in 12 s",
        "2 of 3 runs, 1 min 15 s so far: vit full, seed 1 failed: ran out of memory",
        "3 of 3 runs, 1 min 15 s so far: vit full, seed 1 validation_accuracy 0.8125 (found)",
    ]


def test_a_terminal_has_one_line_that_changes(lines):
    stream = _Terminal()
    progress = Progress(stream=stream)
    progress.plan(2)
    progress.starts(CellKey("vit", "full", 1), 40.0)
    progress.ends(_result(), 26.0)
    progress.starts(CellKey("vit", "lora", 1), 26.0)
    progress.close()
    text = stream.getvalue()
    assert "0/2" in text and "1/2" in text
    assert "vit full, seed 1" in text and "vit lora, seed 1" in text and "about 26 s left" in text
    assert text.count("\n") == 1  # at the end
    assert lines == []


def test_a_failure_stays_in_the_terminal():
    stream = _Terminal()
    progress = Progress(stream=stream)
    progress.plan(2)
    progress.ends(_result(status=FAILED, reason="ran out of memory"), None)
    progress.ends(_result(status=SKIPPED, reason="the budget ended"), None)
    progress.close()
    written = stream.getvalue().replace("\r", "\n").split("\n")
    assert "vit full, seed 1 failed: ran out of memory" in written
    assert "vit full, seed 1 skipped: the budget ended" in written


@pytest.mark.parametrize("kind", [io.StringIO, _Terminal])
def test_silence(kind, lines):
    stream = kind()
    progress = Progress(shown=False, stream=stream)
    progress.plan(1)
    progress.starts(CellKey("vit", "full", 1), 1.0)
    progress.ends(_result(), 1.0)
    progress.passes()
    progress.close()
    assert stream.getvalue() == "" and lines == []
    assert (progress.done, progress.total) == (2, 1)


def test_runs_elsewhere_count(lines):
    progress = Progress(stream=io.StringIO())
    progress.plan(3)
    progress.passes()
    progress.ends(_result(), None)
    assert lines[0].startswith("2 of 3 runs")


def test_more_may_come(lines):
    stream = _Terminal()
    progress = Progress(stream=stream)
    progress.plan(1)
    progress.ends(_result(), None)
    progress.plan(2)
    progress.passes()
    progress.close()
    progress.close()
    assert "1/3" in stream.getvalue() and "2/3" in stream.getvalue()


def test_runs_in_words():
    assert named(CellKey("vit", "full", 0, 0.005)) == "vit full, seed 0, 0.5% of the rows"
    assert named(CellKey("vit", "full", 0, 1 / 3)) == "vit full, seed 0, 33.3% of the rows"
