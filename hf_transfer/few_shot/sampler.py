"""The order of training rows that makes every micro-batch a number of whole episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hf_transfer.data.sampling import EpochSampler
from hf_transfer.few_shot.episodes import Episodes


_AT_ONCE = 256  # episodes drawn together

__all__ = ["EpisodeSampler"]


class EpisodeSampler(EpochSampler):
    """
    Row numbers of one episode after the other: its `n_way * k_shot` support rows, class by class, then its
    `n_way * queries` query rows, class by class.

    Where the batch size is a multiple of an episode's rows, every batch of every rank holds whole episodes: batches
    are handed out in turn, and an epoch is a whole number of batches for each rank. Epoch `e` has the episodes
    `e * episodes` to `(e + 1) * episodes - 1` of [`Episodes`], so none comes twice in a run.

    Args:
        labels (`datasets.Dataset`, array, tensor or sequence):
            The class of every row, as for [`Episodes`].
        n_way (`int`, *optional*, defaults to 5):
            Classes of an episode.
        k_shot (`int`, *optional*, defaults to 5):
            Support rows of each class.
        queries (`int`, *optional*, defaults to 5):
            Query rows of each class.
        episodes (`int`, *optional*):
            Episodes of an epoch, rounded up to whole batches for each rank. By default as many as have the number of
            the labelled rows.
        batch_size (`int`, *optional*):
            Rows of a micro-batch of one rank; by default one episode.
        ranks (`int`, *optional*, defaults to 1):
            Number of processes.
        seed (`int`, *optional*, defaults to 0):
            Of all episodes; not negative.

    Raises:
        ValueError: if `batch_size` is no multiple of an episode's rows, a number is not positive, and as [`Episodes`]
            does.

    Example:
        >>> sampler = EpisodeSampler([0, 0, 1, 1, 2, 2], n_way=2, k_shot=1, queries=1, batch_size=4, episodes=3)
        >>> len(sampler), sampler.num_episodes
        (12, 3)
    """

    def __init__(
        self,
        labels: Any,
        *,
        n_way: int = 5,
        k_shot: int = 5,
        queries: int = 5,
        episodes: int | None = None,
        batch_size: int | None = None,
        ranks: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.draws = Episodes(labels, n_way=n_way, k_shot=k_shot, queries=queries, seed=seed)
        size = self.draws.size
        batch_size = size if batch_size is None else batch_size
        if batch_size < 1 or batch_size % size:
            raise ValueError(
                f"A batch of {batch_size} rows does not hold whole episodes of {size} rows (`n_way={n_way}` times "
                f"`k_shot={k_shot}` plus `queries={queries}`): support and query would fall into different forwards. "
                f"Set `per_device_train_batch_size={max(1, round(batch_size / size)) * size}`."
            )
        episodes = max(1, self.draws.labelled // size) if episodes is None else episodes
        if episodes < 1 or ranks < 1:
            raise ValueError(
                f"`episodes={episodes}` with `ranks={ranks}`: an epoch would have no batch. Pass positive numbers."
            )
        whole = batch_size // size * ranks
        self.num_episodes = -(-episodes // whole) * whole

    def __len__(self) -> int:
        return self.num_episodes * self.draws.size

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.num_episodes
        for start in range(first, first + self.num_episodes, _AT_ONCE):
            drawn = self.draws.draw(range(start, min(start + _AT_ONCE, first + self.num_episodes)))
            yield from np.concatenate([drawn.support, drawn.query], axis=1).reshape(-1).tolist()
