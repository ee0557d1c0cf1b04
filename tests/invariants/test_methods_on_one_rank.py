"""
Every method on one rank, half of them on text in full and half on images under LoRA; on two ranks the other way round.

Each trains, and resumes bit for bit.
"""

from __future__ import annotations

import pytest

from tests.invariants.methods import HALVES
from tests.invariants.processes import check_outcome, outcomes_of


pytestmark = pytest.mark.slow
GROUPS = [(1, "text", "full"), (0, "vision", "lora")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of a half, in its process."""
    found = {}

    def of(half, modality, tuning):
        if half not in found:
            found[half] = outcomes_of(tmp_path_factory.mktemp("methods"), half, modality, tuning, ranks=1)
        return found[half]

    return of


@pytest.mark.parametrize(
    ("method", "half", "modality", "tuning"),
    [(method, *group) for group in GROUPS for method in HALVES[group[0]]],
)
def test_method_trains_and_resumes_or_says_why_not(outcomes, method, half, modality, tuning):
    check_outcome(method, modality, tuning, outcomes(half, modality, tuning))
