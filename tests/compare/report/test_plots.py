from __future__ import annotations

import sys

import numpy as np
import pytest

from hf_transfer.compare.answer import Estimate
from hf_transfer.compare.report import plots
from hf_transfer.compare.report.captions import captions
from hf_transfer.compare.report.drawing import CHOSEN, MUTED, as_is, place_labels
from hf_transfer.compare.report.svg import inline_svg
from tests.compare.report import fakes
from tests.compare.report.parsed import parsed


def points(axes) -> dict[tuple[float, float], tuple[str, str]]:
    """Places of single points, with their markers and colours."""
    single = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() not in ("None", None)]
    return {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0])): (line.get_marker(), line.get_color())
        for line in single
    }


def texts_of(axes) -> list[str]:
    return [own.get_text() for own in axes.texts]


def test_accuracy_has_a_dot_and_an_interval_for_every_score():
    results = fakes.images()
    axes = plots.plot_accuracy(results).axes[0]
    dots = points(axes)
    means = sorted(x for (x, _), (marker, _) in dots.items() if marker == "o")
    assert means == sorted(row.validation.mean for row in results.answer.rows if row.validation)
    tests = sorted(x for (x, _), (marker, _) in dots.items() if marker == "D")
    assert tests == sorted(row.test.mean for row in results.answer.rows if row.test)
    spans = [tuple(map(float, line.get_xdata())) for line in axes.lines if len(line.get_xdata()) == 2]
    sure = [e for row in results.answer.rows for e in (row.validation, row.test) if e and e.low is not None]
    assert sorted(spans) == sorted((own.low, own.high) for own in sure)
    assert texts_of(axes) == ["failed", "skipped", "failed"]
    best = results.best()
    assert best is not None and best.validation is not None
    assert [x for (x, _), (marker, colour) in dots.items() if marker == "o" and colour == CHOSEN] == [
        best.validation.mean
    ]
    names = [own.get_text() for own in axes.get_yticklabels()]
    assert len(names) == len(results.answer.rows) + 2 and names[1] == "Majority class"


def test_names_of_a_single_model_are_left_out():
    names = [own.get_text() for own in plots.plot_accuracy(fakes.two_classes()).axes[0].get_yticklabels()]
    assert len(names) == len(fakes.two_classes().answer.rows)


def test_cost_has_every_strategy_near_the_leaders_and_names_those_below():
    results = fakes.two_classes()
    axes = plots.plot_cost(results).axes[0]
    rows = [row for row in results.answer.rows if row.validation and row.validation.mean > 0.8]
    assert sorted(points(axes)) == sorted((row.costs.seconds, row.validation.mean) for row in rows if row.validation)
    below = [text for text in texts_of(axes) if text.startswith("below")]
    assert below == ["below: Majority class 0.210; From scratch 0.437"]
    assert {"LoRA", "Probe", "Full fine-tuning"} <= set(texts_of(axes))
    low, high = axes.get_xlim()
    assert all(low < row.costs.seconds < high for row in rows)


def test_cost_draws_baselines_that_are_near():
    results = fakes.two_classes()
    near = fakes.row("m", "majority", validation=Estimate(0.9))
    results.answer = type(results.answer)([near, *results.answer.rows[1:]], results.answer.recommendation,
                                          results.answer.verdict)  # fmt: skip
    axes = plots.plot_cost(results).axes[0]
    assert "Majority class, not trained" in texts_of(axes)
    assert [line.get_color() for line in axes.lines if list(line.get_ydata()) == [0.9, 0.9]] == [MUTED]


def test_cost_of_nothing():
    results = fakes.regression()
    results.answer = type(results.answer)([fakes.failed("m", "full")], None, results.answer.verdict)
    assert plots.plot_cost(results).axes[0].lines[:] == []
    assert not points(plots.plot_accuracy(results).axes[0])
    assert "cost" not in captions(results)


def test_of_many_those_that_are_worth_it_have_names():
    rows = [(fakes.row("m", name), seconds, mean) for name, seconds, mean in
            [("full", 1.0, 0.5), ("lora", 2.0, 0.4), ("l2sp", 2.0, 0.6), ("probe", 1.0, 0.5)]]  # fmt: skip
    assert [own[0].strategy for own in plots.worth_it(rows)] == ["full", "l2sp", "probe"]


