"""`Rule`: something that should hold of a prediction, with a truth value between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.posterior_regularization import label_states
from hf_transfer.rules.labels import LabelKey, label_number


__all__ = ["MOST_LABELS", "LabelFactor", "Rule", "RuleFunction"]

RuleFunction: TypeAlias = Callable[[Mapping[str, Any], Tensor], Tensor]

MOST_LABELS = 10
"""How many labels of a multi-label model one rule may tie together: it is evaluated for 2 to the power of them."""


class LabelFactor(NamedTuple):
    """
    A rule on some labels of a multi-label model.

    Attributes:
        labels: their numbers, `k` of them.
        truths: `(B, 2**k)` or `(2**k,)`, the truth in each of their states, in the order of `label_states`.
    """

    labels: tuple[int, ...]
    truths: Tensor


class Rule:
    r"""
    A rule: what should hold of a prediction, as a truth value in [0, 1], and how sure one is of it.

    The function is called with certain predictions only: with the probabilities $e_c$ for each class $c$ in turn, so
    that its values are the truths $r(x, y)$ that a projection needs. Write it with `all_of`, `any_of`, `negate` and
    `implies`, with comparisons, or with any other formula; it needs no gradient.

    Args:
        function (`Callable`):
            `function(inputs, probabilities)` returns the truth of each row. `inputs` holds what the model is called
            with and the columns of the batch, by name.
        confidence (`float`, *optional*, defaults to 1.0):
            $\lambda$ in [0, 1], dimensionless: what a violation counts.
        name (`str`, *optional*):
            For errors and logs; the function's name by default.
        labels (`Sequence[str | int]`, *optional*):
            For multi-label models: the labels that the function looks at, at most 10. All of them by default.
        columns (`Sequence[str]`, *optional*):
            Columns of the data set that the function reads, besides the model's own inputs.

    Shape:
        - `probabilities`: `(B, C)`, or `(B, T, C)` for token classification, the same class at every token; for
          multi-label models 1 for the labels that are on.
        - the function returns `(B,)`, or `(B, T)`.

    Raises:
        ValueError: if the confidence is outside [0, 1]; when a model is known, for labels it does not have; at the
            first batch if a truth is outside [0, 1] or of another shape.
        TypeError: without a function.

    Relations:
        For more than a formula, subclass it and define `truth`, or `class_truths` and `label_truths`, where all
        classes can be had at once. [`KeywordRule`], [`ContrastClause`], [`LabelHierarchy`] and [`MutualExclusion`]
        are made so.

    Example:
        >>> from hf_transfer.rules import implies
        >>> def short_is_neutral(inputs, probabilities):
        ...     return implies(inputs["attention_mask"].sum(1) < 3, probabilities[:, 1])
        >>> rule = Rule(short_is_neutral, confidence=0.9)
        >>> batch = TransferBatch(features=torch.zeros(2, 4), inputs={"attention_mask": torch.ones(2, 2)})
        >>> rule.class_truths(batch, torch.full((2, 3), 1 / 3))[0]
        tensor([0., 1., 0.])
    """

    def __init__(
        self,
        function: RuleFunction | None = None,
        *,
        confidence: float = 1.0,
        name: str | None = None,
        labels: Sequence[LabelKey] | None = None,
        columns: Sequence[str] = (),
    ):
        if not callable(function) and type(self).truth is Rule.truth and type(self).class_truths is Rule.class_truths:
            raise TypeError(
                f"`Rule({function!r})` has no function: there is nothing to evaluate. Give one that takes "
                "`(inputs, probabilities)` and returns the truth of each row."
            )
        given = name or getattr(function, "__name__", "<lambda>" if function else type(self).__name__)
        self.name = "rule" if given == "<lambda>" else given
        if not 0 <= confidence <= 1:
            raise ValueError(
                f"`confidence={confidence}` of rule `{self.name}` is outside [0, 1]: it is how sure one is of the "
                "rule. Give 1.0 for a rule without doubt; how hard all rules pull is `strength` of `RuleConstraint`."
            )
        self.function = function
        self.confidence = confidence
        self.labels = None if labels is None else tuple(labels)
        self.columns = tuple(columns)
        self._numbers: tuple[int, ...] | None = None
        self._checked = False

    @classmethod
    def of(cls, rule: Rule | RuleFunction) -> Rule:
        """`rule` as a `Rule`; one that is, as it is; a function with confidence 1."""
        return rule if isinstance(rule, Rule) else cls(rule)

    def build(self, spec: ModelSpec) -> Self:
        """Find the rule's labels in the model; called when its objective is attached. Returns itself."""
        if self.labels is not None:
            self._numbers = tuple(label_number(label, spec, rule=self.name) for label in self.labels)
        return self

    def truth(self, batch: TransferBatch, probabilities: Tensor) -> Tensor:
        """The truth of each row, `(B,)` or `(B, T)`, for predictions `(B, C)` or `(B, T, C)`."""
        assert self.function is not None
        return self.function({**batch.inputs, **batch.columns}, probabilities)

    def class_truths(self, batch: TransferBatch, probabilities: Tensor) -> Tensor:
        """
        The truth for each class that a row may have: `(B, C)`, or `(B, T, C)` for tokens.

        Args:
            batch (`TransferBatch`): the forward.
            probabilities (`Tensor`): the model's own, of the same shape; for rules that ask it for another row.
        """
        certain = torch.eye(probabilities.shape[-1], dtype=probabilities.dtype, device=probabilities.device)
        return torch.stack([self._evaluated(batch, one.expand_as(probabilities)) for one in certain], -1)

    def label_truths(self, batch: TransferBatch, probabilities: Tensor) -> list[LabelFactor]:
        """The truth for each state of the labels it ties together, for multi-label models `(B, C)`."""
        labels = tuple(range(probabilities.shape[-1])) if self._numbers is None else self._numbers
        if len(labels) > MOST_LABELS:
            raise ValueError(
                f"Rule `{self.name}` looks at {len(labels)} labels of a multi-label model: it would be evaluated for "
                f"each of the {2 ** len(labels)} ways in which they are on or off. Name the labels that it reads, "
                f'`Rule(..., labels=["a", "b"])`, at most {MOST_LABELS}, or write it as several rules.'
            )
        truths = []
        for state in label_states(len(labels), probabilities.device).to(probabilities.dtype):
            columns = list(probabilities.unbind(-1))
            for label, value in zip(labels, state, strict=True):
                columns[label] = value.expand_as(columns[label])
            truths.append(self._evaluated(batch, torch.stack(columns, -1)))
        return [LabelFactor(labels, torch.stack(truths, -1))]

    def checked(self, truths: Tensor) -> Tensor:
        """`truths`, once seen to be between 0 and 1: reading them back waits for the device."""
        if not self._checked and not torch.compiler.is_compiling():
            tolerance = 1e-3  # what is left of half-precision sums
            if not bool(((truths >= -tolerance) & (truths <= 1 + tolerance)).all()):
                raise ValueError(
                    f"Rule `{self.name}` has truth values from {truths.min().item():.4g} to "
                    f"{truths.max().item():.4g}: outside [0, 1] (or not a number) they say nothing of how far a rule "
                    "is broken. Return probabilities, comparisons, or what `implies`, `all_of` and the like give."
                )
            self._checked = True
        return truths.clamp(0, 1)

    def _evaluated(self, batch: TransferBatch, probabilities: Tensor) -> Tensor:
        truths = self.truth(batch, probabilities)
        expected = tuple(probabilities.shape[:-1])
        if not isinstance(truths, Tensor) or truths.shape != expected:
            seen = tuple(truths.shape) if isinstance(truths, Tensor) else type(truths).__name__
            raise ValueError(
                f"Rule `{self.name}` returns {seen} for probabilities of shape {tuple(probabilities.shape)}: which "
                f"truth belongs to which row is not known. Return a tensor of shape {expected}, one truth a row."
            )
        return truths.to(probabilities.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, confidence={self.confidence})"
