"""Logic of Lukasiewicz: and, or, not and implies for truth values between 0 (false) and 1 (true)."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor


__all__ = ["all_of", "any_of", "equivalent", "implies", "negate"]

Truth: TypeAlias = Tensor | float | bool
"""A truth value: a number or a tensor in [0, 1], or a Boolean."""


def all_of(*truths: Truth) -> Tensor:
    r"""
    Conjunction: $\max(0, \sum_i a_i - (n - 1))$ of $n$ truths; 1 where all are true, 0 as soon as they lack 1 in sum.

    Args:
        *truths (`Tensor`, `float` or `bool`): one or more, in [0, 1], of shapes that broadcast.

    Raises:
        ValueError: without a truth, or for a number outside [0, 1]. Tensors are not read.

    Example:
        >>> all_of(torch.tensor([1.0, 0.9]), torch.tensor([1.0, 0.6])), all_of(True, True, False)
        (tensor([1.0000, 0.5000]), tensor(0.))
    """
    return (_sum("all_of", truths) - (len(truths) - 1)).clamp(min=0)


def any_of(*truths: Truth) -> Tensor:
    r"""
    Disjunction: $\min(1, \sum_i a_i)$.

    Args:
        *truths (`Tensor`, `float` or `bool`): one or more, in [0, 1], of shapes that broadcast.

    Raises:
        ValueError: without a truth, or for a number outside [0, 1]. Tensors are not read.

    Example:
        >>> any_of(torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.25]))
        tensor([0.0000, 0.7500])
    """
    return _sum("any_of", truths).clamp(max=1)


def negate(truth: Truth) -> Tensor:
    """
    Negation: $1 - a$.

    Example:
        >>> negate(torch.tensor([True, False]))
        tensor([0., 1.])
    """
    return 1 - _truth("negate", truth)


def implies(premise: Truth, conclusion: Truth) -> Tensor:
    r"""
    Implication $a \rightarrow b$: $\min(1, 1 - a + b)$. True wherever the premise is false.

    Example:
        >>> implies(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
        tensor([1., 0., 1.])
    """
    return (1 - _truth("implies", premise) + _truth("implies", conclusion)).clamp(max=1)


def equivalent(first: Truth, second: Truth) -> Tensor:
    r"""
    Equivalence $a \leftrightarrow b$: $1 - |a - b|$, which is the conjunction of both implications.

    Example:
        >>> equivalent(torch.tensor([0.0, 1.0, 0.25]), torch.tensor([0.0, 0.0, 0.5]))
        tensor([1.0000, 0.0000, 0.7500])
    """
    return 1 - (_truth("equivalent", first) - _truth("equivalent", second)).abs()


def _sum(who: str, truths: tuple[Truth, ...]) -> Tensor:
    if not truths:
        raise ValueError(
            f"`{who}()` without a truth value: there is nothing to join. Give one or more, such as "
            f"`{who}(first, second)`; of a list, `{who}(*truths)`."
        )
    total = _truth(who, truths[0])
    for truth in truths[1:]:
        total = total + _truth(who, truth)
    return total


def _truth(who: str, truth: Truth) -> Tensor:
    if isinstance(truth, Tensor):
        return truth if truth.is_floating_point() else truth.float()
    if not 0 <= truth <= 1:
        raise ValueError(
            f"`{who}` of {truth}: a truth value is between 0 (false) and 1 (true), and the formulas hold there only. "
            "Give a probability, or compare: `probability > 0.5`."
        )
    return torch.tensor(float(truth))
