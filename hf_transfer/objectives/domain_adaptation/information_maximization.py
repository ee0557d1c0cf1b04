"""Information maximisation: certain and varied predictions on unlabelled rows."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.entropy import information_maximization, prediction_entropies
from hf_transfer.objective import Objective
from hf_transfer.objectives.domain_adaptation.checks import require_classes
from hf_transfer.schedules import Schedule


class InformationMaximization(Objective):
    r"""
    Information maximisation (IM): make predictions on unlabelled rows certain one by one and varied as a whole.

    With the predictions $p_i = \operatorname{softmax}(z_i)$ of the $n$ unlabelled rows, their mean $\bar p$ and the
    uniform distribution $u$ over $C$ classes the term is

    $$ L = \frac{1}{n} \sum_{i=1}^{n} H(p_i) + \gamma \, KL(\bar p \Vert u)
         = \frac{1}{n} \sum_{i=1}^{n} H(p_i) - \gamma H(\bar p) + \gamma \log C $$

    For $\gamma = 1$ it is $\log C$ less the mutual information of rows and classes.

    Args:
        diversity_weight (`float`, *optional*, defaults to 1.0):
            $\gamma$ (dimensionless), what the diversity of the predictions counts beside their certainty; SHOT's
            value. 0 is [`EntropyMinimization`].
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss (dimensionless); SHOT's value.

    Shape:
        - `batch.logits`: `(B, C)`, or `(B, T, C)` for token classification, where every token counts that
          `attention_mask` counts, in rows that have no label at all.
        - `batch.labels`: -100 marks unlabelled rows, as `mix_domains` does; no `domain` is needed.
        - returns: scalar float32, in nats per row; 0 where every row is certain and every class as frequent as the
          others, $\log C$ where no row prefers a class, $\gamma \log C$ where all rows are certain of the same.

    Degenerate batches:
        Without an unlabelled row the term is an exact zero that still depends on the logits. With a single one the two
        parts cancel for $\gamma = 1$, and the gradient is zero.

    Deviations from the paper:
        The constant $\gamma \log C$ is kept: the paper, and before it Hu et al. (IMSAT, ICML 2017,
        https://huggingface.co/papers/1702.08720), name the divergence from the uniform distribution as what the
        diversity term is up to that constant. So zero is the target, and the gradient is the same. $\bar p$ is that of
        the micro-batch.

    Raises:
        ValueError: if `diversity_weight` is negative; at attach time if the model is a regression or has several
            labels a row.

    Relations:
        Takes the target classes to be equally frequent: where they are not, lower `diversity_weight`. The batch should
        hold several unlabelled rows for each class: $n < C$ certain rows have a diversity of $\log n$ at most, and
        accumulating four batches of 4 is not one of 16. `information_maximization_entropy` and
        `information_maximization_diversity` in the logs show the two parts; a collapse to one class is a diversity
        near 0. [`BatchNuclearNorm`] wants the same of small batches; the source-free method SHOT is this term on a
        frozen head.

    Example:
        >>> import torch
        >>> logits = 1e4 * torch.eye(3)
        >>> batch = TransferBatch(features=torch.zeros(3, 4), logits=logits, labels=torch.full((3,), -100))
        >>> round(abs(InformationMaximization()(batch).item()), 4)
        0.0

    Paper: Liang et al., "Do We Really Need to Access the Source Data?...", ICML 2020, https://huggingface.co/papers/2002.08546
    """

    needs_classes = True

    def __init__(self, *, diversity_weight: float = 1.0, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        if diversity_weight < 0:
            raise ValueError(
                f"`diversity_weight={diversity_weight}` rewards predictions that are all of one class, which is the "
                "collapse the term is to prevent. Give zero or a positive number, such as the default 1.0."
            )
        self.diversity_weight = diversity_weight

    def build(self, spec: ModelSpec) -> Self:
        """Check that there are classes."""
        require_classes(self, spec)
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """Mean entropy and lack of diversity of the unlabelled rows."""
        rows = batch.rows
        self.diagnostics = prediction_entropies(rows.logits, rows.unlabelled)
        return information_maximization(rows.logits, rows.unlabelled, diversity_weight=self.diversity_weight)
