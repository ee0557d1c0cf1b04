"""Contrastive fine-tuning on pairs (the first phase of SetFit) in place of the task loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.pairs import pair_similarity
from hf_transfer.objective import Objective
from hf_transfer.objectives.few_shot.class_column import class_column, refuse_other_problems
from hf_transfer.schedules import Schedule


__all__ = ["PairSimilarity"]


class PairSimilarity(Objective):
    r"""
    Contrastive fine-tuning on pairs of rows (SetFit, first phase): rows of one class become alike, others not.

    With the features $f$ of the pairs $(a_i, b_i)$, which are the rows $2i$ and $2i + 1$ of the batch,

    $$ L = \frac{1}{n} \sum_{i=1}^{n} \left( \cos(f(a_i), f(b_i)) - [y_{a_i} = y_{b_i}] \right)^2 $$

    A few rows make many pairs. The term stands in place of the task loss; `fit_head` fits the head afterwards, and
    [`contrastive_fine_tune`] does both.

    Args:
        pairs_per_row (`int`, *optional*, defaults to 10):
            Pairs in an epoch for each row of the data, half of them of one class. The paper draws 20 of either kind
            for each class, which is 5 a row for 8 rows of each class.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss.

    Shape:
        - `batch.features`: `(B, D)` float32, `B` even.
        - `batch.labels`: `(B,)` int64.
        - returns: scalar float32, a mean squared difference of cosines (dimensionless), in [0, 4].

    Degenerate batches:
        Pairs with an unlabelled row do not count, nor does a last row without a partner; without any pair the term is
        an exact zero that still depends on the features. A vector of zeros has the cosine 0 and gets no gradient.

    Deviations from the paper:
        The features are those that the head of the model is given, so that the result is an ordinary classifier; the
        paper takes the mean over the tokens. Pairs are drawn without repeats until all were seen.

    Raises:
        ValueError: if `pairs_per_row` is below 1; when attached to a regression, a token classifier or a model with
            several labels a row; before training if the batch size is odd or the data have no two rows of one class,
            or only one class.

    Relations:
        [`SupervisedContrastive`] compares all rows of a batch and stands beside the task loss; its batches must be
        large. [`PrototypicalEpisodes`] trains for classes that are not known yet.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
        >>> batch = TransferBatch(features=features, labels=torch.tensor([0, 0, 1, 2]))
        >>> round(PairSimilarity()(batch).item(), 4)  # 0 and 0.6 squared
        0.18

    Paper: Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022, https://huggingface.co/papers/2209.11055
    """

    needs_classes = True
    replaces_task_loss = True

    def __init__(self, *, pairs_per_row: int = 10, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        if pairs_per_row < 1:
            raise ValueError(
                f"`pairs_per_row={pairs_per_row}`: an epoch would hold no pair, and nothing would be learned. Give 1 "
                "or more, such as the default 10."
            )
        self.pairs_per_row = pairs_per_row

    def build(self, spec: ModelSpec) -> Self:
        """Check that the model puts each row into one class."""
        refuse_other_problems(type(self).__name__, spec.model, spec.num_labels)
        return self

    def sampler(self, dataset: Any, *, batch_size: int, ranks: int, seed: int) -> Sampler[int]:
        """Pairs of the training set, of one class and of two in turn."""
        if batch_size % 2:
            raise ValueError(
                f"Batches of {batch_size} rows tear pairs apart: a pair is two rows of one batch. Set "
                f"`per_device_train_batch_size={batch_size + 1}`."
            )
        from hf_transfer.few_shot.pairs import PairSampler

        return PairSampler(class_column(type(self).__name__, dataset), pairs_per_row=self.pairs_per_row, seed=seed)

    def forward(self, batch: TransferBatch) -> Tensor:
        """The squared difference of the cosines; their means go to the diagnostics."""
        assert batch.labels is not None  # `attach` gives it
        loss, same, different = pair_similarity(batch.features, batch.labels)
        self.diagnostics = {"cosine_same": same.detach(), "cosine_different": different.detach()}
        return loss
