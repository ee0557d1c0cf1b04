"""Weightings on two ranks and over micro-batches are what they are on one large batch."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file

from tests.launching import launch
from tests.objectives.task_weighting_ranks import WEIGHTINGS, trained


whole_batch = cache(partial(trained, mine=(0,), parts=1))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "found"
    done = launch("tests.objectives.task_weighting_ranks", out, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return [load_file(f"{out}.{rank}.safetensors") for rank in range(2)]


def of(found, name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    start = f"{prefix}{name}."
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(start)}


def assert_same(first, second, *, ignoring: tuple[str, ...] = ("last_losses",)) -> None:
    assert first and first.keys() == second.keys()
    for key, value in first.items():
        if not key.endswith(ignoring):
            torch.testing.assert_close(
                value.double(), second[key].double(), rtol=1e-3, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_two_ranks_are_one(name, ranks):
    whole, first, second = whole_batch(name), of(ranks[0], name), of(ranks[1], name)
    assert_same(whole, first, ignoring=("last_losses", "pending"))
    assert_same(first, second)
    weights = whole[f"{name}.multi_task.weigher.weights"]
    assert torch.equal(weights, torch.ones(2)) == (name == "equal")


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_two_ranks_of_two_micro_batches_are_one(name, ranks):
    whole, first = whole_batch(name), of(ranks[0], name, "accumulated.")
    assert_same(whole, first, ignoring=("last_losses", "pending"))
    assert_same(first, of(ranks[1], name, "accumulated."))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_four_micro_batches_are_one(name):
    assert_same(whole_batch(name), trained(name, [0, 1, 2, 3], 4), ignoring=("last_losses", "pending"))
