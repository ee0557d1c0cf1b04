"""Supervised contrastive fine-tuning (SupCon)."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.contrastive import supervised_contrastive
from hf_transfer.objective import Objective
from hf_transfer.objectives.regularization.labelled_features import check_one_label_a_row, labelled_features
from hf_transfer.schedules import Schedule


class SupervisedContrastive(Objective):
    r"""
    Supervised contrastive fine-tuning (SupCon, SCL): draw rows of a class together and away from the others.

    With features $z$ of length 1, the other rows $P(i)$ of the class of row $i$ and all other labelled rows $A(i)$ of
    the micro-batch

    $$ L = -\frac{1}{N} \sum_{i=1}^{N} \frac{1}{|P(i)|} \sum_{p \in P(i)} \log
    \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)} $$

    the form of Khosla et al. with the sum over the positives outside of the logarithm. Gunel et al., ICLR 2021, use it
    to fine-tune language models (https://huggingface.co/papers/2011.01403).

    Args:
        temperature (`float`, *optional*, defaults to 0.3):
            $\tau$ (dimensionless), the best for fine-tuning in Gunel et al.; for training from scratch Khosla et al.
            take 0.1.
        projection (`int`, *optional*):
            Width of a projection of the features, by one hidden layer of their own width, that is used for this term
            alone (Khosla et al. take 128). By default the features themselves, as for fine-tuning.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss. The mixture $(1 - \lambda) L_{CE} + \lambda L$ of Gunel et al.
            has the same minima at the weight $\lambda / (1 - \lambda)$.

    Shape:
        - `batch.features`: `(B, D)` float32; for token classification every labelled token is a row.
        - `batch.labels`: `(B,)` or `(B, T)` int64.
        - returns: scalar float32, in nats per labelled row.

    Degenerate batches:
        A row without another of its class contributes zero. Unlabelled rows are left out: as negatives, rows of the
        same class would be driven apart. With fewer than two labelled rows the term is an exact zero that still
        depends on the features and the projection.

    Deviations from the paper:
        One view of each row in place of two augmented ones (as Gunel et al.; [`RDrop`] adds a second). Averaged over
        rows, not added up.

    Raises:
        ValueError: if `temperature` is not positive or `projection` below 1; at attach time or at the first batch
            for a regression or several labels a row.

    Relations:
        Compares within the micro-batch of one rank: batches must be large enough to hold classes twice, and
        accumulating does not enlarge them. [`BiTuning`] keeps earlier rows in queues: take it for many classes or
        small batches. Token classification compares all pairs of tokens: memory grows with their squared number.

    Example:
        >>> import torch
        >>> objective = SupervisedContrastive().build(ModelSpec(feature_dim=2, num_labels=2))
        >>> batch = TransferBatch(features=torch.eye(2).repeat(2, 1), labels=torch.tensor([0, 1, 0, 1]))
        >>> round(objective(batch).item(), 4)  # log(1 + 2 exp(-1 / 0.3))
        0.0689

    Paper: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, https://huggingface.co/papers/2004.11362
    """

    needs_classes = True

    def __init__(self, *, temperature: float = 0.3, projection: int | None = None, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        if temperature <= 0:
            raise ValueError(
                f"`temperature={temperature}`: similarities are divided by it, and a negative one would drive rows of "
                "a class apart. Give a positive number, such as the default 0.3."
            )
        if projection is not None and projection < 1:
            raise ValueError(
                f"`projection={projection}` leaves no dimension to compare rows in. Give a positive width, such as "
                "128, or None to compare the features themselves."
            )
        self.temperature = temperature
        self.projection = projection
        self.projector: nn.Module = nn.Identity()

    def build(self, spec: ModelSpec) -> Self:
        """Make the projection, if there is one."""
        check_one_label_a_row(type(self).__name__, spec)
        if self.projection is not None:
            width = spec.feature_dim
            self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.projection))
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The contrastive loss over the labelled rows."""
        features, labels = labelled_features(type(self).__name__, batch)
        return supervised_contrastive(self.projector(features), labels, self.temperature)
