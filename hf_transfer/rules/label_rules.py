"""Rules on the labels alone, for models that give several labels a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.posterior_regularization import label_states
from hf_transfer.rules.labels import LabelKey, label_number
from hf_transfer.rules.rule import MOST_LABELS, LabelFactor, Rule


__all__ = ["LabelHierarchy", "MutualExclusion"]


class _LabelRule(Rule):
    """A rule between labels, which one class a row could never break."""

    def class_truths(self, batch: TransferBatch, probabilities: Tensor) -> Tensor:
        raise ValueError(_one_class_a_row(type(self).__name__))

    def build(self, spec: ModelSpec) -> Self:
        problem = getattr(getattr(spec.model, "config", None), "problem_type", None)
        if problem == "single_label_classification":
            raise ValueError(_one_class_a_row(type(self).__name__))
        return super().build(spec)


class MutualExclusion(_LabelRule):
    """
    Labels of which at most one can be on. For multi-label models.

    Args:
        groups (`Sequence[Sequence[str | int]]`):
            Groups of labels, by name or number; of each group at most one is on.
        confidence (`float`, *optional*, defaults to 1.0):
            In [0, 1], dimensionless: what a violation counts.

    Shape:
        - one factor a group, true in the states with at most one label on; of a group of more than 10 labels one
          factor a pair, true unless both are on.

    Raises:
        ValueError: for a group of fewer than two labels or with a label twice; when a model is known, for labels it
            does not have, and if it gives one class a row, which excludes the others by itself.

    Example:
        >>> import torch
        >>> rule = MutualExclusion([[0, 2]]).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(features=torch.zeros(1, 4))
        >>> rule.label_truths(batch, torch.full((1, 3), 0.5))  # none, the first, the second, both
        [LabelFactor(labels=(0, 2), truths=tensor([1., 1., 1., 0.]))]
    """

    def __init__(self, groups: Sequence[Sequence[LabelKey]], *, confidence: float = 1.0):
        super().__init__(name="mutual_exclusion", confidence=confidence)
        self.groups = [[group] if isinstance(group, (str, int)) else list(group) for group in groups]
        for group in self.groups or [[]]:
            if len(set(group)) < 2 or len(set(group)) < len(group):
                raise ValueError(
                    f"`MutualExclusion({groups!r})` has the group {group!r}: labels exclude others, never themselves. "
                    'Give lists of two or more different labels, such as `[["cat", "dog"], ["day", "night"]]`.'
                )
        self._groups: list[tuple[int, ...]] = []

    def build(self, spec: ModelSpec) -> Self:
        """Find the labels."""
        groups = [[label_number(label, spec, rule=self.name) for label in group] for group in self.groups]
        self._groups = []
        for group in groups:
            self._groups += [tuple(group)] if len(group) <= MOST_LABELS else combinations(group, 2)
        return super().build(spec)

    def label_truths(self, batch: TransferBatch, probabilities: Tensor) -> list[LabelFactor]:
        """At most one is on."""
        return [
            LabelFactor(group, (label_states(len(group), probabilities.device).sum(-1) <= 1).to(probabilities.dtype))
            for group in self._groups
        ]


class LabelHierarchy(_LabelRule):
    """
    Labels that imply others: where the child is on, so is the parent. For multi-label models.

    Args:
        parents (`Mapping[str | int, str | int | Sequence]`):
            The parent of each child, or several parents, by name or number.
        confidence (`float`, *optional*, defaults to 1.0):
            In [0, 1], dimensionless: what each broken implication counts.

    Shape:
        - one factor for each child and parent, false where the child is on and the parent off.

    Raises:
        ValueError: for no implication or one from a label to itself; when a model is known, for labels it does not
            have, and if it gives one class a row, where no second label can be on.

    Example:
        >>> import torch
        >>> rule = LabelHierarchy({0: 1}).build(ModelSpec(feature_dim=4, num_labels=2))
        >>> batch = TransferBatch(features=torch.zeros(1, 4))
        >>> rule.label_truths(batch, torch.full((1, 2), 0.5))  # none, the child, the parent, both
        [LabelFactor(labels=(0, 1), truths=tensor([1., 0., 1., 1.]))]
    """

    def __init__(self, parents: Mapping[LabelKey, LabelKey | Sequence[LabelKey]], *, confidence: float = 1.0):
        super().__init__(name="label_hierarchy", confidence=confidence)
        self.parents = dict(parents)
        self._names = [
            (child, parent)
            for child, several in self.parents.items()
            for parent in ([several] if isinstance(several, (str, int)) else several)
        ]
        if not self._names or any(child == parent for child, parent in self._names):
            raise ValueError(
                f"`LabelHierarchy({parents!r})` has no implication between two labels: nothing could be broken. Give "
                'child and parent, such as `{"cat": "animal", "dog": "animal"}`.'
            )
        self._pairs: list[tuple[int, int]] = []

    def build(self, spec: ModelSpec) -> Self:
        """Find the labels."""
        self._pairs = [
            (label_number(child, spec, rule=self.name), label_number(parent, spec, rule=self.name))
            for child, parent in self._names
        ]
        return super().build(spec)

    def label_truths(self, batch: TransferBatch, probabilities: Tensor) -> list[LabelFactor]:
        """The child is off or the parent is on."""
        child, parent = label_states(2, probabilities.device).T
        truths = ((child == 0) | (parent == 1)).to(probabilities.dtype)
        return [LabelFactor(pair, truths) for pair in self._pairs]


def _one_class_a_row(who: str) -> str:
    return (
        f"`{who}` on a model that gives one class a row: its classes exclude one another already, and a second label "
        'is never on. Load the model with `problem_type="multi_label_classification"`, or write a `Rule` on classes.'
    )
