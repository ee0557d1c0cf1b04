"""One run of a comparison, and whatever may happen in it."""

from __future__ import annotations

import gc
import json
import time
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_transfer.compare.cells import FAILED, FINISHED, SKIPPED, CellKey
from hf_transfer.compare.execution import deadline as deadlines
from hf_transfer.compare.execution import running
from hf_transfer.compare.execution import store as stores
from hf_transfer.compare.execution.running import _state_put_back, predictions_of, run_cell, scores_of_predictions
from hf_transfer.compare.execution.store import ERROR, CellStore
from hf_transfer.compare.strategies.fine_tune import FineTune
from hf_transfer.compare.strategies.strategy import Fitted, Strategy
from tests.compare.tiny_cells import TinySetup


FULL = FineTune(name="full")
LORA = FineTune(name="lora", adapter={"method": "lora", "r": 2})


@pytest.fixture
def store(tmp_path):
    own = CellStore(tmp_path, {})
    own.check_settings()
    return own


@dataclass(frozen=True, kw_only=True)
class Does(Strategy):
    """Whatever it is told to."""

    name: str = "own"
    what: Any = None

    def fit(self, setup):
        return self.what(setup)


def key_of(strategy, seed=0, share=1.0):
    return CellKey("tiny", strategy.name, seed, share)


def run(store, strategy, seed=0, *, share=1.0, model=None, **options):
    key = key_of(strategy, seed, share)
    setup: Any = TinySetup(store.place(key), seed, share=share, **({} if model is None else {"model": model}))
    return run_cell(key, strategy, setup, store, fingerprint="f", **options)


def raising(error):
    def what(setup):
        raise error

    return Does(what=what)


def test_a_run_is_scored_measured_and_written_down(store):
    cell = run(store, FULL)
    assert cell.status == FINISHED and cell.reason is None and (cell.rows, cell.steps) == (12, 3)
    assert cell == store.find(cell.key, "f") and store.cells() == [cell]
    assert {"validation_accuracy", "validation_macro_f1", "test_accuracy", "test_macro_f1"} == set(cell.scores)
    for split, count in (("validation", 9), ("test", 6)):
        said = store.predictions(cell.key, split)
        assert said is not None and said.logits.shape == (count, 3) and said.logits.dtype == np.float32
        assert cell.scores[f"{split}_accuracy"] == pytest.approx(np.mean(said.logits.argmax(1) == said.labels))
    costs, folder = cell.costs, store.model_folder(cell.key)
    assert folder is not None and costs.bytes == (folder / "model.safetensors").stat().st_size
    assert costs.parameters == costs.trained_parameters == sum(p.numel() for p in TinySetup("x").fresh().parameters())
    assert costs.seconds > 0 and costs.latency_ms and costs.peak_memory_bytes is not None


def test_an_adapter_is_saved_alone_and_opens_again(store):
    cell = run(store, LORA)
    assert cell.status == FINISHED, cell.reason
    folder = store.model_folder(cell.key)
    assert folder is not None and (folder / "adapter_model.safetensors").is_file()
    assert cell.costs.bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert not (folder / "model.safetensors").exists() and cell.note.endswith("timed with its adapter not merged")
    assert 0 < cell.costs.trained_parameters < (cell.costs.parameters or 0)


def test_the_order_of_runs_does_not_matter(store, tmp_path):
    other = CellStore(tmp_path / "other", {})
    keys = [(FULL, 0), (LORA, 1)]
    for own, order in ((store, keys), (other, keys[::-1])):
        for strategy, seed in order:
            torch.rand(len(order))  # what happened before is another story
            run(own, strategy, seed)
    for strategy, seed in keys:
        first, second = (own.predictions(key_of(strategy, seed), "test") for own in (store, other))
        assert first is not None and second is not None
        np.testing.assert_array_equal(first.logits, second.logits)
        one, two = (own.find(key_of(strategy, seed), "f") for own in (store, other))
        assert one is not None and two is not None and one.scores == two.scores
    one, two = (store.predictions(key_of(*own), "test") for own in keys)
    assert one is not None and two is not None and not np.array_equal(one.logits, two.logits)


def test_a_strategy_that_leaves_a_mess_does_not_reach_the_next(store):
    def mess(setup):
        fitted = FULL.fit(setup)
        torch.manual_seed(99)
        np.random.seed(99)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
        return fitted

    before = torch.get_rng_state(), str(np.random.get_state())
    assert run(store, Does(what=mess)).status == FINISHED
    assert torch.equal(torch.get_rng_state(), before[0]) and str(np.random.get_state()) == before[1]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark


