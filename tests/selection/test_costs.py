from __future__ import annotations

from hf_transfer.selection.costs import estimate_cost
from tests.models import tiny_vit


def test_parameters_are_those_of_the_backbone_with_a_head_for_the_target():
    model = tiny_vit()
    backbone = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("classifier"))
    cost = estimate_cost(model, width=16, outputs=7, rows=100, epochs=3, computed=50, seconds=2.0)
    assert cost.parameters == backbone + 17 * 7
    assert cost.memory == 16 * cost.parameters  # float32: weight, gradient, two states
    assert cost.rows_per_second == 25 and cost.fine_tune_seconds == 3 * 3 * 100 / 25
    half = estimate_cost(model.half(), width=16, outputs=7, rows=100, epochs=3, computed=0, seconds=0.1)
    assert half.memory == 12 * half.parameters and half.rows_per_second is None and half.fine_tune_seconds is None
