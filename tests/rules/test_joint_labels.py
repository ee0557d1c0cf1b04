"""Rules put together over joint states, against one table over all labels."""

from __future__ import annotations

import itertools

import pytest
import torch

from hf_transfer.rules.joint_labels import chosen, joint_violations, tied_labels
from hf_transfer.rules.rule import MOST_LABELS, LabelFactor


def value_at(table, state: tuple[int, ...], row: int) -> float:
    number = sum(state[label] << bit for bit, label in enumerate(table[0]))
    values = table[1]
    return (values[row] if values.dim() == 2 else values)[number].item()


@pytest.mark.parametrize("seed", range(5))
def test_sum_over_the_tables_is_the_sum_over_the_rules(seed):
    torch.manual_seed(seed)
    groups = [(0, 1), (3, 1), (4,), (2, 5, 6)]
    factors = [(LabelFactor(group, torch.rand(3, 2 ** len(group))), 0.1 + 0.2 * i) for i, group in enumerate(groups)]
    factors.append((LabelFactor((6, 2), torch.rand(4)), 1.0))  # the same for every row
    tables = joint_violations(factors)
    assert [table.labels for table in tables] == [(0, 1, 3), (2, 5, 6), (4,)]
    for state in itertools.product((0, 1), repeat=7):
        for row in range(3):
            expected = sum(confidence * (1 - value_at(factor, state, row)) for factor, confidence in factors)
            assert sum(value_at(table, state, row) for table in tables) == pytest.approx(expected, abs=1e-5)


def test_labels_are_tied_over_several_steps():
    assert tied_labels([(0, 1), (2, 3), (1, 2), (7,)]) == [(0, 1, 2, 3), (7,)]
    assert tied_labels([]) == []


def test_a_large_knot_is_taken_apart():
    chain = [(LabelFactor((i, i + 1), torch.tensor([1.0, 0.0, 1.0, 1.0])), 0.5) for i in range(MOST_LABELS)]
    assert [table.labels for table in joint_violations(chain)] == [(i, i + 1) for i in range(MOST_LABELS)]
    assert all(table.violations.tolist() == [0, 0.5, 0, 0] for table in joint_violations(chain))
    (table,) = joint_violations(chain[:-1])
    assert table.violations.shape == (2**MOST_LABELS,)


def test_chosen_columns_pass_the_gradient():
    values = torch.randn(2, 4, requires_grad=True)
    picked = chosen(values, (3, 0))
    assert torch.equal(picked, values[:, [3, 0]])
    picked.sum().backward()
    assert values.grad.tolist() == [[1, 0, 0, 1]] * 2
