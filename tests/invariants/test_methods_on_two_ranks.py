"""Every method on two ranks, text in full and images under LoRA: it trains, and resumes bit for bit."""

from __future__ import annotations

import pytest

from tests.invariants.methods import EVERY_METHOD
from tests.invariants.processes import check_outcome, outcomes_of


pytestmark = pytest.mark.slow
GROUPS = [("text", "full"), ("vision", "lora")]  # the other two run on one


@pytest.fixture(scope="module", params=GROUPS, ids="-".join)
def group(request, tmp_path_factory):
    modality, tuning = request.param
    return modality, tuning, outcomes_of(tmp_path_factory.mktemp("methods"), modality, tuning, ranks=2)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_method_trains_and_resumes_or_says_why_not(group, method):
    check_outcome(method, *group)
