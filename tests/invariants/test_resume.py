"""Runs killed by SIGKILL and resumed end where the straight run ends: discriminator, phase and random numbers too."""

from __future__ import annotations

import os
import random

import pytest

from tests.invariants.processes import assert_close, assert_identical, run


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("options", [[], ["--unfreeze", "--weights"], ["--lora"]], ids=["full", "unfreeze", "lora"])
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


def test_fsdp2_resumes(tmp_path):
    options = ["--save", "--fsdp", "--steps", 6]
    straight = run(tmp_path / "straight", *options, ranks=2)
    run(tmp_path / "killed", *options, "--kill-at", 4, ranks=2, check=False)
    assert_close(straight, run(tmp_path / "killed", *options, "--resume", ranks=2), atol=1e-6)
