"""Consistency of two views of a row (FixMatch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.pseudo_labels import pseudo_label_cross_entropy, pseudo_labels
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.pseudo_labels import check_threshold, kept_share
from hf_transfer.schedules import Schedule


class FixMatch(Objective):
    r"""
    FixMatch: what the model is sure of in a weakly augmented row is the label of the row augmented strongly.

    `TwoViewsCollator` gives the batch a strong view $A(u_i)$ of $n$ of its rows, the unlabelled ones. They go through
    the model behind the batch. With the prediction $q_i$ for the row as it is, without a gradient, and $p_i$ for its
    strong view,

    $$ L = -\frac{1}{n} \sum_{i=1}^{n} \mathbb{1}[\max_c q_{ic} \ge \tau] \log p_{i, \arg\max_c q_{ic}} $$

    Args:
        threshold (`float`, *optional*, defaults to 0.95):
            $\tau$ in [0, 1], the least probability of a label (dimensionless); the paper's value (0.7 for ImageNet).
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term (dimensionless); the paper's value, constant: few rows pass the threshold early.

    Shape:
        - `batch.logits`: `(B + n, C)`; the model's output is cut back to `B` rows.
        - `batch.strong_view`: `(B + n,)` int64, for a strong view the number of its row, -1 in all other rows; before
          the forward it is what the collator made.
        - returns: scalar float32, in nats per strong view. The share that is kept is logged as `fix_match_share`.

    Degenerate batches:
        Without a strong view, or with none that is kept, an exact zero that still depends on the logits.

    Deviations from the paper:
        One forward over all views, in which BatchNorm sees them together. The strong view is made of the weak one and
        shares its crop and flip. The paper takes seven unlabelled rows for each labelled one, with its own code's
        labelled rows among them: give `TwoViewsCollator(..., rows="all")` for the latter.

    Raises:
        ValueError: if `threshold` is out of range; at attach time if the model is a regression or has several labels a
            row; at the first batch if there is no strong view, its shape is another, the model is a token classifier,
            beside [`Mixup`] or [`CutMix`], or behind [`RDrop`].

    Relations:
        Other objectives see the strong views too, as unlabelled rows of the same domain: [`DomainAdversarial`] aligns
        them, but target rows then count twice beside the source; [`EntropyMinimization`] and [`PseudoLabels`] count
        them as target. The task loss does not see them. [`PseudoLabels`] needs no views and costs no second pass. List
        FixMatch before [`RDrop`]. With several processes reading one stream take `rows="all"`, so that batches can be
        cut to pieces.

    Example:
        >>> inputs = {"pixel_values": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([0, -100])}
        >>> inputs["strong_view"] = {"pixel_values": torch.ones(1, 3, 4, 4), "row": torch.tensor([1])}
        >>> doubled = FixMatch().transform(inputs)
        >>> doubled["labels"].tolist(), doubled["strong_view"].tolist()
        ([0, -100, -100], [-1, -1, 1])

    Paper: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", 2020, https://huggingface.co/papers/2001.07685
    """

    needs_classes = True
    columns = ("strong_view",)

    def __init__(self, *, threshold: float = 0.95, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        check_threshold(threshold)
        self.threshold = threshold

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return self

    def transform(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The strong views behind the batch."""
        views = inputs.get("strong_view")
        _check(inputs, views)
        assert isinstance(views, Mapping)
        labels = inputs["labels"]
        row = views.get("row")
        count = len(next(value for name, value in views.items() if name != "row"))
        row = torch.arange(count, device=labels.device) if row is None else row
        longer = {
            name: self._longer(name, value, views.get(name), row, len(labels))
            for name, value in inputs.items()
            if name != "strong_view"
        }
        # Not labelled, whatever the row is: its label is counted once, by the row itself.
        longer["labels"] = torch.cat([labels, torch.full_like(labels[row], UNLABELLED)])
        longer["strong_view"] = torch.cat([torch.full_like(labels, -1, dtype=torch.long), row])
        return longer

    def _longer(self, name: str, value: Any, view: Tensor | None, row: Tensor, rows: int) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != rows or name == "labels":
            return value
        if view is None:
            return torch.cat([value, value[row]])  # the domain, or what a view leaves as it is
        if view.shape[1:] != value.shape[1:]:
            raise ValueError(
                f"The strong view of `{name}` has rows of shape {tuple(view.shape[1:])} and the batch of "
                f"{tuple(value.shape[1:])}: they cannot go through the model together. Let the augmentation keep the "
                "shape."
            )
        return torch.cat([value, view.to(value.dtype)])

    def forward(self, batch: TransferBatch) -> Tensor:
        """Cross-entropy of the strong views to what the model is sure of in their rows."""
        assert batch.logits is not None  # `attach` gives it
        if "mixed_with" in batch.columns:
            _refuse_mixed()
        row = batch.strong_view
        labels, kept = pseudo_labels(batch.logits[row.clamp(min=0)], self.threshold)
        self.diagnostics = {"share": kept_share(kept, row >= 0)}
        return pseudo_label_cross_entropy(batch.logits, labels, kept, row >= 0)


def _check(inputs: Mapping[str, Any], views: Any) -> None:
    if not isinstance(views, Mapping) or not set(views) - {"row"}:
        raise ValueError(
            f"FixMatch finds no strong views: the batch has {', '.join(sorted(inputs))}, and without a second view of "
            "its rows there is nothing to be consistent with. Pass the "
            "trainer `data_collator=TwoViewsCollator(processor)`, with the model's tokenizer or image processor."
        )
    unknown = sorted(set(views) - {"row", *inputs})
    if unknown:
        raise ValueError(
            f"The strong views have {', '.join(unknown)}, which the batch has not: the model would get inputs "
            "for some of its rows only. Let the augmentation return what it was given."
        )
    if inputs["labels"].dim() > 1:
        raise ValueError(
            "FixMatch on a token classifier: deleting and swapping tokens moves them away from their labels, and the "
            "views can no longer be compared token by token. Take `PseudoLabels`, which needs one view only."
        )
    if "dropout_pass" in inputs:
        raise ValueError(
            "FixMatch after RDrop: the strong views would stand behind both passes, of which RDrop compares the first "
            "half with the second. List `FixMatch` before `RDrop`."
        )
    if "mixed_with" in inputs:
        _refuse_mixed()


def _refuse_mixed() -> None:
    raise ValueError(
        "FixMatch beside Mixup or CutMix: a row mixed with another has no label of its own to pass on to its strong "
        "view. Take one of them."
    )
