"""
Every method on one rank, half of them on text in full and half on images under LoRA; on two ranks the other way round.

Each trains, and resumes bit for bit.
"""

from __future__ import annotations

import pytest

from tests.invariants.processes import check_outcome, methods_of, outcomes_by_half


pytestmark = pytest.mark.slow
GROUPS = [(1, "text", "full"), (0, "vision", "lora")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return outcomes_by_half(tmp_path_factory, ranks=1)


@pytest.mark.parametrize(("method", "half", "modality", "tuning"), methods_of(GROUPS))
def test_method_trains_and_resumes_or_says_why_not(outcomes, method, half, modality, tuning):
    check_outcome(method, modality, tuning, outcomes(half, modality, tuning))
