"""Domain-adversarial training (DANN)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.adversarial import domain_cross_entropy
from hf_transfer.objectives.domain_adaptation.adversary import before_adversary, check_adversary
from hf_transfer.objectives.domain_adaptation.discriminator import mlp
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from hf_transfer.schedules import Schedule, warmup


class DomainAdversarial(DomainObjective):
    r"""
    Domain-adversarial training (DANN): learn features from which a discriminator cannot tell the domain.

    With features $f_i$, domain $d_i \in \{0, \dots, K-1\}$ and discriminator $D$, the term is

    $$ L = -\frac{1}{B} \sum_{i=1}^{B} \log \operatorname{softmax}(D(R_\lambda(f_i)))_{d_i} $$

    where $R_\lambda$ is the identity forward and multiplies the gradient by $-\lambda$ backward: the discriminator
    descends $L$, the backbone ascends it. $\lambda(p) = 2 / (1 + e^{-\gamma p}) - 1$ for training progress $p \in [0,
    1]$.

    Args:
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of the two hidden layers of the discriminator, as in the paper's digit experiments and the field's
            libraries. Its input width is read off the model's head.
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take.
        strength (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0)`):
            Reversal coefficient $\lambda$ (dimensionless). Scales only the gradient into the backbone.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. Scales discriminator and backbone gradients alike.

    Shape:
        - `batch.features`: `(B, D)` float32, input of the classification head; `(B, T, D)` of a token classifier is
          averaged over the tokens of each row.
        - `batch.domain`: `(B,)` int64 in `[0, K)`; column `domain` of the dataset.
        - returns: scalar float32, in nats per example; $\log K$ when the discriminator is at chance.

    Degenerate batches:
        If all rows share one domain the term is an exact zero that still depends on `features`, so ranks stay in step.

    Deviations from the paper:
        Softmax over K domains instead of a sigmoid over two (equal for K = 2); the discriminator uses LayerNorm.

    Raises:
        ValueError: if `num_domains` is below 2, `hidden_size` below 1 or `strength` negative; at the first batch if
            `domain` is missing or outside `[0, K)`.

    Relations:
        Train with `AdamW(betas=(0.5, 0.999))` (`adam_beta1=0.5`): with the usual 0.9 backbone and discriminator
        overshoot each other, `domain_adversarial_accuracy` swings between 0 and 1 although the loss stays near log K,
        and most of the gain is lost. If the accuracy stays at 1.0 the discriminator wins and the backbone learns
        nothing from it: lower `objective_lr` or raise `weight`. At 1 / K throughout, the features hold nothing to
        remove. Always run the source alone beside; `weight=0` on mixed batches is the control. Different class
        proportions in the domains break the method, which aligns the marginals.

    Example:
        >>> import torch
        >>> objective = DomainAdversarial(hidden_size=8).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(features=torch.zeros(2, 4), domain=torch.tensor([0, 1]), progress=1.0)
        >>> objective(batch).shape
        torch.Size([])

    Paper: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, https://huggingface.co/papers/1505.07818
    """

    def __init__(
        self,
        *,
        hidden_size: int = 1024,
        num_domains: int = 2,
        strength: float | Schedule = warmup(gamma=10.0),  # noqa: B008  (schedules are immutable)
        weight: float | Schedule = 1.0,
    ):
        super().__init__(num_domains=num_domains, weight=weight)
        check_adversary(self, hidden_size, strength)
        self.hidden_size = hidden_size
        self.strength = strength

    def build(self, spec: ModelSpec) -> Self:
        """Make the discriminator for features of width `spec.feature_dim`."""
        self.discriminator = mlp(spec.feature_dim, self.hidden_size, self.num_domains)
        return super().build(spec)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The discriminator's cross-entropy, with the gradient into the features reversed."""
        domain = self.check_domain(batch.domain)
        logits = self.discriminator(before_adversary(batch.example_features, self.strength, batch.progress))
        with torch.no_grad():
            self.diagnostics = {"accuracy": (logits.argmax(-1) == domain).float().mean()}
        return domain_cross_entropy(logits, domain)
