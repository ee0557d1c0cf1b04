"""Conditional domain-adversarial training (CDAN)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, Rows, TransferBatch
from hf_transfer.functional.adversarial import domain_cross_entropy, masked_mean
from hf_transfer.functional.multilinear import (
    entropy_weights,
    multilinear_map,
    random_maps,
    randomized_multilinear_map,
)
from hf_transfer.objectives.domain_adaptation.adversary import before_adversary, check_adversary
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.objectives.domain_adaptation.discriminator import mlp
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from hf_transfer.schedules import Schedule, warmup


WIDEST_MAP = 4096
"""Width of the multilinear map beyond which the paper takes the randomised one."""


class ConditionalAdversarial(DomainObjective):
    r"""
    Conditional domain-adversarial training (CDAN): a discriminator that sees features together with predictions.

    With features $f_i$, predicted probabilities $g_i$ (without gradient), domain $d_i \in \{0, \dots, K-1\}$ and
    discriminator $D$, the term over the $N$ rows is

    $$ L = -\frac{1}{N} \sum_{i=1}^{N} w_i \log \operatorname{softmax}(D(T(R_\lambda(f_i), g_i)))_{d_i} $$

    where $T(f, g) = f \otimes g$, or $(R_f f) \odot (R_g g) / \sqrt{d}$ with fixed random matrices where that product
    is too wide, and $R_\lambda$ is the identity forward and multiplies the gradient by $-\lambda$ backward: the
    discriminator descends $L$, the backbone ascends it. $w_i = 1$, or with entropy conditioning $1 + e^{-H(g_i)}$
    divided by its mean over the rows of the same domain.

    Args:
        randomized (`bool`, *optional*):
            Whether to take the randomised map. By default it is taken where the product of feature width and number
            of classes is above 4096, as in the paper.
        random_size (`int`, *optional*, defaults to 1024):
            Width $d$ of the randomised map; the paper's value.
        entropy_conditioning (`bool`, *optional*, defaults to `False`):
            Whether rows with a certain prediction count more (CDAN+E in the paper).
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of the two hidden layers of the discriminator, as in the paper.
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take.
        strength (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0)`):
            Reversal coefficient $\lambda$ (dimensionless). Scales only the gradient into the backbone.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. Scales discriminator and backbone gradients alike.

    Shape:
        - `batch.rows`: features `(N, D)`, logits `(N, C)`: one row per example, or per token of a token classifier,
          where a token has the domain of its example and padding does not count.
        - `batch.domain`: `(B,)` int64 in `[0, K)`; column `domain` of the dataset.
        - returns: scalar float32, in nats per row; $\log K$ when the discriminator is at chance.

    Degenerate batches:
        If all rows share one domain the term is an exact zero that still depends on `features`, so ranks stay in step.

    Deviations from the paper:
        Softmax over K domains instead of a sigmoid over two (equal for K = 2); the discriminator uses LayerNorm. The
        entropy weights have mean 1 in each domain, not over both: else the domain with the more certain predictions
        would count more, and naming it would lower the loss without a look at the features.

    Raises:
        ValueError: if `num_domains` is below 2, `hidden_size` or `random_size` below 1 or `strength` negative; at
            attach time if the model is a regression or has several labels a row; at the first batch if `domain` is
            missing or outside `[0, K)`.

    Relations:
        [`DomainAdversarial`] aligns features whatever the class; this one aligns them class by class, as far as the
        predictions are right, and so holds up better where the domains have several modes. The advice on optimizers
        there (`adam_beta1=0.5`) holds here. The random matrices are buffers: saved with the objectives, and equal on
        every rank. [`JointMaximumMeanDiscrepancy`] conditions on predictions without a game.

    Example:
        >>> objective = ConditionalAdversarial(hidden_size=8).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(
        ...     features=torch.zeros(2, 4),
        ...     logits=torch.zeros(2, 3),
        ...     labels=torch.tensor([0, -100]),
        ...     domain=torch.tensor([0, 1]),
        ... )
        >>> objective(batch).shape
        torch.Size([])

    Paper: Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, https://huggingface.co/papers/1705.10667
    """

    needs_classes = True
    feature_map: Tensor
    class_map: Tensor

    def __init__(
        self,
        *,
        randomized: bool | None = None,
        random_size: int = 1024,
        entropy_conditioning: bool = False,
        hidden_size: int = 1024,
        num_domains: int = 2,
        strength: float | Schedule = warmup(gamma=10.0),  # noqa: B008  (schedules are immutable)
        weight: float | Schedule = 1.0,
    ):
        super().__init__(num_domains=num_domains, weight=weight)
        check_adversary(self, hidden_size, strength)
        if random_size < 1:
            raise ValueError(
                f"`random_size={random_size}` leaves the randomised map without outputs: the discriminator would see "
                "nothing. Give a positive width, such as the default 1024."
            )
        self.randomized = randomized
        self.random_size = random_size
        self.entropy_conditioning = entropy_conditioning
        self.hidden_size = hidden_size
        self.strength = strength
        self._takes_random_map = False

    def build(self, spec: ModelSpec) -> Self:
        """Make the discriminator, and the random matrices where they are needed."""
        require_classes(self, spec)
        width = spec.feature_dim * spec.num_labels
        self._takes_random_map = width > WIDEST_MAP if self.randomized is None else self.randomized
        if self._takes_random_map:
            feature_map, class_map = random_maps(spec.feature_dim, spec.num_labels, self.random_size)
            self.register_buffer("feature_map", feature_map)
            self.register_buffer("class_map", class_map)
            width = self.random_size
        self.discriminator = mlp(width, self.hidden_size, self.num_domains)
        return super().build(spec)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The discriminator's cross-entropy, with the gradient into the features reversed."""
        self.check_domain(batch.domain)
        rows = batch.rows
        assert rows.domain is not None  # as `check_domain` has seen
        logits = self.discriminator(self._joint(rows, batch))
        if self.entropy_conditioning:
            weights = entropy_weights(rows.logits, rows.domain, rows.counted, self.num_domains)
        else:
            weights = rows.counted.to(logits.dtype)
        with torch.no_grad():
            right = (logits.argmax(-1) == rows.domain).to(logits.dtype)
            self.diagnostics = {"accuracy": masked_mean(right, rows.counted)}
        return domain_cross_entropy(logits, rows.domain, weights)

    def _joint(self, rows: Rows, batch: TransferBatch) -> Tensor:
        """Features and predictions as one input. No gradient goes into the predictions: the head is not a player."""
        features = before_adversary(rows.features, self.strength, batch.progress)
        probabilities = rows.logits.detach().softmax(-1)
        if self._takes_random_map:
            return randomized_multilinear_map(features, probabilities, (self.feature_map, self.class_map))
        return multilinear_map(features, probabilities)
