"""Episodic training with prototypes (ProtoNet) in place of the task loss."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.utils import logging
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.functional.prototypes import (
    Distance,
    episode_loss,
    prototype_logits,
    split_episodes,
    whole_episodes,
)
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.objective import Objective
from hf_transfer.objectives.few_shot.class_column import class_column, refuse_other_problems
from hf_transfer.schedules import Schedule


logger = logging.get_logger(__name__)

__all__ = ["PrototypicalEpisodes"]


class PrototypicalEpisodes(Objective):
    r"""
    Episodic training with prototypes (ProtoNet): learn features in which a class is near the mean of its few examples.

    A batch holds episodes. Each has a support set of $k$ rows for each of $n$ classes, whose mean features are the
    prototypes $p_c$, and queries $(x, y)$ of the same classes:

    $$ L = -\frac{1}{|Q|} \sum_{(x, y) \in Q} \log \operatorname{softmax}_c(-d(f(x), p_c) / \tau)_y $$

    with the squared Euclidean distance $d$, or $d = -\cos$. Support and queries go through the model in one forward;
    the gradient reaches both. The term stands in place of the task loss: the head of the model gets no gradient and
    may be of any size. After training classify new classes by the means of their examples, or fit a head (`fit_head`).

    Args:
        n_way (`int`, *optional*, defaults to 5):
            Classes of an episode. More than there are at test time often helps (the paper trains 20-way for 5-way).
        k_shot (`int`, *optional*, defaults to 5):
            Rows of each class in the support set; best as many as at test time.
        queries (`int`, *optional*, defaults to 5):
            Rows of each class to classify.
        episodes (`int`, *optional*):
            Episodes of an epoch; by default as many as have the number of the labelled rows.
        distance (`str`, *optional*, defaults to `"squared_euclidean"`):
            `"squared_euclidean"` as in the paper, or `"cosine"`, which ignores the length of the features.
        temperature (`float`, *optional*, defaults to 1.0):
            $\tau$, in squared units of the features; dimensionless for cosines, for which 0.1 is usual. Pretrained
            features far apart make the softmax certain at once: raise it if the term begins near zero.
        keep_task_loss (`bool`, *optional*, defaults to `False`):
            Whether the task loss of the model's own head counts beside the episodes, over all classes of the data.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss.

    Shape:
        - `batch.features`: `(B, D)` float32, `B` a multiple of `n_way * (k_shot + queries)`: of each episode first
          the support, then the queries, both class by class in one order.
        - `batch.labels`: `(B,)` int64, numbers over all classes of the data; only compared.
        - returns: scalar float32, in nats per query; $\log n$ at chance.

    Degenerate batches:
        Rows behind the last whole episode do not count, nor do episodes with a row without a label or that are not
        ordered by class. If none counts the term is an exact zero that still depends on the features.

    Deviations from the paper:
        Several episodes a batch, averaged. Starts from a pretrained model, hence the temperature.

    Raises:
        ValueError: for fewer than 2 classes, 1 row, 1 query or 1 episode, an unknown distance or a temperature not
            above 0; when attached to a regression, a token classifier or a model with several labels a row; before
            training if the batch size is no multiple of the rows of an episode, or the classes of the data are too
            few or too small; at the first batch if its rows are not ordered as an episode.

    Relations:
        `TransferTrainer` draws the episodes with `EpisodeSampler`; give that sampler to a loop of your own.
        [`PairSimilarity`] learns from pairs and needs no episodes; [`SupervisedContrastive`] stands beside the task
        loss. With frozen features nothing is to be learned: `evaluate_few_shot` compares classifiers on them.

    Example:
        >>> import torch
        >>> objective = PrototypicalEpisodes(n_way=2, k_shot=1, queries=1)
        >>> labels = torch.tensor([7, 3, 7, 3])  # the support, then the queries
        >>> batch = TransferBatch(features=torch.eye(2).repeat(2, 1), labels=labels)
        >>> round(objective(batch).item(), 4)  # log(1 + exp(-2))
        0.1269

    Paper: Snell et al., "Prototypical Networks for Few-shot Learning", NeurIPS 2017, https://huggingface.co/papers/1703.05175
    """

    needs_classes = True

    def __init__(
        self,
        *,
        n_way: int = 5,
        k_shot: int = 5,
        queries: int = 5,
        episodes: int | None = None,
        distance: Distance = "squared_euclidean",
        temperature: float = 1.0,
        keep_task_loss: bool = False,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(weight=weight)
        if n_way < 2 or k_shot < 1 or queries < 1:
            raise ValueError(
                f"`n_way={n_way}`, `k_shot={k_shot}`, `queries={queries}`: an episode needs classes to tell apart, "
                "rows to make prototypes of and rows to classify. Give n_way of 2 or more, the others of 1 or more."
            )
        if episodes is not None and episodes < 1:
            raise ValueError(
                f"`episodes={episodes}`: an epoch would have none. Give 1 or more, or None for as many as have the "
                "number of the labelled rows."
            )
        if distance not in get_args(Distance):
            raise ValueError(
                f'`distance="{distance}"` is unknown: it says how near a query is to a prototype. Choose '
                f"{' or '.join(get_args(Distance))}."
            )
        if temperature <= 0:
            raise ValueError(
                f"`temperature={temperature}`: distances are divided by it, and a negative one would drive queries "
                "from their class. Give a positive number, such as 1.0, or 0.1 for cosines."
            )
        self.n_way, self.k_shot, self.queries = n_way, k_shot, queries
        self.episodes = episodes
        self.distance: Distance = distance
        self.temperature = temperature
        self.keep_task_loss = keep_task_loss
        self.replaces_task_loss = not keep_task_loss
        self._checked = False

    @property
    def episode_rows(self) -> int:
        """Rows of an episode: `n_way * (k_shot + queries)`."""
        return self.n_way * (self.k_shot + self.queries)

    def build(self, spec: ModelSpec) -> Self:
        """Check that the model puts each row into one class."""
        refuse_other_problems(type(self).__name__, spec.model, spec.num_labels)
        self._checked = False
        return self

    def sampler(self, dataset: Any, *, batch_size: int, ranks: int, seed: int) -> Sampler[int]:
        """Episodes of the training set, whole ones in every batch of every rank."""
        from hf_transfer.few_shot.sampler import EpisodeSampler  # refuses what does not fit

        return EpisodeSampler(
            class_column(type(self).__name__, dataset),
            n_way=self.n_way,
            k_shot=self.k_shot,
            queries=self.queries,
            episodes=self.episodes,
            batch_size=batch_size,
            ranks=ranks,
            seed=seed,
        )

    def forward(self, batch: TransferBatch) -> Tensor:
        """The cross-entropy of the queries; their accuracy goes to the diagnostics."""
        assert batch.labels is not None  # `attach` gives it
        shape = {"n_way": self.n_way, "k_shot": self.k_shot, "queries": self.queries}
        classes = split_episodes(batch.labels, **shape)
        counted = whole_episodes(*classes)
        if not self._checked and not torch.compiler.is_compiling():
            self._check(batch.labels, counted)
        support, query = split_episodes(batch.features, **shape)
        logits = prototype_logits(
            support.mean(2), query.flatten(1, 2), distance=self.distance, temperature=self.temperature
        )
        loss, accuracy = episode_loss(logits, counted)
        self.diagnostics = {"accuracy": accuracy.detach()}
        return loss

    def _check(self, labels: Tensor, counted: Tensor) -> None:
        """Once: reading values back waits for the device."""
        self._checked = True
        if not len(counted):
            logger.warning(
                f"A batch of {len(labels)} rows holds no episode of n_way * (k_shot + queries) = {self.episode_rows} "
                "rows: nothing is learned from it. Make batches with `EpisodeSampler`."
            )
            return
        labels = labels[: len(counted) * self.episode_rows].reshape(len(counted), -1)
        torn = ~counted & (labels != UNLABELLED).any(-1)
        if bool(torn.any()):
            first = labels[torn][0].tolist()
            raise ValueError(
                f"The first batch has labels {first[:12]}{'...' if len(first) > 12 else ''}, no episode of "
                f"{self.n_way} classes with {self.k_shot} rows of support and then {self.queries} queries each, class "
                "by class: rows would count for the prototype of another class. Train with `TransferTrainer`, or draw "
                "the rows with `EpisodeSampler` of the same numbers."
            )
