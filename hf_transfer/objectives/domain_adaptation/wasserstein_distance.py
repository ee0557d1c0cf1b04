"""Wasserstein distance guided representation learning (WDGRL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.critic import Layers, gradient_penalty, interpolate, wasserstein_dual
from hf_transfer.functional.domains import domain_masks
from hf_transfer.objectives.domain_adaptation.adversary import before_adversary, check_adversary
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from hf_transfer.schedules import Schedule, warmup


class WassersteinDistance(DomainObjective):
    r"""
    Wasserstein distance guided representation learning (WDGRL): bring the domains as near as a critic of slope 1 can
    tell.

    With features $f_i$ and a critic $c$, the term for source rows $S$ and target rows $T$ is

    $$ L = -\left( \frac{1}{|S|} \sum_{i \in S} c(R_\lambda(f_i)) - \frac{1}{|T|} \sum_{i \in T} c(R_\lambda(f_i))
    \right) + \gamma \, \operatorname{mean}_{\hat f} \left( \Vert \nabla c(\hat f) \Vert_2 - 1 \right)^2 $$

    where $R_\lambda$ is the identity forward and multiplies the gradient by $-\lambda$ backward: the critic ascends
    the distance in brackets, the backbone descends it. $\hat f$ runs over the rows of both domains and over random
    points between them, without gradient into the backbone. With several targets the critic has one output for each,
    and the term is the mean over the targets in the batch.

    Args:
        penalty (`float`, *optional*, defaults to 10.0):
            Multiplier $\gamma$ of the gradient penalty (dimensionless); the paper's value.
        hidden_size (`int`, *optional*, defaults to 1024):
            Width of the two hidden layers of the critic.
        num_domains (`int`, *optional*, defaults to 2):
            Number $K$ of values the `domain` column may take; 0 is the source.
        strength (`float` or `Schedule`, *optional*, defaults to `warmup(gamma=10.0)`):
            Reversal coefficient $\lambda$ (dimensionless). Scales only the gradient into the backbone.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. Scales the gradients of both players alike.

    Shape:
        - `batch.features`: `(B, D)` float32, input of the classification head; `(B, T, D)` of a token classifier is
          averaged over the tokens of each row.
        - `batch.domain`: `(B,)` int64 in `[0, K)`; column `domain` of the dataset.
        - returns: scalar float32, in units of the features; falls below zero while the critic is ahead. The distance
          itself is `wasserstein_distance_distance` in the logs.

    Degenerate batches:
        If the source or every target is missing the term is an exact zero, penalty included, that still depends on
        `features`.

    Deviations from the paper:
        One step of the critic for each step of the backbone, in one backward. The paper takes several before each:
        set `objective_lr` to five or ten times the learning rate to let the critic run ahead instead, and leave
        `strength` to rise, so that the backbone does not follow a critic that knows nothing yet. The gradient of the
        critic is written out, not differentiated twice, so that `torch.compile` takes it. Several targets.

    Raises:
        ValueError: if `num_domains` is below 2, `penalty` not above 0, `hidden_size` below 1 or `strength` negative;
            at the first batch if `domain` is missing or outside `[0, K)`.

    Relations:
        [`DomainAdversarial`] loses its gradient where the domains are easily told apart; a critic does not. The
        distance has the scale of the features: with wide or unnormalised ones lower `weight`. The optimal-transport
        terms have no critic to train. A `wasserstein_distance_distance` below zero says that the critic is behind the
        backbone and points the wrong way: raise `objective_lr`, or lower the peak of `strength`. While
        `wasserstein_distance_slope` is far from 1 the distance means nothing yet. The random points come from the
        device's random numbers.

    Example:
        >>> objective = WassersteinDistance(hidden_size=8).build(ModelSpec(feature_dim=4, num_labels=3))
        >>> batch = TransferBatch(features=torch.zeros(2, 4), domain=torch.tensor([0, 1]))
        >>> objective(batch).shape
        torch.Size([])

    Paper: Shen et al., "Wasserstein Distance Guided Representation Learning for Domain Adaptation", AAAI 2018, https://huggingface.co/papers/1707.01217
    """

    def __init__(
        self,
        *,
        penalty: float = 10.0,
        hidden_size: int = 1024,
        num_domains: int = 2,
        strength: float | Schedule = warmup(gamma=10.0),  # noqa: B008  (schedules are immutable)
        weight: float | Schedule = 1.0,
    ):
        super().__init__(num_domains=num_domains, weight=weight)
        check_adversary(self, hidden_size, strength)
        if penalty <= 0:
            raise ValueError(
                f"`penalty={penalty}`: nothing would keep the slope of the critic near 1, and the distance would grow "
                "without bound. Give a number above 0, such as the paper's 10."
            )
        self.penalty = penalty
        self.hidden_size = hidden_size
        self.strength = strength

    def build(self, spec: ModelSpec) -> Self:
        """Make the critic, with an output for each target domain."""
        width = self.hidden_size
        # No normalisation, as in the paper: the slope is then that of the weights. No bias at the end, which would
        # cancel out of the distance.
        self.critic = nn.Sequential(
            nn.Linear(spec.feature_dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, self.num_domains - 1, bias=False),
        )
        return super().build(spec)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The penalty less the critic's distance, with the gradient of the distance into the features reversed."""
        domain, features = self.check_domain(batch.domain), batch.example_features
        scores = self.critic(before_adversary(features, self.strength, batch.progress))
        source, *targets = domain_masks(domain, self.num_domains, features.dtype)
        parts = []
        for number, target in enumerate(targets):
            present = source.any() & target.any()
            penalty, slope = self._penalty(features.detach(), source, target, number)
            parts.append(torch.stack([wasserstein_dual(scores[:, number], source, target), penalty, slope]) * present)
        present = source.any() * torch.stack([target.any() for target in targets]).sum()
        distance, penalty, slope = torch.stack(parts).sum(0) / present.clamp(min=1)
        self.diagnostics = {"distance": distance.detach(), "slope": slope.detach()}
        return self.penalty * penalty - distance

    def _penalty(self, features: Tensor, source: Tensor, target: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The gradient penalty of one output of the critic, and its mean slope."""
        share = torch.rand_like(features[:, :1])
        between, counted = interpolate(features, source, target, share)
        return gradient_penalty(
            torch.cat([features, between]), torch.cat([source + target, counted]), self._layers(number)
        )

    def _layers(self, number: int) -> Layers:
        first, _, second, _, last = self.critic
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and isinstance(last, nn.Linear)
        return [(first.weight, first.bias), (second.weight, second.bias), (last.weight[number : number + 1], None)]
