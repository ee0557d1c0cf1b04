"""What finished runs depend on, and what of their scores is written down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_transfer.compare.results import Cell, Results
from hf_transfer.compare.runs import finite, loop_settings, shared, without_timings
from hf_transfer.recipe_arguments import LoopArguments


def loop(folder, **options: Any) -> LoopArguments:
    return LoopArguments(output_dir=str(folder), use_cpu=True, **options)


def written(folder, **options: Any) -> Any:
    return json.loads(json.dumps(loop_settings(loop(folder, **options)), default=str))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7},  # stands beside each run
        {"per_device_eval_batch_size": 3},
        {"logging_steps": 5},
        {"save_total_limit": 4, "save_only_model": True},
        {"push_to_hub": True, "hub_model_id": "a/b", "hub_token": "secret"},
        {"dataloader_num_workers": 2, "disable_tqdm": True},
        {"report_to": "none", "run_name": "mine", "log_level": "error"},
    ],
)
def test_options_that_change_no_weight_and_no_score(tmp_path, options):
    assert written(tmp_path / "b", **options) == written(tmp_path / "a")


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 1e-3},
        {"head_lr": None},
        {"num_train_epochs": 3.0},
        {"max_steps": 3},
        {"per_device_train_batch_size": 3},
        {"gradient_accumulation_steps": 2},
        {"eval_strategy": "no"},  # keeps the last epoch, not the best
        {"weight_decay": 0.1},
        {"bf16": True},
    ],
)
def test_options_that_do(tmp_path, options):
    before, after = written(tmp_path), written(tmp_path, **options)
    (name,) = options
    assert before != after and before[name] != after[name]


def test_the_number_of_ranks_counts_and_secrets_are_not_written(tmp_path):
    found = written(tmp_path, hub_token="secret")
    assert found["world_size"] == 1 and "secret" not in json.dumps(found)


def test_runs_of_equal_options_are_found_again(tmp_path):
    """No address of an object, no time and no folder is among the settings."""
    Results(tmp_path, loop_settings(loop(tmp_path / "a"))).add(Cell("kd", 0, "f", "kd/seed_0", {"accuracy": 0.5}))
    assert Results(tmp_path, loop_settings(loop(tmp_path / "b"))).found("kd", 0) is not None
    assert Results(tmp_path, loop_settings(loop(tmp_path / "b", max_steps=2))).found("kd", 0) is None


def test_alone_a_process_shares_with_itself(tmp_path):
    cell = Cell("kd", 0, "f", "kd/seed_0", {"accuracy": None})
    assert shared(cell) == cell and shared(None) is None


def test_scores_for_json():
    scores = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.0, "e": -1.5}
    found = finite(scores)
    assert found == {"a": None, "b": None, "c": None, "d": 0.0, "e": -1.5}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_times_are_dropped():
    scores = {
        "eval_accuracy": 0.5,
        "eval_runtime": 2.0,
        "eval_samples_per_second": 3.0,
        "eval_steps_per_second": 1.0,
        "eval_model_preparation_time": 0.1,
        "epoch": 3.0,
        "epoch_loss": 1.0,
        "runtime_error_rate": 0.2,
    }
    assert without_timings(scores) == {"eval_accuracy": 0.5, "epoch_loss": 1.0, "runtime_error_rate": 0.2}
