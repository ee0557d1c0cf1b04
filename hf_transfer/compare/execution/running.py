"""One run of a comparison: trained, scored, measured and written down, whatever happens in it."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn
from transformers.trainer_utils import EvalPrediction
from transformers.utils import logging

from hf_transfer.compare.cells import FAILED, SKIPPED, VALIDATION, CellKey, CellResult, Costs, Predictions
from hf_transfer.compare.execution.cell_costs import PeakMemory, latency_ms, parameters_of
from hf_transfer.compare.execution.deadline import ENDED, OutOfTimeError, stopped_at
from hf_transfer.compare.execution.failures import DivergedError, reason_of, traceback_of
from hf_transfer.compare.execution.quiet import quietly
from hf_transfer.compare.execution.saved_models import save_fitted
from hf_transfer.compare.execution.store import MODEL, CellStore
from hf_transfer.compare.runs import finite
from hf_transfer.compare.strategies.strategy import Fitted, Strategy
from hf_transfer.distillation.measuring import size_on_disk
from hf_transfer.metrics import compute_metrics_for
from hf_transfer.random_state import random_numbers_put_back


if TYPE_CHECKING:
    from hf_transfer.compare.problem.setup import Setup

logger = logging.get_logger(__name__)

LONG = 10.0
"""Seconds of a run beside which a look at all objects of the process takes no time."""

__all__ = ["predictions_of", "run_cell", "scores_of_predictions"]


def run_cell(
    key: CellKey,
    strategy: Strategy,
    setup: Setup,
    store: CellStore,
    *,
    fingerprint: str,
    deadline: float | None = None,
) -> CellResult:
    """
    Train a strategy on a setup, score it on its validation and test rows, and write the run down.

    What a run comes to depends on its setup alone: it starts from generators of its seed, and what it changes of the
    state of `torch` is put back. Its model is freed; on disk the model stays if no other seed of the strategy has
    validated better, and then that of the other seed goes.

    Args:
        key (`CellKey`):
            Which run.
        strategy (`Strategy`):
            How to get the model.
        setup (`Setup`):
            Of this run; its arguments with a folder and a learning rate.
        store (`CellStore`):
            Where it is written down. What an interrupted run of the key left is removed.
        fingerprint (`str`):
            Of what the run depends on beside the settings of the store; the same for all seeds of a strategy.
        deadline (`float`, *optional*):
            When to give up, in seconds of `time.monotonic()`.

    Returns:
        `CellResult`: `finished` with scores named `validation_<metric>` and `test_<metric>`; `failed` with a reason
        if memory ran out, if weights or predictions are not finite, or after any error, whose traceback lies in
        `error.txt` of the run; `skipped` if the deadline came first. `costs.seconds` is the time of the training
        alone. Size and latency are measured with the first seed of a strategy and hold for the others; an adapter is
        timed as it is saved, not merged.

    Raises:
        KeyboardInterrupt: and `SystemExit` go through; nothing of the run is left.
    """
    blank = CellResult(key, fingerprint)
    with _freed_afterwards(), quietly():
        try:
            store.clear(key)
            with _state_put_back(setup.seed):
                result, predictions = _trained(blank, strategy, setup, store, deadline)
            store.add(result, predictions)
        except OutOfTimeError:
            result = _written(store, replace(blank, status=SKIPPED, reason=ENDED))
        except Exception as error:
            result = _failed(error, blank, store)
        except BaseException:
            if store.find(key, fingerprint) is None:
                store.clear(key)
            raise
        try:
            store.keep_best(_judged_by(setup), key.model, key.strategy)
        except OSError as error:  # a model too many does no harm
            logger.warning(f"Models of {key.strategy} that did not win could not be removed: {error}")
    return result


def predictions_of(fitted: Fitted, setup: Setup) -> dict[str, Predictions]:
    """What a fitted strategy says of the validation and test rows of its setup."""
    found: dict[str, Predictions] = {}
    splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    for split in splits:
        if getattr(setup, split) is None:
            continue
        logits = fitted.logits.get(split)
        if logits is None:
            if fitted.model is None:
                raise ValueError(
                    f"The strategy returned neither a model nor logits for `{split}`: it cannot be scored. Let `fit` "
                    "return one of them."
                )
            logits = setup.predict(fitted.model, split)
        labels = setup.labels(split)
        logits = _as_wide(np.asarray(logits, dtype=np.float32), labels)
        found[split] = Predictions(np.asarray(setup.ids(split), dtype=np.int64), labels, logits)
    return found


def scores_of_predictions(
    predictions: Mapping[str, Predictions], task: str, label_names: Sequence[str]
) -> dict[str, float]:
    """The metrics of the task on each split, as `validation_accuracy`."""
    compute = compute_metrics_for(task, list(label_names))
    return {
        f"{split}_{name}": float(value)
        for split, own in predictions.items()
        for name, value in compute(EvalPrediction(predictions=own.logits, label_ids=own.labels)).items()
    }


def _trained(
    blank: CellResult, strategy: Strategy, setup: Setup, store: CellStore, deadline: float | None
) -> tuple[CellResult, dict[str, Predictions]]:
    key, blank = blank.key, replace(blank, rows=len(setup.train_labels))
    with PeakMemory(setup.device) as memory, stopped_at(deadline):
        start = time.perf_counter()
        fitted = strategy.fit(setup)
        seconds = time.perf_counter() - start
    _check_weights(fitted.model)
    predictions = predictions_of(fitted, setup)
    _check_predictions(predictions)
    problem = setup.problem
    result = replace(
        blank,
        scores=finite(scores_of_predictions(predictions, problem.task, problem.label_names)),
        steps=fitted.steps,
        note=fitted.note,
    )
    costs = Costs(seconds, memory.bytes, fitted.trained_parameters, parameters_of(fitted.model))
    if fitted.model is not None:
        costs = _measured(costs, result, fitted, setup, store)
        if hasattr(fitted.model, "peft_config") and costs.latency_ms is not None and key.share == 1.0:
            result = replace(result, note=", ".join(filter(None, [result.note, "timed with its adapter not merged"])))
    return replace(result, costs=costs), predictions


def _measured(costs: Costs, result: CellResult, fitted: Fitted, setup: Setup, store: CellStore) -> Costs:
    """Costs with size and speed of the model, which is saved where no seed before validated better."""
    assert fitted.model is not None
    key = result.key
    known = store.sibling(key, result.fingerprint)
    size, latency = (known.costs.bytes, known.costs.latency_ms) if known is not None else (None, None)
    if key.share != 1.0:
        return replace(costs, bytes=size, latency_ms=latency)
    if store.would_be_best(result, _judged_by(setup)):
        folder = save_fitted(fitted, setup, store.place(key) / MODEL, method=key.strategy, scores=result.scores)
        size = size_on_disk(folder)
    if latency is None:
        latency = latency_ms(fitted.model, setup)
    return replace(costs, bytes=size, latency_ms=latency)


def _judged_by(setup: Setup) -> str:
    return f"{VALIDATION}_{setup.problem.metric}"


def _check_weights(model: nn.Module | None) -> None:
    """A loss that was not finite leaves such weights behind, also where the predictions hide it."""
    for name, weight in model.named_parameters() if model is not None else ():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise DivergedError(f"the weights `{name}` are not finite; a lower learning rate may help")


def _check_predictions(predictions: Mapping[str, Predictions]) -> None:
    for split, own in predictions.items():
        bad = np.count_nonzero(~np.isfinite(own.logits).reshape(len(own.logits), -1).all(axis=1))
        if bad:
            raise DivergedError(
                f"the predictions of {bad} of {len(own.logits)} {split} rows are not finite; a lower learning rate "
                "may help"
            )


def _as_wide(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits of tokens as wide as the labels: what they lack or have beyond is padding, and does not count."""
    if labels.ndim != 2 or logits.ndim != 3 or labels.shape[1] == logits.shape[1]:
        return logits
    wide = np.zeros((*labels.shape, logits.shape[-1]), logits.dtype)
    width = min(labels.shape[1], logits.shape[1])
    wide[:, :width] = logits[:, :width]
    return wide


