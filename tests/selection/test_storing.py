from __future__ import annotations

import json

from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.storing import Store, read_results
from tests.selection.made import outcome


def test_a_finished_candidate_is_found_by_its_fingerprint_only(tmp_path):
    store = Store(tmp_path, {"seed": 0})
    store.add(outcome("a", 0.5, logme=0.1))
    store.add(Outcome("b", "f", reason="OSError"))
    again = Store(tmp_path, {"seed": 0})
    kept = again.found("a", "f")
    assert kept is not None and kept.to_json() == outcome("a", 0.5, logme=0.1).to_json()
    assert again.found("a", "other") is None and again.found("c", "f") is None
    assert again.found("b", "f") is None  # what failed is tried again


def test_a_file_of_other_settings_is_set_aside(tmp_path):
    Store(tmp_path, {"seed": 0}).add(outcome("a", 0.5))
    before = (tmp_path / "results.json").read_text()
    silent = Store(tmp_path, {"seed": 1}, write=False)
    silent.add(outcome("b", 0.5))
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]  # another rank neither moves nor writes
    assert (tmp_path / "results.json").read_text() == before
    store = Store(tmp_path, {"seed": 1})
    assert store.found("a", "f") is None
    assert (tmp_path / "results.previous.json").read_text() == before
    store.add(outcome("b", 0.5))
    assert [own["name"] for own in read_results(tmp_path / "results.json")["outcomes"]] == ["b"]


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(None, {})
    store.add(outcome("a", 0.5))
    assert store.found("a", "f") is not None and not list(tmp_path.iterdir())


def test_settings_are_compared_as_they_are_written(tmp_path):
    Store(tmp_path, {"parts": (1, 2), "path": tmp_path}).add(outcome("a", 0.5))
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["parts"] == [1, 2]
    assert Store(tmp_path, {"parts": (1, 2), "path": tmp_path}).found("a", "f") is not None
