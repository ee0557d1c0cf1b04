"""Accumulation, compilation and activation checkpointing change nothing in the result."""

from __future__ import annotations

import pytest

from tests.invariants.processes import assert_close, run


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", ["bert", "vit"])
def test_accumulation_four_times_four_is_sixteen(tmp_path, model):
    whole = run(tmp_path / "whole", "--model", model, "--batch", 16, "--optim", "sgd")
    parts = run(tmp_path / "parts", "--model", model, "--batch", 4, "--accumulate", 4, "--optim", "sgd")
    assert_close(whole, parts, atol=1e-6)


# What is ours is traced, forward and backward, without the compiler of kernels: that takes a minute on a CPU.
@pytest.mark.parametrize(
    ("backend", "options"), [("aot_eager", []), ("eager", ["--unfreeze"])], ids=["full", "unfreeze"]
)
def test_compiled_is_eager(tmp_path, backend, options):
    eager = run(tmp_path / "eager", "--optim", "sgd", *options)
    compiled = run(tmp_path / "compiled", "--optim", "sgd", "--compile", backend, *options)
    assert_close(eager, {key.removeprefix("_orig_mod."): value for key, value in compiled.items()}, atol=1e-5)


def test_activation_checkpointing_changes_nothing(tmp_path):
    plain = run(tmp_path / "plain", "--optim", "sgd", "--unfreeze")
    checkpointed = run(tmp_path / "checkpointed", "--optim", "sgd", "--unfreeze", "--checkpointing")
    assert_close(plain, checkpointed, atol=1e-6)
