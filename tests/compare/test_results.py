"""Finished runs on disk."""

from __future__ import annotations

import json
import os

import pytest

from hf_transfer.compare.results import Cell, Results, fingerprint


def cell(method="dann", seed=0, digest="f"):
    return Cell(method, seed, digest, f"{method}/seed_{seed}", {"target_accuracy": 0.5}, {"snd": 1.0}, {"a": None})


def saved(folder, *cells, settings=None):
    results = Results(folder, settings or {"steps": 3})
    for own in cells:
        (folder / own.folder).mkdir(parents=True, exist_ok=True)
        (folder / own.folder / "config.json").write_text("{}")
        results.add(own)
    return results


def test_what_was_added_is_found_by_the_next_process(tmp_path):
    saved(tmp_path, cell(), cell("mcc", 1))
    again = Results(tmp_path, {"steps": 3})
    assert again.found("mcc", 1, "f") == cell("mcc", 1) and again.found("mcc", 0, "f") is None
    assert again.found("dann", 0, "other options") is None
    (tmp_path / "dann/seed_0/config.json").unlink()
    assert again.found("dann", 0, "f") is None  # its model is gone


def test_other_settings_set_the_file_aside(tmp_path, caplog):
    saved(tmp_path, cell())
    before = (tmp_path / "results.json").read_text()
    fresh = Results(tmp_path, {"steps": 4})
    assert not fresh.cells and not (tmp_path / "results.json").exists()
    assert (tmp_path / "results.previous.json").read_text() == before


def test_without_resume_nothing_counts_and_a_reader_moves_nothing(tmp_path):
    saved(tmp_path, cell())
    assert not Results(tmp_path, {"steps": 4}, write=False).cells and (tmp_path / "results.json").exists()
    assert not Results(tmp_path, {"steps": 3}, resume=False).cells
    assert (tmp_path / "results.previous.json").exists()


def test_a_file_is_whole_at_every_moment(tmp_path, monkeypatch):
    results = saved(tmp_path, cell())
    before = (tmp_path / "results.json").read_text()

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        results.add(cell("mcc"))
    assert (tmp_path / "results.json").read_text() == before


def test_what_is_no_results_file(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON .*Remove the file"):
        Results(tmp_path, {})
    (tmp_path / "results.json").write_text(json.dumps({"accuracy": 1}))
    with pytest.raises(ValueError, match="no `runs`, and would be overwritten. Name another"):
        Results(tmp_path, {})


def test_fingerprints_tell_options_apart():
    assert fingerprint({"dann": {"weight": 1.0}}) != fingerprint({"dann": {"weight": 0.5}})