def test_gradients_are_on_within_and_as_they_were_after():
    with torch.no_grad():
        with _state_put_back(0):
            assert torch.is_grad_enabled()
        assert not torch.is_grad_enabled()


def test_a_finished_model_is_freed(store):
    born, frozen = [], gc.get_freeze_count()

    def model():
        from tests.models import tiny_bert

        born.append(weakref.ref(own := tiny_bert()))
        return own

    for strategy in (FULL, LORA, Does(what=lambda setup: 1 / (0 * len(str(setup.fresh()))))):
        run(store, strategy, model=model)
    assert len(born) == 3 and [own() for own in born] == [None] * 3
    assert gc.get_freeze_count() == frozen


def test_garbage_of_others_is_left_alone_by_a_short_run_and_freezing_is_undone(store, monkeypatch):
    calls = []
    monkeypatch.setattr(running, "_set_aside_by_others", lambda: False)
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: calls.append("unfreeze"))
    run(store, raising(ValueError("x")))
    monkeypatch.setattr(running, "LONG", -1.0)
    monkeypatch.setattr(gc, "collect", lambda *_: calls.append("collect") or 0)
    run(store, raising(ValueError("x")))
    assert calls == ["freeze", "unfreeze", "freeze", "collect", "unfreeze", "collect"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "ran out of memory: CUDA out of"),
        (MemoryError(), "ran out of memory"),
        (RuntimeError("mat1 and mat2 differ\nmore"), "RuntimeError: mat1 and mat2 differ"),
        (OSError("no /home/x/y.bin for hf_" + "a" * 30), "OSError: no <path>/y.bin for <token>"),
    ],
)
def test_errors_become_a_row_and_stay_one(store, error, reason):
    strategy = raising(error)
    cell = run(store, strategy)
    assert cell.status == FAILED and cell.reason is not None and cell.reason.startswith(reason)
    assert store.find(cell.key, "f") == cell and not cell.scores
    told = (store.place(cell.key) / ERROR).read_text()
    assert type(error).__name__ in told and "a" * 30 not in told and "Traceback" in told


def poisoned(what):
    def fit(setup):
        model = setup.fresh()
        what(model)
        return Fitted(model)

    return Does(what=fit)


def test_what_is_not_finite_has_diverged(store):
    def weights(model):
        model.classifier.weight.data[0, 0] = float("nan")

    assert "diverged: the weights `classifier.weight`" in str(run(store, poisoned(weights)).reason)
    said = {"validation": np.full((9, 3), np.inf), "test": np.zeros((6, 3))}
    cell = run(store, Does(what=lambda setup: Fitted(None, logits=said)))
    assert cell.reason is not None and cell.reason.startswith("diverged: the predictions of 9 of 9 validation rows")
    assert store.predictions(cell.key, "test") is None


@pytest.mark.parametrize("rate", [float("nan"), 1e30])
def test_a_training_that_runs_away_has_diverged(store, rate):
    def runs_away(setup):
        setup.args.learning_rate = setup.args.head_lr = rate
        setup.args.optim = "sgd"
        return FULL.fit(setup)

    cell = run(store, Does(what=runs_away))
    assert cell.status == FAILED and str(cell.reason).startswith("diverged: ")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_goes_through_and_leaves_nothing(store, kind, monkeypatch):
    strategy = raising(kind())
    with pytest.raises(kind):
        run(store, strategy)
    assert not store.place(key_of(strategy)).exists() and store.find(key_of(strategy), "f") is None

    def interrupted(*_, **__):
        raise kind

    for where, name in ((stores, "save_file"), (running, "latency_ms"), (running, "save_fitted")):
        with monkeypatch.context() as patched, pytest.raises(kind):
            patched.setattr(where, name, interrupted)
            run(store, FULL)
        assert not store.place(key_of(FULL)).exists()


def test_an_interruption_after_the_last_word_keeps_the_run(store, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "keep_best", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(store, FULL)
    assert store.find(key_of(FULL), "f") is not None


def test_the_deadline_skips_a_run_which_is_then_run_anew(store, monkeypatch):
    begun, looks = [], iter(range(100))

    def counted(setup):
        begun.append(1)
        return FULL.fit(setup)

    strategy = Does(what=counted)
    with monkeypatch.context() as patched:
        patched.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: next(looks)))
        cell = run(store, strategy, deadline=1.5)  # one step of three is taken
    assert (cell.status, cell.reason, begun) == (SKIPPED, "the budget ended", [1]) and next(looks) == 3
    assert store.find(cell.key, "f") is None and store.cells() == [cell]
    assert run(store, strategy, deadline=time.monotonic() - 1).status == SKIPPED and begun == [1]  # not even begun
    assert run(store, FULL, deadline=time.monotonic() + 600).status == FINISHED


