"""The model of the recommended strategy: which run, what is put into the folder, what its card says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hf_transfer.compare import winner
from hf_transfer.compare.answer import Answer, Difference, Estimate, Recommendation, TableRow, Verdict
from hf_transfer.compare.arguments import CompareLoopArguments
from hf_transfer.compare.cells import CellKey, CellResult, Costs, Predictions
from hf_transfer.compare.execution.store import MODEL, CellStore
from hf_transfer.compare.winner import RECORD, best_cell, clear_winner, tell_of_winner, trained_winner
from hf_transfer.model_card.facts import RunFacts


def cell(seed: int, share: float = 1.0, status: str = "finished", **scores: float) -> CellResult:
    return CellResult(CellKey("m", "full", seed, share), "f", status, scores=scores, costs=Costs(1.0))


def stored(tmp_path: Any, rights: dict[int, int], *, regression: bool = False) -> tuple[CellStore, list[CellResult]]:
    """Runs of 10 rows by the number of rows that each gets right, or in a regression by how far it is off."""
    store, cells = CellStore(tmp_path, {}), []
    for seed, right in rights.items():
        labels = np.zeros(10, np.float32 if regression else np.int64)
        logits = np.full((10, 1), right, np.float32)
        if not regression:
            logits = np.stack([np.arange(10) < right, np.arange(10) >= right], axis=1).astype(np.float32)
        cells.append(cell(seed, validation_accuracy=right / 10))
        store.add(cells[-1], {"validation": Predictions(np.arange(10), labels, logits)})
    return store, cells


def test_the_run_that_validates_best_is_taken_and_of_equals_the_first(tmp_path):
    store, cells = stored(tmp_path, {0: 6, 1: 8, 2: 8})
    assert best_cell(cells[::-1], store, "m", "full", regression=False).key.seed == 1


def test_less_error_is_better(tmp_path):
    store, cells = stored(tmp_path, {0: 5, 1: 2, 2: 3}, regression=True)
    assert best_cell(cells, store, "m", "full", regression=True).key.seed == 1


def test_parts_of_the_rows_and_failures_do_not_count(tmp_path):
    store, cells = stored(tmp_path, {0: 3})
    better = cell(5, share=0.5, validation_accuracy=1.0)
    failed = replace(cell(6), status="failed")
    assert best_cell([better, failed, *cells], store, "m", "full", regression=False).key.seed == 0


@pytest.fixture
def trained(monkeypatch):
    found: list[Any] = []

    def run(key: Any, strategy: Any, setup: Any, store: CellStore, *, fingerprint: str) -> CellResult:
        found.append((key, setup, fingerprint))
        made = replace(cell(key.seed, test_accuracy=0.5), fingerprint=fingerprint, rows=20)
        (store.place(key) / MODEL).mkdir(parents=True)
        store.add(made)
        return made

    monkeypatch.setattr(winner, "run_cell", run)
    return found


def problem(by_folds: bool) -> Any:
    return SimpleNamespace(by_folds=by_folds, setup=lambda key, args, full: ("setup", args.learning_rate, full))


def test_a_model_that_was_kept_is_taken_as_it_is(tmp_path, trained):
    store, [one] = stored(tmp_path, {0: 6})
    (store.place(one.key) / MODEL).mkdir()
    args = CompareLoopArguments(output_dir=str(tmp_path), use_cpu=True)
    own: Any = SimpleNamespace(label="Full")
    assert trained_winner(problem(False), own, one, args, store, 1e-3) == (store.place(one.key) / MODEL, one)
    assert not trained


@pytest.mark.parametrize(("by_folds", "kept"), [(True, True), (False, False)])
def test_after_folds_or_without_a_model_it_is_trained_once_on_all_rows(tmp_path, trained, by_folds, kept):
    store, [one] = stored(tmp_path, {3: 6})
    if kept:
        (store.place(one.key) / MODEL).mkdir()
    args = CompareLoopArguments(output_dir=str(tmp_path), use_cpu=True)
    own: Any = SimpleNamespace(label="Full")
    for _ in range(2):  # the second finds it
        folder, made = trained_winner(problem(by_folds), own, one, args, store, 2e-3)
        assert folder is not None and folder.is_relative_to(tmp_path / "final") and made.rows == 20
    assert trained == [(one.key, ("setup", 2e-3, True), "f on all rows")]
    assert store.find(one.key, "f") == one


def test_what_an_earlier_winner_left_is_removed_and_nothing_else(tmp_path):
    args = CompareLoopArguments(output_dir=str(tmp_path), use_cpu=True)
    clear_winner(args)
    for name in ("model.safetensors", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path.parent / "outside").touch()
    (tmp_path / RECORD).write_text('["model.safetensors", "gone.json", "../outside"]')
    clear_winner(args)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"] and (tmp_path.parent / "outside").exists()


def row(strategy: str, mean: float | None, **options: Any) -> TableRow:
    estimate = None if mean is None else Estimate(mean, mean - 0.1, mean + 0.1)
    return TableRow("m", strategy, "finished", seeds=[0, 1], validation=estimate, **options)


def test_the_card_has_means_baselines_and_the_table(tmp_path):
    best = row("full", 0.8, test=Estimate(0.7))
    rows = [best, row("scratch", 0.5), row("majority", 0.25), TableRow("m", "lora", "failed", "out of memory")]
    answer = Answer(rows, Recommendation("m", "full", "full: the best.", ("m", "full")), Verdict("positive", "Helps."))
    runs = [cell(0, validation_accuracy=0.75, test_accuracy=0.7, validation_f1=0.5), cell(1, validation_accuracy=0.85)]
    facts = RunFacts(strategy=["It was trained."])
    gains = {"majority": Difference(0.55, 0.4, 0.7), "scratch": Difference(0.3)}
    tell_of_winner(facts, answer, best, runs[0], runs, "accuracy", gains=gains, titles={"full": "Full fine-tuning"})
    assert (facts.method, facts.seeds) == ("full", [0, 1])
    validation, test = facts.score("validation", "accuracy"), facts.score("test", "accuracy")
    assert validation is not None and test is not None
    assert (validation.value, validation.by_seed) == (0.75, [0.75, 0.85])
    assert validation.mean == pytest.approx(0.8) and validation.interval == (0.7000000000000001, 0.9)
    assert test.mean is None and facts.score("validation", "f1") is not None
    majority, scratch = facts.baselines
    assert (majority.name, majority.difference, majority.interval) == ("majority", 0.55, (0.4, 0.7))
    assert (scratch.score.value, scratch.difference, scratch.interval) == (0.5, 0.3, None)
    assert (
        facts.comparison is not None
        and "| Full fine-tuning | 0.800 (0.700 to 0.900) | 0.700 | 2 |" in facts.comparison
    )
    assert "out of memory" in facts.comparison
    assert facts.strategy == ["It was trained.", "It was chosen among 4 strategies on the same rows. full: the best."]
    assert facts.notes == ["Helps."]


def test_the_table_of_several_models_names_them_once():
    rows = [row("full", 0.9), replace(row("probe", 0.8), model="n")]
    for models, first in ((rows, "model"), (rows[:1], "strategy")):
        lines = winner._table(models, "accuracy", {}).splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert cells[0][0] == first
        assert {len(line) for line in cells} == {len(cells[0])} and len(set(cells[0])) == len(cells[0])
