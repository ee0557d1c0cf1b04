"""Every method x {text, vision} x {full, LoRA} on two ranks, killed and resumed; masks and gradients between ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.callbacks import method_ranks
from tests.callbacks.harness import changed, copy_of, seeded
from tests.launching import launch
from tests.models import tiny_bert, tiny_vit


pytestmark = pytest.mark.slow


def launched(*words: object) -> None:
    """Run `method_ranks.py` on two ranks."""
    done = launch("tests.callbacks.method_ranks", *words, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]


def read(out: Path, rank: int) -> dict:
    return json.loads(Path(f"{out}.{rank}.json").read_text())


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("ranks") / "found"
    launched("matrix", out)
    return [read(out, rank) for rank in range(2)]


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize(("method", "model"), sorted({pair[:2] for pair in method_ranks.COMBINATIONS}))
def test_on_two_ranks_each_method_trains_in_step_and_resumes_bit_for_bit(method, model, adapters, matrix):
    key = f"{method} {model} {'lora' if adapters else 'full'}"
    for rank, found in enumerate(matrix):
        assert found[key]["moved"] > 3, rank
        assert not found[key]["not in step"], rank
        assert not found[key]["not resumed"], rank


def test_the_gradient_of_two_ranks_is_the_mean_over_their_masks(tmp_path):
    launched("masks", tmp_path / "out")
    first, second = (torch.tensor(read(tmp_path / "out", rank)) for rank in range(2))
    assert torch.equal(first, second)
    # Each rank contributes 2 where its mask keeps an entry; the mean is 0, 1 or 2, and 1 where the masks differ.
    assert set(first.flatten().tolist()) == {0.0, 1.0, 2.0}


@pytest.mark.parametrize("probability", [0.5])
def test_weights_sharded_by_fsdp2_are_mixed_as_whole_ones(probability, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "", "", str(probability)])
    method_ranks.fsdp2(str(tmp_path / "one.pt"))
    launched("fsdp2", tmp_path / "two.pt", probability)
    one, two = (torch.load(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert changed(copy_of(seeded(tiny_vit)), one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_mixout_trains_and_resumes_under_fsdp2(tmp_path):
    launched("sharded", tmp_path / "out.pt")
    straight, again = torch.load(tmp_path / "out.pt")
    start = copy_of(seeded(tiny_bert))
    assert len(changed(start, straight)) > 10
    for name, value in straight.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=1e-6, msg=name)
