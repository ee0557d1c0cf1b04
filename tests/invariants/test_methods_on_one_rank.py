"""Every method, for text and images, full and under LoRA, on one rank: it trains, and resumes bit for bit."""

from __future__ import annotations

import pytest

from tests.invariants.methods import methods_of
from tests.invariants.processes import check_outcome, outcomes_of


pytestmark = pytest.mark.slow
RUNS = [
    pytest.param((modality, tuning), method, id=f"{modality}-{tuning}-{method}")
    for modality in ("text", "vision")
    for tuning in ("full", "lora")
    for method in methods_of(modality, tuning, ranks=1)
]


@pytest.fixture(scope="module")
def group(request, tmp_path_factory):
    modality, tuning = request.param
    return modality, tuning, outcomes_of(tmp_path_factory.mktemp("methods"), modality, tuning, ranks=1)


@pytest.mark.parametrize(("group", "method"), RUNS, indirect=["group"])
def test_method_trains_and_resumes_or_says_why_not(group, method):
    check_outcome(method, *group)
