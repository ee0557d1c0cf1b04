"""Two ranks do what one does, and FSDP2 what DDP does."""

from __future__ import annotations

import pytest

from tests.invariants.processes import assert_close, log_of, run


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options", [[], ["--unfreeze"], ["--lora"], ["--weights"]], ids=lambda words: words[0] if words else "full"
)
def test_two_ranks_are_one(tmp_path, options):
    one = run(tmp_path / "one", "--batch", 8, "--optim", "sgd", *options)
    two = run(tmp_path / "two", "--batch", 4, "--optim", "sgd", *options, ranks=2)
    assert_close(one, two, atol=1e-6)
    for first, second in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        for key in ("loss", "loss_task", "loss_domain_adversarial", "loss_l2sp"):
            assert first[key] == pytest.approx(second[key], rel=1e-4, abs=1e-6), key


def test_fsdp2_is_ddp(tmp_path):
    ddp = run(tmp_path / "ddp", "--optim", "sgd", ranks=2)
    fsdp = run(tmp_path / "fsdp", "--optim", "sgd", "--fsdp", ranks=2)
    assert_close(ddp, fsdp, atol=1e-6)
    for first, second in zip(log_of(tmp_path / "ddp"), log_of(tmp_path / "fsdp"), strict=True):
        assert first["loss_l2sp"] == pytest.approx(second["loss_l2sp"], rel=1e-4)
