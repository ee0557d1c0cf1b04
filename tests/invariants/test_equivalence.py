"""Runs that must end in the same weights: ranks, accumulation, resume, compile, FSDP2, LoRA, weight 0."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def run(out: Path, *options: object, ranks: int = 1, check: bool = True) -> dict[str, torch.Tensor]:
    """Train in a process of its own (or `ranks` of them) and return the final state."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.invariants.run", "--out", out, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(word) for word in command], env=environment, cwd=ROOT, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-6000:])
    return load_file(out / "result.safetensors") if (out / "result.safetensors").exists() else {}


def log_of(out: Path) -> list[dict]:
    return [entry for entry in json.loads((out / "log.json").read_text()) if "loss" in entry]


def assert_close(first: dict, second: dict, *, atol: float) -> None:
    keys = {key for key in first if not key.startswith("optimizer.")}
    assert keys and keys == {key for key in second if not key.startswith("optimizer.")}
    for key in keys:
        torch.testing.assert_close(first[key], second[key], atol=atol, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}")


def assert_identical(first: dict, second: dict) -> None:
    assert first and first.keys() == second.keys()
    different = [key for key in first if not torch.equal(first[key], second[key])]
    assert not different, different


@pytest.mark.parametrize("options", [[], ["--unfreeze"], ["--lora"]], ids=["full", "unfreeze", "lora"])
def test_two_ranks_are_one(tmp_path, options):
    one = run(tmp_path / "one", "--batch", 8, "--optim", "sgd", *options)
    two = run(tmp_path / "two", "--batch", 4, "--optim", "sgd", *options, ranks=2)
    assert_close(one, two, atol=1e-6)
    for first, second in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        for key in ("loss", "loss_task", "loss_domain_adversarial", "loss_l2sp"):
            assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("model", ["bert", "vit"])
def test_accumulation_four_times_four_is_sixteen(tmp_path, model):
    whole = run(tmp_path / "whole", "--model", model, "--batch", 16, "--optim", "sgd")
    parts = run(tmp_path / "parts", "--model", model, "--batch", 4, "--accumulate", 4, "--optim", "sgd")
    assert_close(whole, parts, atol=1e-6)


@pytest.mark.parametrize("options", [[], ["--unfreeze"], ["--lora"]], ids=["full", "unfreeze", "lora"])
def test_killed_and_resumed_is_the_straight_run_bit_for_bit(tmp_path, options):
    options = ["--save", "--dropout", "--steps", 9, *options]
    straight = run(tmp_path / "straight", *options)
    step = random.Random(os.getpid()).randrange(2, 9)
    run(tmp_path / "killed", *options, "--kill-at", step, check=False)
    assert not (tmp_path / "killed" / "result.safetensors").exists(), "the run was not killed"
    resumed = run(tmp_path / "killed", *options, "--resume")
    assert_identical(straight, resumed)


def test_two_ranks_resume_to_the_straight_run(tmp_path):
    # eight steps are an epoch: killed in the second, whose order of rows must come back too
    options = ["--save", "--dropout", "--unfreeze", "--steps", 12]
    straight = run(tmp_path / "straight", *options, ranks=2)
    run(tmp_path / "killed", *options, "--kill-at", 11, ranks=2, check=False)
    assert_identical(straight, run(tmp_path / "killed", *options, "--resume", ranks=2))


def test_fsdp2_is_ddp(tmp_path):
    ddp = run(tmp_path / "ddp", "--optim", "sgd", ranks=2)
    fsdp = run(tmp_path / "fsdp", "--optim", "sgd", "--fsdp", ranks=2)
    assert_close(ddp, fsdp, atol=1e-6)
    for first, second in zip(log_of(tmp_path / "ddp"), log_of(tmp_path / "fsdp"), strict=True):
        assert first["loss_l2sp"] == pytest.approx(second["loss_l2sp"], rel=1e-4)


def test_fsdp2_resumes(tmp_path):
    options = ["--save", "--fsdp", "--steps", 6]
    straight = run(tmp_path / "straight", *options, ranks=2)
    run(tmp_path / "killed", *options, "--kill-at", 4, ranks=2, check=False)
    assert_close(straight, run(tmp_path / "killed", *options, "--resume", ranks=2), atol=1e-6)


@pytest.mark.parametrize("options", [[], ["--unfreeze"]], ids=["full", "unfreeze"])
def test_compiled_is_eager(tmp_path, options):
    eager = run(tmp_path / "eager", "--optim", "sgd", *options)
    compiled = run(tmp_path / "compiled", "--optim", "sgd", "--compile", *options)
    assert_close(eager, {key.removeprefix("_orig_mod."): value for key, value in compiled.items()}, atol=1e-5)


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain = run(tmp_path / "plain", "--optim", "sgd", "--unfreeze")
    checkpointed = run(tmp_path / "checkpointed", "--optim", "sgd", "--unfreeze", "--checkpointing")
    assert_close(plain, checkpointed, atol=1e-6)
