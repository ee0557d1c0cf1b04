"""The figure of a distillation: what is drawn where, and what is left out."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from hf_transfer.compare.results import Cell
from hf_transfer.distillation import plots
from hf_transfer.distillation.measuring import Cost
from hf_transfer.distillation.plots import plot_distillation
from tests.distillation.test_report import TEACHER, runs


COSTS = {
    "teacher": Cost(1000, None, 4.0, 5.0, 500.0, 32, "cpu", "float32", 1),
    "student": Cost(100, None, 1.5, 2.0, 900.0, 32, "cpu", "float32", 1),
}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The axes of a figure, which goes into a file all the same."""
    found: list[Any] = []
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: found.append(figure) or save(figure, path))

    def drawn(teacher, cells, costs=None, metric="accuracy"):
        path = tmp_path / "figure.png"
        assert plot_distillation(teacher, cells, costs or {}, metric, path) == path
        assert path.read_bytes().startswith(b"\x89PNG")
        return found.pop().axes

    return drawn


def points(axes) -> list[tuple[float, float]]:
    (container,) = axes.containers
    return [(round(x, 6), y) for x, y in container.lines[0].get_xydata().tolist()]


def bars_of_errors(axes) -> list[float]:
    (segments,) = axes.containers[0].lines[2]
    return [round((right[0] - left[0]) / 2, 6) for left, right in segments.get_segments()]


def lines(axes) -> dict[str, float]:
    handles, labels = axes.get_legend_handles_labels()
    return {label: round(handle.get_xdata()[0], 6) for handle, label in zip(handles, labels, strict=True)}


def test_means_with_their_intervals_the_first_method_on_top(drawn):
    (axes,) = drawn(TEACHER, runs(alone=[0.7, 0.72], kd=[0.8, 0.8], dkd=[0.6, 0.7]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dkd", "kd", "alone"]
    assert axes.get_yticks().tolist() == [0, 1, 2]
    assert points(axes) == [(0.65, 0), (0.8, 1), (0.71, 2)]
    # of two scores: 12.7062 times half their distance
    assert bars_of_errors(axes) == [pytest.approx(12.706205 * 0.05, rel=1e-5), 0, pytest.approx(0.127062, rel=1e-4)]
    assert lines(axes) == {"teacher": 0.9, "alone": 0.71} and axes.get_xlabel() == "test accuracy"
    assert axes.get_legend() is not None


def test_one_seed_has_no_interval_and_validation_rows_stand_in(drawn):
    teacher = Cell("teacher", 0, "", ".", {"eval_macro_f1": 0.5})
    (axes,) = drawn(teacher, [Cell("kd", 0, "", "", {"eval_macro_f1": 0.25})], metric="macro_f1")
    assert points(axes) == [(0.25, 0)] and bars_of_errors(axes) == [0]
    assert lines(axes) == {"teacher": 0.5} and axes.get_xlabel() == "validation macro f1"


def test_a_method_that_diverged_keeps_its_place_without_a_point(drawn):
    (axes,) = drawn(TEACHER, runs(alone=[None], kd=[0.8], dkd=[None, 0.7]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dkd", "kd", "alone"]
    assert points(axes) == [(0.7, 0), (0.8, 1)]
    assert lines(axes) == {"teacher": 0.9}


def test_nothing_to_compare_with_is_no_warning(drawn):
    (axes,) = drawn(Cell("teacher", 0, "", ".", {"test_accuracy": None}), runs(kd=[0.8]))
    assert lines(axes) == {} and points(axes) == [(0.8, 0)]
    (axes,) = drawn(TEACHER, runs(kd=[None]))
    assert points(axes) == [] and lines(axes) == {"teacher": 0.9}


def test_latencies_beside_the_scores_the_teacher_on_top(drawn):
    scores, latencies = drawn(TEACHER, runs(alone=[0.7]), COSTS)
    assert [label.get_text() for label in latencies.get_yticklabels()] == ["student", "teacher"]
    assert [bar.get_width() for bar in latencies.patches] == [1.5, 4.0]
    assert latencies.get_xlabel() == "latency of one row (ms)" and points(scores) == [(0.7, 0)]
    assert latencies.figure.get_size_inches()[0] == 9


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="`plot_distillation` needs matplotlib.*the tables hold the numbers"):
        plot_distillation(TEACHER, runs(alone=[0.7]), {}, "accuracy", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