def test_the_best_seed_keeps_its_model_and_costs_are_measured_once(store, monkeypatch):
    timed = []
    monkeypatch.setattr(running, "latency_ms", lambda *_: timed.append(1) or 2.5)
    cells = [run(store, FULL, seed) for seed in range(3)]
    best = max(cells, key=lambda cell: (cell.scores["validation_accuracy"], -cell.key.seed))
    kept = [cell.key for cell in cells if store.model_folder(cell.key) is not None]
    assert kept == [best.key] and timed == [1]
    assert {cell.costs.latency_ms for cell in cells} == {2.5} and len({cell.costs.bytes for cell in cells}) == 1
    part = run(store, FULL, 0, share=0.5)
    assert part.finished and store.model_folder(part.key) is None and part.costs.latency_ms == 2.5
    assert store.model_folder(best.key) is not None


def test_a_store_that_cannot_be_written_does_not_end_the_comparison(store, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "save_file", full)
    cell = run(store, FULL)
    assert cell.status == FAILED and "No space left" in str(cell.reason) and store.find(cell.key, "f") == cell
    monkeypatch.setattr(stores, "whole_file", full)
    assert run(store, FULL, 1).status == FAILED


def test_a_model_that_cannot_be_saved_is_a_failed_row(store):
    strategy = Does(what=lambda setup: Fitted(torch.nn.Linear(2, 3), logits=TEXTS))
    assert "`Linear` has no `save_pretrained`" in str(run(store, strategy).reason)
    strategy = Does(what=lambda setup: Fitted(None))
    assert "neither a model nor logits for `validation`" in str(run(store, strategy).reason)


TEXTS = {"validation": np.zeros((9, 3)), "test": np.zeros((6, 3))}


def test_a_strategy_without_a_model_needs_none(store):
    cell = run(store, Does(what=lambda setup: Fitted(None, logits=TEXTS, note="always a")))
    assert cell.finished and cell.note == "always a" and cell.costs.bytes is None and cell.costs.parameters is None
    assert cell.scores["validation_accuracy"] == pytest.approx(1 / 3) and store.model_folder(cell.key) is None


@pytest.mark.parametrize("width", [2, 3, 5])
def test_logits_of_tokens_are_as_wide_as_their_labels(width):
    rows = [[0, 1, 2], [1, -100, -100]]
    setup: Any = SimpleNamespace(
        validation=rows, test=None, ids=lambda split: [4, 5], labels=lambda split: np.array(rows)
    )
    logits = np.random.default_rng(0).normal(size=(2, width, 3))
    said = predictions_of(Fitted(None, logits={"validation": logits}), setup)
    assert list(said) == ["validation"] and said["validation"].labels.tolist() == rows
    shown, shared = said["validation"].logits, min(width, 3)
    assert shown.shape == (2, 3, 3) and said["validation"].ids.tolist() == [4, 5]
    np.testing.assert_allclose(shown[:, :shared], logits[:, :shared], rtol=1e-6)
    scores = scores_of_predictions(said, "token-classification", ["O", "B-X", "I-X"])
    assert set(scores) == {f"validation_{name}" for name in ("f1", "precision", "recall", "accuracy")}


def test_a_regression_is_scored_by_its_own_metrics():
    labels = np.array([1.0, 2.0, 4.0])
    setup: Any = SimpleNamespace(validation=labels, test=labels, ids=lambda _: np.arange(3), labels=lambda _: labels)
    logits = {split: labels[:, None] + 1 for split in ("validation", "test")}
    scores = scores_of_predictions(predictions_of(Fitted(None, logits=logits), setup), "regression", [])
    assert scores == pytest.approx({f"{s}_{n}": 1.0 for s in ("validation", "test") for n in ("mse", "pearson")})


def test_a_run_starts_from_a_clean_folder(store):
    place = store.place(key_of(FULL))
    (place / "model").mkdir(parents=True)
    (place / "model" / "adapter_config.json").write_text("{}")
    (place / ERROR).write_text("old")
    cell = run(store, FULL)
    assert sorted(path.name for path in place.iterdir()) == [
        "cell.json",
        "model",
        "predictions_test.safetensors",
        "predictions_validation.safetensors",
    ]
    folder = store.model_folder(cell.key)
    assert folder is not None and not (folder / "adapter_config.json").exists()
    assert json.loads((place / "cell.json").read_text())["status"] == FINISHED
