"""Rules on models with several labels a row, against an enumeration of all sets of labels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hf_transfer import LabelHierarchy, MutualExclusion, RuleConstraint, attach, rules
from hf_transfer.rules.rule import MOST_LABELS
from tests.models import batch_for, tiny_bert
from tests.objectives.test_rule_constraint import NAME, SEVERAL, built, divergence, projected, several


def joint_teacher(logits, holds, strength):
    """q and p over all sets of labels, and q's marginals, by enumeration in plain numbers."""
    p1 = torch.sigmoid(logits).tolist()
    states = list(itertools.product((0, 1), repeat=len(p1)))
    p = [math.prod(a if on else 1 - a for a, on in zip(p1, state, strict=True)) for state in states]
    q = projected(p, [holds(state) for state in states], strength)
    marginals = [sum(b for state, b in zip(states, q, strict=True) if state[j]) for j in range(len(p1))]
    return p, q, marginals


def hierarchy_and_exclusion(state):
    cat, dog, animal, _ = state
    return 0.5 * ((cat and not animal) + (dog and not animal)) + (cat + dog > 1)


@pytest.mark.parametrize("strength", [1.5, 30.0])
def test_several_labels_are_projected_together(strength):
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    given = [LabelHierarchy({0: 2, 1: 2}, confidence=0.5), MutualExclusion([[0, 1]])]
    value = built(given, 4, strength=strength)(several(logits))
    value.backward()
    expected = 0.0
    for row in range(3):
        p, q, marginals = joint_teacher(logits[row].detach(), hierarchy_and_exclusion, strength)
        expected += divergence(q, p) / 3
        gradient = [(a - b) / 3 for a, b in zip(torch.sigmoid(logits[row]).tolist(), marginals, strict=True)]
        assert logits.grad[row].tolist() == pytest.approx(gradient, abs=1e-9)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert not logits.grad[:, 3].any()  # no rule speaks of the last label


def test_functions_on_several_labels():
    def at_least_one(inputs, probabilities):
        return rules.any_of(*probabilities.unbind(-1))

    logits = torch.randn(2, 3, dtype=torch.float64)
    value = built([at_least_one], strength=4.0)(several(logits))
    pairs = [joint_teacher(row, lambda state: float(not any(state)), 4.0)[:2] for row in logits]
    assert value.item() == pytest.approx(sum(divergence(q, p) for p, q in pairs) / 2, rel=1e-6)


def test_penalty_on_several_labels_is_the_expected_violation():
    logits = torch.randn(5, 3, dtype=torch.float64)
    objective = built([LabelHierarchy({0: 1}), MutualExclusion([[1, 2]], confidence=0.5)], form="penalty")
    p = torch.sigmoid(logits)
    expected = (p[:, 0] * (1 - p[:, 1]) + 0.5 * p[:, 1] * p[:, 2]).mean()
    assert objective(several(logits)).item() == pytest.approx(expected.item(), rel=1e-9)
    assert objective.diagnostics["broken_mutual_exclusion"].item() == pytest.approx((p[:, 1] * p[:, 2]).mean().item())


def test_a_large_hierarchy_is_projected_rule_by_rule():
    count = MOST_LABELS + 3
    parents = {child: child // 2 for child in range(1, count)}
    logits = torch.randn(2, count, dtype=torch.float64)
    value = built([LabelHierarchy(parents)], count, strength=3.0)(several(logits))
    expected = 0.0
    for row, (child, parent) in itertools.product(range(2), parents.items()):
        pair = logits[row, [child, parent]]
        p, q, _ = joint_teacher(pair, lambda state: float(state[0] and not state[1]), 3.0)
        expected += divergence(q, p) / 2
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_labels_that_obey_cost_nothing():
    logits = 1e4 * torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])
    assert built([LabelHierarchy({0: 2}), MutualExclusion([[0, 1]])])(several(logits)).item() == 0


def test_training_makes_a_model_obey_on_rows_without_labels():
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SEVERAL).train()
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    attachment = attach(model, [RuleConstraint([LabelHierarchy({0: 1}), MutualExclusion([[1, 2]])], strength=20.0)])
    batch = {**batch_for(model, 8), "labels": torch.full((8, 3), -100.0)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        values.append(attachment.terms[NAME].item())
    assert attachment.terms["task"] == 0 and values[-1] < 0.1 * values[0]
