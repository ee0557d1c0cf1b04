"""What is measured of a trained run without labels of the target."""

from __future__ import annotations

import torch

from hf_transfer.domain_adaptation.judging import domain_distance, largest_shares
from hf_transfer.domain_adaptation.outputs import Outputs


def outputs(classes: list[int], *, labels: torch.Tensor | None = None, count: int = 3) -> Outputs:
    logits = torch.nn.functional.one_hot(torch.tensor(classes), count).float()
    return Outputs(torch.randn(len(classes), 4), logits, torch.zeros(len(classes)) if labels is None else labels)


def test_the_share_of_the_class_predicted_most():
    found = largest_shares({"source": outputs([0, 1, 2, 2]), "target": outputs([1, 1, 1, 1, 0])})
    assert found == {"source_largest_share": 0.5, "target_largest_share": 0.8}


def test_rows_without_one_class_have_no_share():
    several = outputs([0, 1], labels=torch.zeros(2, 3))
    assert largest_shares({"source": several, "target": several}) == {}
    number = Outputs(torch.zeros(2, 4), torch.zeros(2, 1), torch.zeros(2))
    assert largest_shares({"source": number, "target": number}) == {}


def test_too_few_rows_have_no_distance():
    few, enough = outputs([0, 1, 2]), outputs([0, 1, 2, 0])
    assert domain_distance({"source": few, "target": enough}, seed=0) == {}
    found = domain_distance({"source": enough, "target": enough}, seed=0)
    assert 0 <= found["a_distance"] <= 2
