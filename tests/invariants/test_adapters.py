"""Adapters with objectives: resume, the best model, accumulation, two ranks, the compiler and half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.invariants.adapters import CASES, COMPILED, HALF, RESUMED_ON_RANKS, SPLIT
from tests.invariants.processes import assert_close
from tests.launching import launch


pytestmark = pytest.mark.slow


def run_cases(out: Path, *, ranks: int) -> dict[str, Any]:
    """All cases in one process, or in one per rank."""
    done = launch("tests.invariants.adapters", "--out", out, ranks=ranks)
    if done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-6000:])
    return {
        "outcomes": json.loads((out / "outcomes.json").read_text()),
        "weights": load_file(out / "weights.safetensors"),
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run_cases(tmp_path_factory.mktemp("one"), ranks=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_cases(tmp_path_factory.mktemp("two"), ranks=2)


def outcome_of(found: dict[str, Any], case: str) -> dict[str, Any]:
    outcome = found["outcomes"][case]
    assert "error" not in outcome, outcome["error"]
    return outcome


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_straight_one_bit_for_bit(one, case):
    outcome = outcome_of(one, case)
    assert outcome["moved"] and outcome["finite"]
    assert outcome["resumed"] == []


@pytest.mark.parametrize("case", CASES)
def test_the_best_model_comes_back_exactly(one, case):
    """Adapter, head, thawed copies and running statistics; also prompts, of which transformers warns."""
    outcome = outcome_of(one, case)
    assert outcome["best is not the last"]
    assert outcome["best"] == outcome["best of resumed"] == []


@pytest.mark.parametrize("case", SPLIT)
def test_accumulation_four_times_two_is_eight(one, case):
    outcome = outcome_of(one, case)
    assert outcome["travelled"] > 1e-3
    assert outcome["accumulated"] < 1e-6


@pytest.mark.parametrize("case", SPLIT)
def test_two_ranks_are_one(one, two, case):
    outcome_of(two, case)
    first, second = (
        {name: value for name, value in found["weights"].items() if name.startswith(f"{case}/")}
        for found in (one, two)
    )
    assert_close(first, second, atol=1e-6)


@pytest.mark.parametrize("case", RESUMED_ON_RANKS)
def test_two_ranks_resume_to_the_straight_run(two, case):
    outcome = outcome_of(two, case)
    assert outcome["moved"] and outcome["best is not the last"]
    assert outcome["resumed"] == outcome["best"] == outcome["best of resumed"] == []


@pytest.mark.parametrize("case", COMPILED)
def test_compiled_is_eager(one, case):
    assert outcome_of(one, case)["compiled"] < 1e-6


@pytest.mark.parametrize("case", HALF)
def test_half_precision_trains_to_about_the_same(one, case):
    outcome = outcome_of(one, case)
    assert 0 < outcome["bf16"] < 0.1 * outcome["travelled"] + 1e-3