def _failed(error: Exception, blank: CellResult, store: CellStore) -> CellResult:
    key, reason, told = blank.key, reason_of(error), traceback_of(error)
    logger.warning(f"{key.strategy} of {key.model} with seed {key.seed} failed: {reason}")
    logger.debug(told)
    traceback.clear_frames(error.__traceback__)  # they hold the model and its activations
    return _written(store, replace(blank, status=FAILED, reason=reason), told)


def _written(store: CellStore, result: CellResult, told: str | None = None) -> CellResult:
    """A run without scores, written down if that can be done: it must not end the others."""
    try:
        store.clear(result.key)
        if told is not None:
            store.note_error(result.key, told)
        store.add(result)
    except (OSError, ValueError) as error:
        logger.warning(f"{result.key.folder} could not be written: {type(error).__name__}: {error}")
    return result


@contextmanager
def _freed_afterwards() -> Iterator[None]:
    """
    What was made within is freed at the end: a trainer and its model hold each other.

    Walking through all that Python and its libraries hold takes longer than to train a small model. What was there
    before is therefore set aside; after a long run it is looked at as well.
    """
    own, start = not _set_aside_by_others(), time.monotonic()
    if own:
        gc.freeze()
    try:
        yield
    finally:
        clear_device_cache(garbage_collection=True)
        if own:
            gc.unfreeze()
            if time.monotonic() - start > LONG:
                gc.collect()


@cache
def _set_aside_by_others() -> bool:
    """Asked once: it counts them, which takes as long as to walk through them."""
    return gc.get_freeze_count() > 0


@contextmanager
def _state_put_back(seed: int) -> Iterator[None]:
    """What a run draws and switches within does not reach the next."""
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    try:
        with random_numbers_put_back(seed), torch.enable_grad():
            yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
