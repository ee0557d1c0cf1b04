"""The figure of a distance: its panels, what they say, and its file."""

from __future__ import annotations

import dataclasses
import struct
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hf_transfer.selection.distance import domain_distance


@pytest.fixture(scope="module")
def distance():
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(2, 30, 4)) + [[[0.0]], [[1.0]]]
    labels = np.arange(30) % 2
    return domain_distance(source, target, source_labels=labels, target_labels=labels)


def words(path):
    text = path.read_text()
    ET.fromstring(text)
    return text


def test_it_shows_both_domains_and_what_zero_means(distance, tmp_path):
    file = distance.plot(tmp_path / "deep" / "distance.svg")
    assert file == tmp_path / "deep" / "distance.svg"
    text = words(file)
    for word in (
        "both domains",
        "source",
        "target",
        "component 1",
        "proxy A-distance: ",
        "0: not told apart, 2: always told apart",
        "0: equal distributions; dashed: chance",
        f"Frechet distance: {distance.frechet:.3g}",
        "0: equal mean and covariance; dashed: chance",
        "0: features inform both alike, 1: none in common",
    ):
        assert f"<!-- {word}" in text, word
    assert [path.name for path in file.parent.iterdir()] == ["distance.svg"]


def test_without_a_task_there_is_no_bar_of_it(distance, tmp_path):
    text = words(dataclasses.replace(distance, task=None).plot(tmp_path / "a.svg"))
    assert "task" not in text and "Frechet" in text


def test_negative_and_zero_distances_can_be_drawn(distance, tmp_path):
    test = dataclasses.replace(distance.mmd, mmd=-0.02, quantile=-0.01)
    changed = dataclasses.replace(distance, mmd=test, frechet=0.0, frechet_by_chance=0.0, task=0.0)
    assert "-0.02" in words(changed.plot(tmp_path / "a.svg")).replace("−", "-")


def test_the_file_is_the_same_each_time_and_png_without_a_suffix(distance, tmp_path):
    for suffix in (".svg", ".pdf"):
        files = [distance.plot(tmp_path / f"{number}{suffix}") for number in range(2)]
        assert files[0].read_bytes() == files[1].read_bytes(), suffix
    data = distance.plot(tmp_path / "plain").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and min(struct.unpack(">II", data[16:24])) > 400


def test_unknown_formats_and_a_missing_matplotlib_are_told(distance, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"suffix `.docx` is no format.*\*\.png"):
        distance.plot(tmp_path / "a.docx")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"`DomainDistance.plot` needs matplotlib.*print\(distance\)"):
        distance.plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
