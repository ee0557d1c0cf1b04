"""Label smoothing."""

from __future__ import annotations

from dataclasses import replace

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.task_loss import TaskRows
from hf_transfer.functional.task_terms import smoothed
from hf_transfer.objective import TaskTerm


class LabelSmoothing(TaskTerm):
    r"""
    Label smoothing: targets that leave some probability to every class, against overconfidence.

    With $C$ classes and target distribution $q$ the loss is the cross-entropy with

    $$ q'_c = (1 - \epsilon) q_c + \epsilon / C $$

    Args:
        smoothing (`float`, *optional*, defaults to 0.1):
            $\epsilon$ in [0, 1) (dimensionless); the paper's value.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification.
        - `batch.labels`: `(B,)`, `(B, T)`, or `(B, C)` of 0 and 1 for several labels a row.
        - returns: scalar float32, in nats per labelled row; never below the entropy of $q'$.

    Degenerate batches:
        Without a labelled row an exact zero that still depends on the logits.

    Deviations from the paper:
        None for one label a row. With several labels a row, each is a choice between no and yes: $C$ is 2.

    Raises:
        ValueError: if `smoothing` is outside [0, 1); at attach time if the model is a regression.

    Relations:
        In place of `label_smoothing_factor` of the Trainer, which acts outside the model and drops objectives. Of
        equal effect before and after [`Mixup`]. Makes a worse teacher for distillation.

    Example:
        >>> import torch
        >>> batch = TransferBatch(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        >>> reference = torch.nn.functional.cross_entropy(batch.logits, batch.labels, label_smoothing=0.1)
        >>> bool(torch.isclose(LabelSmoothing()(batch), reference))
        True

    Paper: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, https://huggingface.co/papers/1512.00567
    """

    def __init__(self, *, smoothing: float = 0.1):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(
                f"`smoothing={smoothing}` is outside [0, 1): at 1 the targets say nothing of the labels, beyond it "
                "they point away from them. Give a small share, such as the default 0.1."
            )
        self.smoothing = smoothing

    def adjust(self, rows: TaskRows, batch: TransferBatch) -> TaskRows:
        """The rows with smoothed targets."""
        return replace(rows, targets=smoothed(rows.targets, self.smoothing))
