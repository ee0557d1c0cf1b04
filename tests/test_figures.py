"""Figures of matplotlib, drawn into files."""

from __future__ import annotations

import sys

import pytest

from hf_transfer.figures import new_figure, save_figure


OPTIONS = {"doing": "Curve.plot", "instead": "`values` holds the numbers"}


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("a", b"\x89PNG")]
)
def test_the_suffix_is_the_format(tmp_path, name, start):
    figure = new_figure(2, 1, **OPTIONS)
    figure.subplots().plot([0, 1])
    assert save_figure(figure, tmp_path / "new" / name) == tmp_path / "new" / name
    assert (tmp_path / "new" / name).read_bytes().startswith(start)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_no_window_and_no_global_state():
    figure = new_figure(3, 2, **OPTIONS)
    assert figure.get_size_inches().tolist() == [3, 2]
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="`Curve.plot` needs matplotlib.*pip install matplotlib`; `values` holds"):
        new_figure(2, 1, **OPTIONS)


def test_an_unknown_format_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        save_figure(new_figure(2, 1, **OPTIONS), tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_figure_is_the_same_bytes(tmp_path, suffix):
    files = []
    for name in ("first", "second"):
        figure = new_figure(2, 1, **OPTIONS)
        axes = figure.subplots()
        axes.plot([0, 1], label="line")
        axes.legend()
        files.append(save_figure(figure, tmp_path / f"{name}.{suffix}"))
    assert files[0].read_bytes() == files[1].read_bytes()
