"""Maximum classifier discrepancy (MCD), in one pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.adversarial import masked_mean
from hf_transfer.functional.classifier_discrepancy import classifier_discrepancy
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.adversary import before_adversary, check_adversary
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.discriminator import mlp
from hf_transfer.schedules import Schedule, warmup


class MaximumClassifierDiscrepancy(Objective):
    r"""
    Maximum classifier discrepancy (MCD): two classifiers that fit the source must agree on the target too.

    With the probabilities $p$ and $q$ of two auxiliary classifiers on the features $f_i$, the labels $y_i$ of the
    labelled rows $S$ and the unlabelled rows $T$, the term is

    $$ L = -\frac{1}{|S|} \sum_{i \in S} (\log p_i[y_i] + \log q_i[y_i])
    - \frac{1}{|T|} \sum_{i \in T} \frac{1}{C} \sum_c |p_{ic} - q_{ic}| $$

    The rows of $T$ pass $R_\lambda$ first, which is the identity forward and multiplies the gradient by $-\lambda$
    backward: the classifiers descend $L$ and so ascend their discrepancy, the backbone descends the discrepancy and,
    as in the paper, the cross-entropies.

    Args:
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of the hidden layers of both classifiers.
        strength (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0)`):
            Reversal coefficient $\lambda$ (dimensionless). Scales only the gradient of the discrepancy into the
            backbone.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss.

    Shape:
        - `batch.rows`: features `(N, D)`, labels `(N,)`; one row per example, or per token of a token classifier.
          Source rows are those with a label, target rows those of examples without any.
        - returns: scalar float32, in nats per row, of which the discrepancy is taken off.

    Degenerate batches:
        Without unlabelled rows the cross-entropies alone. Without labelled rows an exact zero that still depends on
        `features`: nothing would hold the classifiers to the classes, and they would drift apart.

    Deviations from the paper:
        One forward and one backward a step. The paper alternates between all, the classifiers alone and the backbone
        alone, the last up to 4 times, with two optimizers: gradient reversal plays both roles at once, and `strength`
        above 1 stands in for the repeats. The model's own head stays the classifier; the two are auxiliary, and
        dropped after training. They use LayerNorm.

    Raises:
        ValueError: if `hidden_size` is below 1 or `strength` negative; at attach time if the model is a regression or
            has several labels a row.

    Relations:
        Needs no `domain` column: targets are rows without a label, of one domain or several, as `mix_domains` makes
        them. [`MarginDisparity`] is the same idea with one auxiliary classifier and a bound. The classifiers are to
        run ahead of the backbone: set `objective_lr` above the learning rate. `..._discrepancy` in the logs should
        rise and then fall; at 0 throughout the classifiers are too alike to find anything, and `..._accuracy` is that
        of the two on labelled rows.

    Example:
        >>> objective = MaximumClassifierDiscrepancy(hidden_size=8).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(
        ...     features=torch.zeros(2, 4), logits=torch.zeros(2, 3), labels=torch.tensor([0, -100])
        ... )
        >>> objective(batch).shape
        torch.Size([])

    Paper: Saito et al., "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", CVPR 2018, https://huggingface.co/papers/1712.02560
    """

    needs_classes = True

    def __init__(
        self,
        *,
        hidden_size: int = 1024,
        strength: float | Schedule = warmup(gamma=10.0),  # noqa: B008  (schedules are immutable)
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        check_adversary(self, hidden_size, strength)
        self.hidden_size = hidden_size
        self.strength = strength

    def build(self, spec: ModelSpec) -> Self:
        """Make the two classifiers, which differ in their initial weights."""
        require_classes(self, spec)
        self.first = mlp(spec.feature_dim, self.hidden_size, spec.num_labels)
        self.second = mlp(spec.feature_dim, self.hidden_size, spec.num_labels)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """Cross-entropy of both classifiers on the source, less their discrepancy on the target."""
        rows = batch.rows
        turned = before_adversary(rows.features, self.strength, batch.progress)
        features = torch.where(rows.unlabelled.unsqueeze(-1), turned, rows.features)
        first, second = self.first(features), self.second(features)
        labels = torch.where(rows.labelled, rows.labels, 0)
        losses = F.cross_entropy(first, labels, reduction="none") + F.cross_entropy(second, labels, reduction="none")
        discrepancy = classifier_discrepancy(first, second, rows.unlabelled)
        with torch.no_grad():
            right = ((first.argmax(-1) == labels).to(first.dtype) + (second.argmax(-1) == labels)) / 2
            accuracy = masked_mean(right, rows.labelled)
            self.diagnostics = {"discrepancy": discrepancy.detach(), "accuracy": accuracy}
        return masked_mean(losses, rows.labelled) - discrepancy * rows.labelled.any()
