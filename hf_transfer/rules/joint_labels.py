"""Rules that tie labels of a multi-label model together, put together to tables over joint states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_transfer.functional.posterior_regularization import label_states
from hf_transfer.rules.rule import MOST_LABELS, LabelFactor


__all__ = ["JointViolations", "chosen", "joint_violations", "tied_labels"]


class JointViolations(NamedTuple):
    """
    How far each joint state of some labels breaks the rules on them.

    Attributes:
        labels: numbers of the labels, `k` of them.
        violations: `(B, 2**k)` or `(2**k,)`, in the order of `label_states`.
    """

    labels: tuple[int, ...]
    violations: Tensor


def tied_labels(groups: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """
    Which labels depend on one another through the rules: the connected components, sorted.

    Example:
        >>> tied_labels([(0, 1), (4, 5), (1, 3)])
        [(0, 1, 3), (4, 5)]
    """
    components: list[set[int]] = []
    for group in groups:
        joined = set(group)
        apart = []
        for component in components:
            if component & joined:
                joined |= component
            else:
                apart.append(component)
        components = [*apart, joined]
    return sorted(tuple(sorted(component)) for component in components)


def joint_violations(factors: Sequence[tuple[LabelFactor, float]]) -> list[JointViolations]:
    r"""
    $\sum_l \lambda_l (1 - r_l)$ over the states of labels that depend on one another.

    Labels tied together by rules form one table, so that all rules on them are heard at once. A knot of more than 10
    labels, such as a large hierarchy, is taken apart: a table for each rule.

    Args:
        factors (`Sequence[tuple[LabelFactor, float]]`): rules with their confidences.

    Example:
        >>> never = LabelFactor((2, 0), torch.tensor([1.0, 0.0, 1.0, 1.0]))  # 2 is never on without 0
        >>> joint_violations([(never, 0.5)])
        [JointViolations(labels=(0, 2), violations=tensor([0.0000, 0.0000, 0.5000, 0.0000]))]
    """
    tables = []
    for labels in tied_labels([factor.labels for factor, _ in factors]):
        inside = [pair for pair in factors if pair[0].labels[0] in labels]
        if len(labels) <= MOST_LABELS:
            tables.append(_table(labels, inside))
        else:
            tables += [_table(factor.labels, [(factor, confidence)]) for factor, confidence in inside]
    return tables


def chosen(values: Tensor, labels: Sequence[int]) -> Tensor:
    """
    The columns of some labels: without an index tensor, which would have to be copied to the device.

    Example:
        >>> chosen(torch.tensor([[5.0, 6.0, 7.0]]), (2, 0))
        tensor([[7., 5.]])
    """
    return torch.stack([values[..., label] for label in labels], -1)


def _table(labels: tuple[int, ...], factors: Sequence[tuple[LabelFactor, float]]) -> JointViolations:
    states = label_states(len(labels), factors[0][0].truths.device)
    broken: Tensor = torch.zeros((), device=states.device)
    for factor, confidence in factors:
        state = sum(states[:, labels.index(label)] << bit for bit, label in enumerate(factor.labels))
        assert isinstance(state, Tensor)  # a factor has labels
        broken = broken + confidence * (1 - factor.truths[..., state])
    return JointViolations(labels, broken)
