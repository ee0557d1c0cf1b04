"""Runs of a comparison on disk."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_transfer.compare.cells import FAILED, SKIPPED, CellKey, CellResult, Costs, Predictions
from hf_transfer.compare.execution.store import CELL, MODEL, CellStore


def result(seed=0, score: float | None = 0.5, *, strategy="full", digest="f", share=1.0, **options):
    scores = {} if score is None else {"validation_accuracy": score}
    return CellResult(CellKey("org/m", strategy, seed, share), digest, scores=scores, **options)


def said(rows=4, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    return Predictions(
        np.arange(rows) + 7, generator.integers(0, classes, rows), generator.normal(size=(rows, classes)).astype("f4")
    )


def saved(store, cell, *, model=True, predictions=None):
    if model:
        folder = store.place(cell.key) / MODEL
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
    store.add(cell, predictions or {"validation": said()})
    return cell


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture
def store(tmp_path):
    own = CellStore(tmp_path, {"steps": 3, "rate": 1e-3})
    own.check_settings()
    return own


def test_what_was_added_is_found_by_the_next_process(store, tmp_path):
    cell = result(score=0.1 + 0.2, costs=Costs(1.5, 10, 3, 4, 5, 0.1), rows=9, steps=3, note="n")
    pair = {"validation": said(), "test": said(2, seed=1)}
    saved(store, cell, predictions=pair)
    again = CellStore(tmp_path, {"rate": 1e-3, "steps": 3})
    again.check_settings()
    assert again.find(cell.key, "f") == cell and again.find(cell.key, "g") is None
    assert again.find(CellKey("org/m", "full", 1), "f") is None
    for split, own in pair.items():
        read = again.predictions(cell.key, split)
        assert read is not None
        for name, value in vars(own).items():
            np.testing.assert_array_equal(getattr(read, name), value)
            assert getattr(read, name).dtype == value.dtype
    assert again.cells() == [cell]


def test_predictions_of_tokens_and_transposed_arrays_come_back(store):
    logits = np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 1, 0)  # not contiguous
    tokens = Predictions(np.arange(4), np.full((4, 3), -100), logits)
    saved(store, result(), predictions={"test": tokens})
    read = store.predictions(result().key, "test")
    np.testing.assert_array_equal(read.logits, logits)
    assert store.predictions(result().key, "validation") is None


@pytest.mark.parametrize(("status", "kept", "retried"), [(FAILED, True, False), (SKIPPED, False, False)])
def test_failed_runs_stay_and_skipped_ones_are_run_anew(store, tmp_path, status, kept, retried):
    cell = result(score=None, status=status, reason="why")
    store.add(cell)
    assert (store.find(cell.key, "f") == cell) == kept
    again = CellStore(tmp_path, store.settings, retry_failed=True)
    assert (again.find(cell.key, "f") is not None) == retried
    assert store.predictions(cell.key, "validation") is None and store.model_folder(cell.key) is None


def test_a_run_counts_only_with_all_of_its_files(store):
    cell = saved(store, result(), predictions={"validation": said(), "test": said()})
    place = store.place(cell.key)
    (place / "predictions_test.safetensors").unlink()
    assert store.find(cell.key, "f") is None and store.cells() == [] and store.model_folder(cell.key) is None
    store.add(cell, {"validation": said()})
    assert store.find(cell.key, "f") == cell
    text = (place / CELL).read_text()
    for damaged in (text[: len(text) // 2], "", "[]", "{}", '{"key": {"model": 1}}'):
        (place / CELL).write_text(damaged)
        assert store.find(cell.key, "f") is None


def test_other_settings_are_refused_and_nothing_changes(store, tmp_path):
    saved(store, result())
    before = tree(tmp_path)
    other = CellStore(tmp_path, {"steps": 4, "rate": 1e-3, "folds": 5})
    with pytest.raises(
        ValueError, match=r"other settings.*`folds` missing there and 5 here.*`steps` 3 there and 4 here"
    ):
        other.check_settings()
    with pytest.raises(ValueError, match="other settings"):
        CellStore(tmp_path, {"steps": 4}, resume=False).check_settings()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["results.json", "all_results.json", "config.json", "adapter_config.json"])
def test_the_output_of_something_else_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"holds `{name}` but no `comparison.json`: .* Name another `--output_dir`"):
        CellStore(tmp_path, {}).check_settings()
    assert tree(tmp_path) == {name: b"{}"}


def test_settings_that_cannot_be_read_are_no_reason_to_start_anew(store, tmp_path):
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "comparison.json").write_text(damaged)
        with pytest.raises(ValueError, match="cannot be read .* Remove the file and `cells`"):
            store.check_settings()
        assert (tmp_path / "comparison.json").read_text() == damaged


def test_the_folder_of_the_results_of_this_comparison_is_its_own(store, tmp_path):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    store.check_settings()


def test_without_resume_earlier_runs_are_set_aside_once(store, tmp_path):
    cell = saved(store, result())
    for number in ("", "2"):
        fresh = CellStore(tmp_path, store.settings, resume=False)
        fresh.check_settings()
        assert fresh.find(cell.key, "f") is None
        assert (tmp_path / f"cells.previous{number}/org-m/full/seed_0/{CELL}").is_file()
        saved(fresh, cell)
        fresh.check_settings(write=False)  # as another rank does
        assert fresh.find(cell.key, "f") == cell


def test_a_check_without_writing_leaves_no_file(tmp_path):
    CellStore(tmp_path / "new", {"a": 1}).check_settings(write=False)
    assert not (tmp_path / "new").exists()


def test_the_best_seed_keeps_its_model(store):
    scores = {0: 0.5, 1: 0.7, 2: 0.7, 3: None}
    cells = [saved(store, result(seed, score)) for seed, score in scores.items()]
    other = saved(store, result(0, 0.1, strategy="lora"))
    part = saved(store, result(0, 0.9, share=0.5))
    old = saved(store, result(9, 0.99, digest="old"))
    store.keep_best("validation_accuracy", "org/m", "full")
    kept = [cell.key.seed for cell in cells if store.model_folder(cell.key) is not None]
    assert kept == [1]  # of equals the first
    assert all(store.model_folder(cell.key) for cell in (other, part, old))
    assert store.cells() == sorted([*cells, other, part, old], key=lambda cell: cell.key)  # scores stay
    store.drop_model(cells[0].key)  # twice does no harm


def test_of_errors_the_least_is_kept(store):
    for seed, error in {0: 0.5, 1: 0.2, 2: 0.9}.items():
        saved(store, replace(result(seed), scores={"validation_mse": error}))
    store.keep_best("validation_mse")
    assert [seed for seed in range(3) if store.model_folder(result(seed).key) is not None] == [1]


def test_whether_a_model_is_to_be_saved_is_known_before(store):
    saved(store, result(1, 0.7))
    for seed, score, best in ((0, 0.7, True), (2, 0.7, False), (2, 0.8, True), (2, None, False)):
        assert store.would_be_best(result(seed, score), "validation_accuracy") == best
    assert store.would_be_best(result(2, 0.1, digest="new"), "validation_accuracy")
    assert store.would_be_best(result(1, 0.1), "validation_accuracy")  # it takes its own place


def test_a_model_half_removed_is_none(store, monkeypatch):
    cell = saved(store, result())
    monkeypatch.setattr("shutil.rmtree", lambda *a, **k: None)  # killed here
    store.drop_model(cell.key)
    assert store.model_folder(cell.key) is None and store.find(cell.key, "f") == cell
    monkeypatch.undo()
    store.clear(cell.key)
    assert not store.place(cell.key).exists()


def test_clearing_leaves_runs_on_parts_of_the_rows(store):
    whole, part = saved(store, result()), saved(store, result(share=0.25))
    place = store.place(whole.key)
    (place / ".model.abc").mkdir()  # what killed processes leave
    (place / f".{CELL}.77.tmp").write_text("")
    store.note_error(whole.key, "Traceback")
    store.clear(whole.key)
    assert store.find(whole.key, "f") is None and store.find(part.key, "f") == part
    assert [path.name for path in place.iterdir()] == ["share_0.25"]
    store.clear(whole.key)
    store.clear(part.key)
    assert not place.joinpath("share_0.25").exists()


def test_cell_json_goes_first_and_comes_last(store, monkeypatch):
    cell, seen = result(), []
    replace = os.replace

    def watched(source, target):
        seen.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    store.add(cell, {"validation": said(), "test": said()})
    assert seen == ["predictions_validation.safetensors", "predictions_test.safetensors", CELL]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_killed_in_each_phase_of_writing_it_is_run_anew(store, monkeypatch, at):
    calls = []

    def killed(source, target):
        calls.append(target)
        if len(calls) > at:
            raise SystemExit  # nothing after this moment happens
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        store.add(result(), {"validation": said(), "test": said()})
    monkeypatch.undo()
    assert store.find(result().key, "f") is None and store.cells() == []
    assert store.predictions(result().key, "validation") is None
    saved(store, result())
    assert store.find(result().key, "f") == result()


def test_names_that_leave_the_folder_or_clash_are_refused(store):
    with pytest.raises(ValueError, match="outside of the output folder. Name the strategy with letters"):
        store.place(CellKey("m", "../../../x", 0))
    saved(store, result())
    with pytest.raises(ValueError, match=r"'org/m', 'full' and would be that of 'org-m', 'full'.*Give the models"):
        store.find(CellKey("org-m", "full", 0), "f")


def test_a_file_tells_what_ran(store):
    cell = saved(store, result())
    stored = json.loads((store.place(cell.key) / CELL).read_text())
    assert stored["key"]["strategy"] == "full" and stored["predictions"] == ["validation"]
    assert store.sibling(result(1).key, "f") == cell and store.sibling(cell.key, "f") is None
    assert store.sibling(result(1).key, "g") is None
