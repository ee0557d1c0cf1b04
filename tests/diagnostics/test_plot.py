from __future__ import annotations

import struct
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from datasets import Dataset

from hf_transfer.diagnostics import plot as module
from hf_transfer.diagnostics.plot import feature_plot


def normal(rows, seed, shift=0.0, width=5):
    return np.random.default_rng(seed).normal(size=(rows, width)) + shift


def pair(rows=20, shift=2.0):
    return normal(rows, 0), normal(rows - 4, 1, shift)


def test_a_panel_for_each_pair_with_its_title(tmp_path):
    file = feature_plot({"before": pair(), "after": pair(shift=0.0)}, tmp_path / "deep" / "shift.svg")
    assert file == tmp_path / "deep" / "shift.svg"
    text = file.read_text()
    ET.fromstring(text)
    for word in ("before", "after", "source", "target", "component 1"):
        assert f"<!-- {word}" in text, word
    assert [path.name for path in file.parent.iterdir()] == ["shift.svg"]  # nothing unfinished is left


def test_the_file_is_the_same_each_time(tmp_path):
    for suffix in ("svg", "png", "pdf"):
        files = [feature_plot({"now": pair()}, tmp_path / f"{n}.{suffix}", labels=None) for n in range(2)]
        assert files[0].read_bytes() == files[1].read_bytes(), suffix


def test_png_is_what_a_name_without_suffix_gets(tmp_path):
    file = feature_plot({"now": pair()}, tmp_path / "plot")
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 400 and height > 400


def test_the_components_are_of_both_domains_together():
    """The direction between the domains has the most variance of both together, and none within one."""
    source, target = pair(30, shift=0.0)
    source, target = source * [1, 1, 1, 1, 1e-3], target * [1, 1, 1, 1, 1e-3] + [0, 0, 0, 0, 50.0]
    places, labels, domain, names = module.projected((source, target), (None, None), "pca", "features", 100, 0)
    assert abs(places[domain == 0, 0].mean() - places[domain == 1, 0].mean()) == pytest.approx(50.0, rel=1e-2)
    assert names[0] == "component 1 (99% of variance)"
    assert places.shape == (56, 2) and (labels == -1).all()
    centred = np.concatenate([source, target]) - np.concatenate([source, target]).mean(0)
    first = np.linalg.svd(centred)[2][0]
    np.testing.assert_allclose(np.abs(places[:, 0]), np.abs(centred @ first), atol=1e-9)


def test_few_or_constant_features_can_be_drawn(tmp_path):
    feature_plot({"narrow": (normal(5, 0, width=1), normal(5, 1, width=1))}, tmp_path / "a.png")
    feature_plot({"flat": (np.ones((4, 3)), np.ones((4, 3)))}, tmp_path / "b.png")
    feature_plot({"narrow": (normal(5, 0, width=1), normal(5, 1, width=1))}, tmp_path / "c.png", method="tsne")


def test_t_sne_is_of_a_stated_number_of_rows(tmp_path):
    def drawing(most):
        return module.projected(pair(40), (None, None), "tsne", "features", most, 0)

    places, _, domain, names = drawing(12)
    assert names == ["t-SNE 1", "t-SNE 2"]
    assert [(domain == number).sum() for number in (0, 1)] == [12, 12]
    np.testing.assert_array_equal(places, drawing(12)[0])
    assert module.MOST_ROWS["tsne"] == 1000
    assert feature_plot({"now": pair(40)}, tmp_path / "t.png", method="tsne", max_rows=12).stat().st_size > 1000


def test_points_can_be_told_apart_in_grey():
    def brightness(colour):
        return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]

    domains = [brightness(module._colour(-1, number, [])) for number in (0, 1)]
    assert abs(domains[0] - domains[1]) > 0.3
    classes = [brightness(module._colour(label, 0, [0, 1, 2, 5])) for label in (0, 1, 2, 5)]
    assert min(np.diff(classes)) > 0.1
    assert len(set(module._MARKERS)) == 2


def test_classes_have_a_legend_and_rows_without_one_are_drawn(tmp_path):
    source, target = pair()
    labels = np.arange(20) % 3
    text = feature_plot({"now": (source, target)}, tmp_path / "a.svg", labels=(labels, None)).read_text()
    assert all(f"<!-- class {label} -->" in text for label in range(3)) and "class 3" not in text
    by_title = {"now": (labels, np.full(16, -100))}
    text = feature_plot({"now": (source, target)}, tmp_path / "b.svg", labels=by_title).read_text()
    assert text.count("<!-- class ") == 3


def test_columns_of_labels_are_not_read():
    table = Dataset.from_dict({"features": normal(8, 0).tolist(), "labels": list(range(8))})
    places, labels, *_ = module.projected((table, table), (None, None), "pca", "features", 100, 0)
    assert (labels == -1).all() and len(places) == 16


def test_no_state_of_pyplot_is_touched(tmp_path, monkeypatch):
    import matplotlib

    sys.modules.pop("matplotlib.pyplot", None)
    before = matplotlib.rcParams["svg.hashsalt"]
    feature_plot({"now": pair()}, tmp_path / "a.svg")
    assert "matplotlib.pyplot" not in sys.modules and matplotlib.rcParams["svg.hashsalt"] == before


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    file = feature_plot({"now": pair()}, tmp_path / "a.png")
    before = file.read_bytes()

    def half(self, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(KeyboardInterrupt):
        feature_plot({"now": pair()}, file)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No panel was given.*\"before\""):
        feature_plot({}, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r'method="umap" is unknown.*pca, tsne'):
        feature_plot({"now": pair()}, tmp_path / "a.png", method="umap")
    with pytest.raises(ValueError, match=r"suffix `.gif` is no format.*\*\.png, \*\.svg, \*\.pdf"):
        feature_plot({"now": pair()}, tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"20 rows of features and 3 labels.*-100"):
        feature_plot({"now": pair()}, tmp_path / "a.png", labels=([0, 1, 2], None))
    with pytest.raises(ValueError, match="width 5, the target of width 2"):
        feature_plot({"now": (normal(8, 0), normal(8, 0, width=2))}, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("package", "command"),
    [("matplotlib.figure", "pip install matplotlib"), ("sklearn.manifold", r"hf-transfer-learning\[recipes\]")],
)
def test_without_its_packages_it_says_what_to_install(package, command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=command):
        feature_plot({"now": pair()}, tmp_path / "a.png")
