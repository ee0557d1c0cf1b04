"""What is read off a curve, with curves whose steepest point and minimum are known, and the plot."""

from __future__ import annotations

import builtins
import math
from types import SimpleNamespace

import numpy as np
import pytest

from hf_transfer.lr_curve import LRFinderResult, smoothed


RATES = tuple(np.logspace(-6, 0, 121).tolist())


def result(losses, *, rates=RATES, width=0.0, base=1e-4, **options) -> LRFinderResult:
    return LRFinderResult(rates[: len(losses)], tuple(losses), base, True, width, **options)


def valley(centre: float, lowest: float) -> list[float]:
    """Falls as a logistic curve around `centre`, rises steeply beyond `lowest`; in decades."""
    x = np.log10(RATES)
    return (2 / (1 + np.exp(4 * (x - centre))) + np.exp(6 * (x - lowest)) * 0.01).tolist()


def test_smoothing_is_the_weighted_mean_of_the_neighbours():
    losses, width = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0], 1.5
    for i, value in enumerate(smoothed(losses, width)):
        weights = [math.exp(-((i - j) ** 2) / (2 * width**2)) for j in range(6)]
        assert value == pytest.approx(sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))
    assert smoothed(losses, 0.0).tolist() == losses
    assert smoothed([2.0] * 9, 3.0) == pytest.approx([2.0] * 9)


def test_smoothing_does_not_shift_a_curve():
    """As a running mean would: a bump stays where it is."""
    bump = np.exp(-0.5 * ((np.arange(121) - 60) / 5.0) ** 2)
    assert smoothed(bump, 6.0).argmax() == 60


@pytest.mark.parametrize("centre", [-4.0, -3.0, -2.5])
@pytest.mark.parametrize("width", [0.0, 6.0])
def test_the_suggestion_is_the_steepest_point(centre, width):
    found = result(valley(centre, centre + 2), width=width)
    assert math.log10(found.suggestion) == pytest.approx(centre, abs=0.06)
    assert found.multiplier == found.suggestion / 1e-4
    lowest = RATES[int(np.argmin(found.smoothed))]
    assert found.tenth_of_minimum == lowest / 10 and found.suggestion < lowest


def test_noise_moves_it_by_less_than_half_a_decade():
    generator = np.random.default_rng(0)
    for _ in range(20):
        noisy = np.asarray(valley(-3.0, -1.0)) + generator.normal(0, 0.15, len(RATES))
        assert abs(math.log10(result(noisy.tolist(), width=6.0).suggestion) + 3) < 0.5


def test_an_explosion_does_not_reach_back():
    losses = [*np.linspace(1.0, 0.5, 60), *np.linspace(0.5, 0.7, 20), 1e12]
    exploded = result(losses, width=4.0)
    assert max(exploded.smoothed) <= 4.0
    assert exploded.suggestion == pytest.approx(result(losses[:-1], width=4.0).suggestion)


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 0.5], [1.0, 1.1, 1.2, 1.3], [1.0] * 5])
def test_a_curve_that_never_falls_suggests_nothing(losses):
    found = result(losses)
    assert found.suggestion is found.tenth_of_minimum is found.multiplier is None
    assert found.settings(SimpleNamespace(learning_rate=1.0)) == {}


def test_settings_scale_every_rate_alike():
    found = result(valley(-3.0, -1.0), base=1e-2)
    args = SimpleNamespace(learning_rate=1e-2, head_lr=0.1, objective_lr=None, learning_rates={"block.0": 1e-3})
    settings = found.settings(args)
    assert settings.keys() == {"learning_rate", "head_lr", "learning_rates"}
    assert settings["learning_rate"] == pytest.approx(found.suggestion)
    assert settings["head_lr"] == pytest.approx(10 * found.suggestion)
    assert settings["learning_rates"]["block.0"] == pytest.approx(found.suggestion / 10)
    assert found.settings(SimpleNamespace(learning_rate=1e-2)).keys() == {"learning_rate"}


# --- the plot


@pytest.mark.parametrize(
    ("name", "magic"), [("curve.png", b"\x89PNG"), ("curve", b"\x89PNG"), ("a/b.pdf", b"%PDF"), ("c.svg", b"<?xml")]
)
def test_the_plot_is_a_file_in_the_format_of_its_suffix(tmp_path, name, magic):
    path = result(valley(-3.0, -1.0), width=3.0).plot(tmp_path / name)
    assert path == tmp_path / name and path.read_bytes().startswith(magic)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_it_draws_both_curves_and_both_suggestions(tmp_path):
    text = result(valley(-3.0, -1.0)).plot(tmp_path / "c.svg").read_text()
    for words in ("loss", "smoothed", "steepest: 0.001", "a tenth of the minimum", "learning_rate"):
        assert f"<!-- {words}" in text


@pytest.mark.parametrize("losses", [[1.0, 1.0, 1.0], [1.0, 2.0], [0.5]])
def test_a_curve_without_suggestion_is_drawn_too(tmp_path, losses):
    assert "steepest" not in result(losses).plot(tmp_path / "c.svg").read_text()


def test_a_plot_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "curve.nonsense").write_text("old")
    with pytest.raises(ValueError, match="nonsense"):
        result(valley(-3.0, -1.0)).plot(tmp_path / "curve.nonsense")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("curve.nonsense", "old")]


def test_it_does_not_choose_a_backend_for_the_process(tmp_path):
    import sys

    sys.modules.pop("matplotlib.pyplot", None)
    result(valley(-3.0, -1.0)).plot(tmp_path / "curve.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="needs matplotlib, which is not installed: .*pip install matplotlib"):
        result([2.0, 1.0, 0.5, 3.0]).plot(tmp_path / "curve.png")