def test_learning_curve():
    results = fakes.images()
    axes = plots.plot_learning_curve(results).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["LoRA", "Full fine-tuning"]
    own = [point for point in results.answer.curve if point.strategy == "lora"]
    assert list(lines["LoRA"].get_xdata()) == [point.rows for point in own]
    assert list(lines["LoRA"].get_ydata()) == [point.score.mean for point in own]
    assert lines["LoRA"].get_color() == CHOSEN != lines["Full fine-tuning"].get_color()
    assert len(axes.collections) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "learning_curve",
            "no learning curve: there are no scores with fewer labels to draw. Run it with `curve=True`",
        ),
        ("confusion", "no confusion matrix: there are no classes, or no strategy was recommended. Read `answer.rows`"),
        ("features", "no map of features: rows have no single class, or no strategy was recommended. Read"),
    ],
)
def test_what_there_is_not_cannot_be_drawn(name, said):
    results = fakes.regression()
    with pytest.raises(ValueError, match=said):
        getattr(plots, f"plot_{name}")(results)
    assert name not in captions(results)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="`plot_cost` needs matplotlib.*pip install matplotlib`; the tables of"):
        plots.plot_cost(fakes.images())


def test_confusion_of_few_classes_has_all_counts():
    results = fakes.images()
    axes = plots.plot_confusion(results).axes[0]
    assert results.confusion is not None
    counts = np.array(results.confusion)
    drawn = np.zeros_like(counts)
    for own in axes.texts:
        column, line = own.get_position()
        drawn[int(line), int(column)] = int(own.get_text())
    assert (drawn == counts).all()
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    dark = {own.get_position() for own in axes.texts if own.get_color() == "#ffffff"}
    assert dark == {(n, n) for n in range(5)}


def test_confusion_of_many_classes_has_all_names():
    results = fakes.texts()
    axes = plots.plot_confusion(results).axes[0]
    assert not axes.texts
    assert len(axes.get_yticklabels()) == 77
    assert "wide" in vars(captions(results)["confusion"]) and captions(results)["confusion"].wide
    assert not captions(fakes.images())["confusion"].wide


def test_a_class_without_rows_is_no_division_by_zero():
    results = fakes.two_classes()
    results.confusion = [[0, 0], [1, 3]]
    assert np.asarray(plots.plot_confusion(results).axes[0].images[0].get_array())[0].tolist() == [0, 0]


def test_features_are_drawn_once_each():
    for results in (fakes.images(), fakes.texts()):
        figure = plots.plot_features(results)
        found = results.features
        assert found is not None
        panels = [found.before] + ([found.after] if found.after else [])
        assert len(figure.axes) == len(panels)
        for axes, places in zip(figure.axes, panels, strict=True):
            drawn = np.concatenate([np.asarray(own.get_offsets()) for own in axes.collections])
            assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, places))
            assert len(axes.collections) <= 7
    assert plots.plot_features(fakes.images()).axes[0].title.get_text() == "pretrained"


def test_labels_hide_neither_points_nor_each_other():
    draws = np.random.default_rng(0)
    places = [(float(x), float(y)) for x, y in draws.uniform((60, 20), (220, 170), (7, 2))]
    texts = ["Full fine-tuning", "LoRA", "L2-SP", "Probe", "Gradual", "From scratch", "mine"]
    boxes = []
    for (x, y), text, (right, up) in zip(places, texts, place_labels(places, texts, wide=285, high=190), strict=True):
        boxes.append((x + right, y + up - 5, x + right + 5.3 * len(text), y + up + 5))
    for number, one in enumerate(boxes):
        assert one[0] >= 0 and one[2] <= 285
        for other in [*boxes[:number], *((x - 2, y - 2, x + 2, y + 2) for x, y in places)]:
            assert not (
                min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])
            )


def test_names_are_shown_as_they_are():
    assert as_is("a  b\nc") == "a b c"
    assert len(as_is("x" * 100)) == 28
    figure = plots.plot_accuracy(fakes.texts())
    assert "$x_1$" in inline_svg(figure, "own")  # and not a formula


def test_svg_belongs_into_a_page():
    figure = plots.plot_cost(fakes.two_classes())
    text = inline_svg(figure, "one")
    assert text == inline_svg(plots.plot_cost(fakes.two_classes()), "one")
    root = parsed(text)
    assert [own.tag for own in root.below] == ["svg"]
    assert not root.all("style") and not root.all("metadata") and "<?xml" not in text
    ids = [own.get("id") or "" for own in root.all(id=None)]
    assert len(set(ids)) == len(ids) and all(own.startswith("one-") for own in ids)
    assert all((own.get("xlink:href") or "").startswith("#one-") for own in root.all("use"))
    said = [own.text.strip() for own in root.all("text")]
    assert "LoRA" in said and "training time in seconds" in said
    assert "var(--ink)" in text and "var(--series-1)" in text and CHOSEN not in text
    assert "font-family" not in text and "width=" not in text.split(">")[0]
