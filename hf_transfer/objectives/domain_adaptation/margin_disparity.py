"""Margin disparity discrepancy (MDD)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.adversarial import masked_mean
from hf_transfer.functional.margin_disparity import margin_disparity
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.adversary import before_adversary, check_adversary
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.discriminator import mlp
from hf_transfer.schedules import Schedule, warmup


class MarginDisparity(Objective):
    r"""
    Margin disparity discrepancy (MDD): no second classifier may agree with the model on the source and not on the
    target.

    With features $f_i$, the class $h_i$ that the model predicts (without gradient) and the probabilities $q$ of an
    adversarial classifier on $R_\lambda(f_i)$, the term over the labelled rows $S$ and the unlabelled rows $T$ is

    $$ L = -\frac{\gamma}{|S|} \sum_{i \in S} \log q_i[h_i] - \frac{1}{|T|} \sum_{i \in T} \log (1 - q_i[h_i]) $$

    where $R_\lambda$ is the identity forward and multiplies the gradient by $-\lambda$ backward: the adversarial
    classifier descends $L$, the backbone ascends it. The head of the model learns from the task loss alone.

    Args:
        margin (`float`, *optional*, defaults to 4.0):
            Margin factor $\gamma$ (dimensionless), the paper's choice among 2, 3 and 4. At balance the adversarial
            classifier gives the predicted class a probability of $\gamma / (1 + \gamma)$.
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of the hidden layers of the adversarial classifier, as in the paper.
        strength (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0, peak=0.1)`):
            Reversal coefficient $\lambda$ (dimensionless). Scales only the gradient into the backbone; the paper goes
            up to 0.1.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. Scales the gradients of both players alike.

    Shape:
        - `batch.rows`: features `(N, D)`, logits `(N, C)`; one row per example, or per token of a token classifier.
          Source rows are those with a label, target rows those of examples without any.
        - returns: scalar float32, in nats per row.

    Degenerate batches:
        If no row is labelled, or none unlabelled, the term is an exact zero that still depends on `features`: on one
        side alone there is nothing to compare.

    Deviations from the paper:
        The adversarial classifier has LayerNorm and PyTorch's initial weights. Each side is a mean of its own, so that
        their numbers of rows may differ. $\log(1 - q)$ is computed from the logits, exactly, without a small number
        added to it.

    Raises:
        ValueError: if `margin` is not above 0, `hidden_size` below 1 or `strength` negative; at attach time if the
            model is a regression or has several labels a row.

    Relations:
        Needs no `domain` column: targets are rows without a label, of one domain or several, as `mix_domains` makes
        them. [`MaximumClassifierDiscrepancy`] lets two classifiers disagree with each other instead of one with the
        model. The adversarial classifier wants a larger rate than the backbone: set `objective_lr`, ten times in the
        paper. `margin_disparity_disparity` in the logs is how much more often it contradicts the model on the target
        than on the source: near 1 it wins throughout (raise `strength`), near 0 from the start it does not learn
        (raise `objective_lr`).

    Example:
        >>> objective = MarginDisparity(hidden_size=8).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(
        ...     features=torch.zeros(2, 4), logits=torch.zeros(2, 3), labels=torch.tensor([0, -100])
        ... )
        >>> objective(batch).shape
        torch.Size([])

    Paper: Zhang et al., "Bridging Theory and Algorithm for Domain Adaptation", ICML 2019, https://huggingface.co/papers/1904.05801
    """

    needs_classes = True

    def __init__(
        self,
        *,
        margin: float = 4.0,
        hidden_size: int = 1024,
        strength: float | Schedule = warmup(gamma=10.0, peak=0.1),  # noqa: B008  (schedules are immutable)
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        check_adversary(self, hidden_size, strength)
        if margin <= 0:
            raise ValueError(
                f"`margin={margin}`: nothing would hold the adversarial classifier to the model on the source, and it "
                "would disagree everywhere. Give a number above 0, such as the paper's 4."
            )
        self.margin = margin
        self.hidden_size = hidden_size
        self.strength = strength

    def build(self, spec: ModelSpec) -> Self:
        """Make the adversarial classifier."""
        require_classes(self, spec)
        self.classifier = mlp(spec.feature_dim, self.hidden_size, spec.num_labels)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The margin disparity of the adversarial classifier, with the gradient into the features reversed."""
        rows = batch.rows
        predictions = rows.logits.argmax(-1)
        logits = self.classifier(before_adversary(rows.features, self.strength, batch.progress))
        with torch.no_grad():
            differs = (logits.argmax(-1) != predictions).to(logits.dtype)
            disparity = masked_mean(differs, rows.unlabelled) - masked_mean(differs, rows.labelled)
            self.diagnostics = {"disparity": disparity}
        return margin_disparity(logits, predictions, rows.labelled, rows.unlabelled, self.margin)
