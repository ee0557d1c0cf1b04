"""Self-training on confident predictions."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.pseudo_labels import (
    class_thresholds,
    mean_prediction,
    pseudo_label_cross_entropy,
    pseudo_labels,
)
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.schedules import Schedule, warmup


class PseudoLabels(Objective):
    r"""
    Self-training on pseudo-labels: where the model is sure of an unlabelled row, take its answer for the label.

    With the predictions $p_i = \operatorname{softmax}(z_i)$ of the $n$ unlabelled rows, without a gradient where they
    serve as labels, $\hat y_i = \arg\max_c p_{ic}$ and a threshold $\tau_c$ for each class,

    $$ L = -\frac{1}{n} \sum_{i=1}^{n} \mathbb{1}[p_{i \hat y_i} \ge \tau_{\hat y_i}] \log p_{i \hat y_i} $$

    All thresholds are $\tau$, or with `class_balanced` $\tau_c = \tau \, \bar p_c / \max_k \bar p_k$, where $\bar p$
    is a moving average of the mean prediction: classes that the model predicts rarely need less confidence.

    Args:
        threshold (`float`, *optional*, defaults to 0.95):
            $\tau$ in [0, 1], the least probability of a pseudo-label (dimensionless); the value of FixMatch. 0 keeps
            every row, as Lee did in 2013.
        class_balanced (`bool`, *optional*, defaults to `False`):
            Whether each class has a threshold of its own.
        momentum (`float`, *optional*, defaults to 0.99):
            Of the moving average, in [0, 1): it spans about $1 / (1 - m)$ micro-batches. Only for `class_balanced`.
        weight (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0)`):
            Multiplier of the term (dimensionless): from 0 to nearly 1 at half of the training, for the answers of a
            new head are worth nothing.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification, where every token counts that
          `attention_mask` counts, in rows that have no label at all.
        - `batch.labels`: -100 marks unlabelled rows, as `mix_domains` does; no `domain` is needed.
        - returns: scalar float32, in nats per unlabelled row. The share of them that is kept is logged as
          `pseudo_labels_share`.

    Degenerate batches:
        Without an unlabelled row, or with none that is kept, an exact zero that still depends on the logits. The
        moving average then stays as it is.

    Deviations from the paper:
        The paper chooses the most confident share of each class once per round of training, with the whole target set
        at hand, and lets the share grow; here each micro-batch is judged by thresholds, which follow the mean
        prediction as in FreeMatch (https://huggingface.co/papers/2205.07246), and the weight grows.

    Raises:
        ValueError: if `threshold` or `momentum` is out of range; at attach time if the model is a regression or has
            several labels a row.

    Relations:
        [`EntropyMinimization`] sharpens every row a little, this one those that are nearly certain. [`FixMatch`] takes
        the label from one view of a row and trains on another, from which there is more to learn; it needs
        augmentation. `adapt_source_free` labels by clusters of features instead, without source data. A share near 1
        from the start is a badly calibrated model, not a good one: raise the threshold.

    Example:
        >>> labels = torch.tensor([1, -100, -100])
        >>> logits = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.1, 0.0]])
        >>> objective = PseudoLabels()
        >>> round(objective(TransferBatch(features=torch.zeros(3, 4), logits=logits, labels=labels)).item(), 4)
        0.0091
        >>> objective.diagnostics["share"].item()
        0.5

    Paper: Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training", https://huggingface.co/papers/1810.07911
    """

    needs_classes = True
    mean: Tensor

    def __init__(
        self,
        *,
        threshold: float = 0.95,
        class_balanced: bool = False,
        momentum: float = 0.99,
        weight: float | Schedule = warmup(gamma=10.0),  # noqa: B008  (schedules are immutable)
    ):
        super().__init__(weight=weight)
        check_threshold(threshold)
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`momentum={momentum}` is outside [0, 1): at 1 the thresholds would never follow the predictions. "
                "Give the share of the average that each micro-batch keeps, such as 0.99."
            )
        self.threshold = threshold
        self.class_balanced = class_balanced
        self.momentum = momentum

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes; make the moving average, which starts with all of them alike."""
        require_classes(self, spec)
        if self.class_balanced:
            self.register_buffer("mean", torch.full((spec.num_labels,), 1 / spec.num_labels))
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """Cross-entropy of the unlabelled rows to the answers the model is sure of."""
        rows = batch.rows
        labels, kept = pseudo_labels(rows.logits, self._thresholds(rows.logits, rows.unlabelled))
        self.diagnostics = {"share": kept_share(kept, rows.unlabelled)}
        return pseudo_label_cross_entropy(rows.logits, labels, kept, rows.unlabelled)

    def _thresholds(self, logits: Tensor, counted: Tensor) -> float | Tensor:
        if not self.class_balanced:
            return self.threshold
        with torch.no_grad():
            total, rows = mean_prediction(logits, counted)
            if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
                # DDP would broadcast the average of rank 0 and drop what the others saw.
                together = torch.cat([total, rows.unsqueeze(0)])
                distributed.all_reduce(together)
                total, rows = together[:-1], together[-1]
            updated = self.momentum * self.mean + (1 - self.momentum) * total / rows.clamp(min=1)
            # In place: DDP holds on to the buffers it found when it was made.
            self.mean.copy_(torch.where(rows > 0, updated, self.mean))
            return class_thresholds(self.mean, self.threshold)


def check_threshold(threshold: float) -> None:
    """
    Refuse what is no probability.

    Raises:
        ValueError: if `threshold` is outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"`threshold={threshold}` is outside [0, 1]: it is compared with the probability of the predicted class. "
            "Give a number such as 0.95."
        )


def kept_share(kept: Tensor, counted: Tensor) -> Tensor:
    """
    The share of the rows that count which is kept, for the logs.

    Example:
        >>> kept_share(torch.tensor([True, False, True]), torch.tensor([True, True, False])).item()
        0.5
    """
    return (kept & counted).sum() / counted.sum().clamp(min=1)
