"""Class-balanced loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.task_loss import UNLABELLED, TaskRows
from hf_transfer.functional.task_terms import effective_number_weights
from hf_transfer.objective import TaskTerm
from hf_transfer.series_models import labels_of


class ClassBalanced(TaskTerm):
    r"""
    Class-balanced loss: classes weigh inversely to their effective number of rows, for skewed labels.

    A class with $n_c$ rows in the training data has the effective number $E_c$, and the loss is

    $$ L = -\frac{1}{N} \sum_{n=1}^{N} \sum_c w_c \, q_{nc} \log p_{nc}, \qquad w_c \propto \frac{1}{E_c}, \quad
    E_c = \frac{1 - \beta^{n_c}}{1 - \beta} $$

    with weights of mean 1 over the classes that have rows.

    Args:
        beta (`float`, *optional*, defaults to 0.999):
            $\beta$ in [0, 1) (dimensionless); the paper tries 0.9, 0.99, 0.999 and 0.9999. At 0 all classes weigh the
            same; towards 1 the weights go as $1 / n_c$.
        counts (`Sequence[int]`, *optional*):
            $n_c$, the number of rows of each class. By default counted in `fit`, which `TransferTrainer` calls.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification, where tokens are counted.
        - `batch.labels`: `(B,)`, `(B, T)`, or `(B, C)` of 0 and 1 for several labels a row. Then each label is a
          classification of its own, and no and yes are balanced for each.
        - returns: scalar float32, in nats per labelled row.

    Degenerate batches:
        Without a labelled row an exact zero that still depends on the logits. A class without rows in the training
        data has weight 1: no label names it, only [`LabelSmoothing`] gives it a target.

    Deviations from the paper:
        With several labels a row the paper's sigmoid loss takes the weight of the one true class for all of them.

    Raises:
        ValueError: if `beta` is outside [0, 1), or `counts` are negative or all zero; at attach time if there is
            another number of `counts` than of classes, or they are given for several labels a row; in `fit` if the
            data has no label, or one that the model has no class for.
        RuntimeError: at the first batch if the classes were not counted.

    Relations:
        [`FocalLoss`] weighs rows by how hard they are instead; they combine. Does nothing for balanced data. Judge by
        the score of each class: accuracy over all rows often falls a little.

    Example:
        >>> import torch
        >>> objective = ClassBalanced(counts=[900, 100]).build(ModelSpec(feature_dim=2, num_labels=2))
        >>> batch = TransferBatch(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> round(objective(batch).item(), 4)  # log 2 on average, most of it for the rare class
        0.6931

    Paper: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, https://huggingface.co/papers/1901.05555
    """

    learns_from_data = True
    rows_by_class: Tensor

    def __init__(self, *, beta: float = 0.999, counts: Sequence[int] | None = None):
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(
                f"`beta={beta}` is outside [0, 1): at 1 the effective number is not defined. Give a share such as the "
                "default 0.999; the closer to 1, the closer the weights come to one over the number of rows."
            )
        if counts is not None and (min(counts, default=0) < 0 or not any(counts)):
            raise ValueError(
                f"`counts={list(counts)}` cannot be numbers of rows: they must not be negative, and one of them at "
                "least is positive, or no weight is defined. Give the number of rows of each class, or leave them out "
                "to have the training data counted."
            )
        self.beta = beta
        self.counts = counts
        self._counted = False
        # With the counts given nothing need be read: the training data may be a stream.
        self.learns_from_data = counts is None

    def build(self, spec: ModelSpec) -> Self:
        """Make room for the counts of every class."""
        super().build(spec)
        if self.counts is not None and len(self.counts) != spec.num_labels:
            raise ValueError(
                f"`counts` has {len(self.counts)} numbers for a model of {spec.num_labels} classes: some class would "
                "have none. Give one number for each class, in the order of `config.id2label`."
            )
        # no and yes of each class; for one label a row only yes is read
        self.register_buffer("rows_by_class", torch.zeros(spec.num_labels, 2, dtype=torch.long))
        self._counted = False
        if self.counts is not None:
            self._set(torch.tensor(self.counts))
            self._refuse_counts(getattr(getattr(spec.model, "config", None), "problem_type", None) or "")
        return self

    def _set(self, yes: Tensor, no: Tensor | None = None) -> None:
        self.rows_by_class.copy_(torch.stack([torch.zeros_like(yes) if no is None else no, yes], dim=-1))
        self._counted = True

    def _refuse_counts(self, problem: str) -> None:
        if self.counts is not None and problem == "multi_label_classification":
            raise ValueError(
                "`counts` for several labels a row: each label is balanced between its own no and yes, which takes "
                "two numbers for each. Leave `counts` out and call `fit`, as `TransferTrainer` does."
            )

    def fit(self, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
        """Count the rows of every class in the training data; with `counts` given nothing is read."""
        if self.counts is not None:
            return
        classes = len(self.rows_by_class)
        yes = torch.zeros(classes, dtype=torch.long)
        no = torch.zeros_like(yes)
        for batch in batches:
            labels = labels_of(batch).cpu()
            if labels.is_floating_point() and labels.dim() == 2:
                yes += (labels == 1).sum(0)
                no += (labels == 0).sum(0)
            else:
                yes += self._counted_labels(labels[labels != UNLABELLED].long())
        if not (yes + no).any():
            raise ValueError(
                "ClassBalanced finds no label in the training data: without a row of any class no weight is defined. "
                "Give a data set with a column `labels`, or `ClassBalanced(counts=[...])`."
            )
        self._set(yes, no)

    def _counted_labels(self, labels: Tensor) -> Tensor:
        classes = len(self.rows_by_class)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f"Column `labels` holds values from {int(labels.min())} to {int(labels.max())}, and the model has "
                f"{classes} classes, numbered from 0: there is no logit for the others. Load the model with as many "
                "`num_labels` as the data has classes."
            )
        return torch.bincount(labels, minlength=classes)

    def adjust(self, rows: TaskRows, batch: TransferBatch) -> TaskRows:
        """The rows with the weight of each class."""
        if not self._counted:
            raise RuntimeError(
                "ClassBalanced has not counted the classes: it does not know their weights. Train with "
                "`TransferTrainer`, call `fit(model, batches)` with batches of the training data, or give "
                "`ClassBalanced(counts=[...])`."
            )
        counts = self.rows_by_class
        if rows.multi_label:
            self._refuse_counts("multi_label_classification")
            weights = effective_number_weights(counts, self.beta).repeat(len(rows.labels) // len(counts), 1)
        else:
            weights = effective_number_weights(counts[:, 1], self.beta)
        return replace(rows, weights=rows.weights * weights.to(rows.weights.dtype))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any, **named: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)
        self._counted = bool(self.rows_by_class.any())
