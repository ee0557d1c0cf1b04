"""The connectives against truth tables, against their definitions in plain numbers, and their gradients."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from hf_transfer.functional.soft_logic import all_of, any_of, equivalent, implies, negate


TABLES = {
    all_of: lambda *values: all(values),
    any_of: lambda *values: any(values),
    negate: lambda value: not value,
    implies: lambda premise, conclusion: (not premise) or conclusion,
    equivalent: lambda first, second: first == second,
}
ARITIES = [(all_of, n) for n in (1, 2, 3, 4)] + [(any_of, n) for n in (1, 2, 3, 4)]
ARITIES += [(negate, 1), (implies, 2), (equivalent, 2)]


def by_definition(connective, values):
    if connective is all_of:
        return max(0.0, sum(values) - len(values) + 1)
    if connective is any_of:
        return min(1.0, sum(values))
    if connective is negate:
        return 1 - values[0]
    a, b = values
    forth, back = min(1.0, 1 - a + b), min(1.0, 1 - b + a)
    return forth if connective is implies else max(0.0, forth + back - 1)


@pytest.mark.parametrize(("connective", "arity"), ARITIES)
@pytest.mark.parametrize("as_type", [bool, float, torch.tensor, lambda x: torch.tensor(float(x))])
def test_truth_table(connective, arity, as_type):
    for corner in itertools.product([False, True], repeat=arity):
        truth = connective(*(as_type(value) for value in corner))
        assert isinstance(truth, torch.Tensor) and truth.is_floating_point()
        assert truth.item() == float(TABLES[connective](*corner)), corner


@pytest.mark.parametrize(("connective", "arity"), ARITIES)
def test_between_the_corners(connective, arity):
    numbers = random.Random(0)
    rows = [[numbers.random() for _ in range(arity)] for _ in range(200)]
    tensors = torch.tensor(rows, dtype=torch.float64).unbind(1)
    expected = torch.tensor([by_definition(connective, row) for row in rows], dtype=torch.float64)
    truth = connective(*tensors)
    torch.testing.assert_close(truth, expected, rtol=0, atol=1e-12)
    assert (truth >= 0).all() and (truth <= 1).all()


@pytest.mark.parametrize(
    ("connective", "point", "slopes"),
    [
        (all_of, (0.9, 0.8), (1, 1)),
        (all_of, (0.2, 0.3), (0, 0)),  # false, and no small change makes it true
        (any_of, (0.2, 0.3), (1, 1)),
        (any_of, (0.9, 0.8), (0, 0)),
        (negate, (0.4,), (-1,)),
        (implies, (0.9, 0.2), (-1, 1)),
        (implies, (0.2, 0.9), (0, 0)),
        (equivalent, (0.2, 0.9), (1, -1)),
    ],
)
def test_gradients(connective, point, slopes):
    values = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in point]
    gradients = torch.autograd.grad(connective(*values), values)
    assert tuple(gradient.item() for gradient in gradients) == slopes
    assert torch.autograd.gradcheck(connective, values)


def test_a_false_premise_implies_anything_and_de_morgan_holds():
    a, b = torch.rand(2, 50, dtype=torch.float64)
    assert (implies(torch.zeros(50), b) == 1).all() and (implies(a, torch.ones(50)) == 1).all()
    torch.testing.assert_close(negate(all_of(a, b)), any_of(negate(a), negate(b)))
    torch.testing.assert_close(implies(a, b), any_of(negate(a), b))


def test_shapes_broadcast():
    assert all_of(torch.ones(4, 1), torch.ones(3), 1.0).shape == (4, 3)


@pytest.mark.parametrize("connective", [all_of, any_of])
def test_nothing_to_join(connective):
    with pytest.raises(ValueError, match=rf"`{connective.__name__}\(\)` without a truth.*nothing to join.*Give one"):
        connective()


@pytest.mark.parametrize("connective", [all_of, any_of, negate])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_numbers_that_are_no_truths(connective, value):
    with pytest.raises(ValueError, match="a truth value is between 0.*Give a probability"):
        connective(value)
