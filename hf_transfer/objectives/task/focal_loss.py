"""Focal loss."""

from __future__ import annotations

from dataclasses import replace

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.task_loss import TaskRows
from hf_transfer.functional.task_terms import focal_weights
from hf_transfer.objective import TaskTerm


class FocalLoss(TaskTerm):
    r"""
    Focal loss: rows that are classified well already count less.

    With probabilities $p$ and target distribution $q$ (one-hot unless another task term changed it)

    $$ L = -\frac{1}{N} \sum_{n=1}^{N} \sum_c q_{nc} (1 - p_{nc})^\gamma \log p_{nc} $$

    Args:
        gamma (`float`, *optional*, defaults to 2.0):
            $\gamma$, how fast a row loses weight as it is learned (dimensionless); the paper's value. At 0 the loss is
            the cross-entropy.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification.
        - `batch.labels`: `(B,)`, `(B, T)`, or `(B, C)` of 0 and 1 for several labels a row.
        - returns: scalar float32, in nats per labelled row; at most the cross-entropy.

    Degenerate batches:
        Without a labelled row an exact zero that still depends on the logits.

    Deviations from the paper:
        Divided by the number of labelled rows (or labels, where a row has several), not by the number of objects, and
        softmax in place of the sigmoid where classes exclude one another. The constant $\alpha$ of a class is left to
        [`ClassBalanced`].

    Raises:
        ValueError: if `gamma` is negative; at attach time if the model is a regression.

    Relations:
        [`ClassBalanced`] weighs classes by their number of rows, this weighs rows by how hard they are; they combine.
        Smaller losses mean smaller gradients: compare runs at rates of their own. With wrong labels in the data it
        dwells on them.

    Example:
        >>> import torch
        >>> batch = TransferBatch(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))
        >>> round(FocalLoss()(batch).item(), 4)  # 0.5^2 log 2
        0.1733

    Paper: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, https://huggingface.co/papers/1708.02002
    """

    def __init__(self, *, gamma: float = 2.0):
        super().__init__()
        if gamma < 0:
            raise ValueError(
                f"`gamma={gamma}` is negative: rows would count more the better they are classified, without bound. "
                "Give zero or a positive number, such as the default 2.0."
            )
        self.gamma = gamma

    def adjust(self, rows: TaskRows, batch: TransferBatch) -> TaskRows:
        """The rows with the weight of every class lowered by its probability."""
        return replace(rows, weights=rows.weights * focal_weights(rows.log_probabilities, self.gamma))
