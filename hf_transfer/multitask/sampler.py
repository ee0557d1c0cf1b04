"""`TaskSampler`: the rows of several tasks in batches of one composition on every rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from torch.utils.data import Subset
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.data.sampling import EpochSampler
from hf_transfer.multitask.task import TASK_COLUMN, Task


Mix = Literal["proportional", "sqrt", "temperature", "round_robin"]
MIXES: tuple[Mix, ...] = get_args(Mix)

__all__ = ["MIXES", "Mix", "TaskSampler", "interleaved", "shares", "task_sampler", "tasks_of"]


class TaskSampler(EpochSampler):
    r"""
    Row numbers of a data set of several tasks, such that every batch holds each task in the share it was given.

    With $n_t$ rows of task $t$, the shares $p_t$ are proportional to $n_t$ (`"proportional"`), to $\sqrt{n_t}$
    (`"sqrt"`), to $n_t^{1/T}$ (`"temperature"`), or equal (`"round_robin"`). Places of a batch go round the tasks in
    these shares: the first batches, however many, hold each task to within about a row of its share, and one whose
    share is less than a row of a batch comes at even intervals. At each step all ranks get batches of the same
    composition and different rows. An epoch is as long as the data set, rounded up to whole steps of all ranks; on one
    rank a proportional one holds every row once.

    Every row of a task is drawn once before one is drawn again, in a new order each time, also from one epoch to the
    next: where a task gets less than its rows, an epoch takes up where the last one ended.

    Args:
        tasks (`datasets.Dataset`, a `Subset` of one, or integers):
            Data set with a column `task`, or the number of the task of every row. Inputs are not decoded.
        mix (`str`, *optional*, defaults to `"proportional"`):
            How the shares follow from the numbers of rows.
        batch_size (`int`):
            Rows of a micro-batch of one rank.
        ranks (`int`, *optional*, defaults to 1):
            Number of processes.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order; not negative.
        temperature (`float`, *optional*, defaults to 5.0):
            $T$ of `"temperature"` (dimensionless): 1 is proportional, 2 the square root, large values equal shares.

    Raises:
        ValueError: if there is no row, a number is negative or no integer, `mix` is unknown, the temperature is less
            than 1, or the batch size or the number of ranks is not positive.

    Relations:
        [`AlternatingSampler`] goes round domains and ends when the longest has been seen.

    Example:
        >>> sampler = TaskSampler([0, 0, 0, 0, 0, 0, 1, 1], batch_size=4)
        >>> [[row // 6 for row in list(sampler)[start : start + 4]] for start in (0, 4)]
        [[0, 0, 1, 0], [0, 0, 1, 0]]
    """

    def __init__(
        self,
        tasks: Any,
        *,
        mix: Mix = "proportional",
        batch_size: int,
        ranks: int = 1,
        seed: int = 0,
        temperature: float = 5.0,
    ) -> None:
        numbers = tasks_of(tasks)
        numbers = np.asarray(tasks) if numbers is None else numbers
        if numbers.ndim != 1 or numbers.size == 0 or numbers.dtype.kind not in "iu" or numbers.min() < 0:
            raise ValueError(
                f"TaskSampler got a {type(tasks).__qualname__} without one task number (0, 1, ...) per row; batches "
                "could not be composed. Pass a data set made by `mix_tasks` of several data sets, or a list of "
                "integers."
            )
        if batch_size < 1 or ranks < 1:
            raise ValueError(
                f"batch_size={batch_size} and ranks={ranks}: a batch of no rows trains nothing. Pass positive numbers."
            )
        super().__init__(seed)
        self.mix, self.batch_size, self.ranks, self.temperature = mix, batch_size, ranks, temperature
        self._rows = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
        self.shares = shares([len(rows) for rows in self._rows], mix, temperature)
        """Share of each task that has rows, in the order of their numbers; adds up to 1."""
        self._steps = -(-numbers.size // (batch_size * ranks))

    def __len__(self) -> int:
        return self._steps * self.batch_size * self.ranks

    def __iter__(self) -> Iterator[int]:
        places = interleaved(self.shares, self._steps * self.batch_size).reshape(-1, 1, self.batch_size)
        places = np.repeat(places, self.ranks, axis=1).reshape(-1)
        order = np.empty(len(places), dtype=np.int64)
        for task in range(len(self._rows)):
            of_task = places == task
            order[of_task] = self._drawn(task, int(of_task.sum()))
        return iter(order.tolist())

    def _drawn(self, task: int, count: int) -> np.ndarray:
        """The rows of a task for this epoch: a piece of an endless row of permutations."""
        rows = self._rows[task]
        start = self.epoch * count
        passes = range(start // len(rows), -(-(start + count) // len(rows)))
        if not passes:
            return rows[:0]
        orders = [np.random.default_rng([self.seed, task, number]).permutation(rows) for number in passes]
        return np.concatenate(orders)[start - passes[0] * len(rows) :][:count]


def shares(sizes: Sequence[int], mix: Mix, temperature: float = 5.0) -> np.ndarray:
    """
    The share of each task in a batch, given its number of rows; they add up to 1.

    Raises:
        ValueError: if `mix` is unknown or the temperature is less than 1.

    Example:
        >>> shares([900, 100], "proportional").tolist(), shares([900, 100], "sqrt").tolist()
        ([0.9, 0.1], [0.75, 0.25])
    """
    if mix not in MIXES:
        raise ValueError(
            f"`{mix}` is no way to mix tasks: the share of each in a batch would be unknown. Give one of "
            f"{', '.join(MIXES)}."
        )
    if not temperature >= 1:
        raise ValueError(
            f"temperature={temperature} is less than 1: large tasks would get more than their share, down to nothing "
            "for the small ones. Give 1 (proportional) or more; 5 is common."
        )
    exponent = {"proportional": 1.0, "sqrt": 0.5, "temperature": 1 / temperature, "round_robin": 0.0}[mix]
    powers = np.asarray(sizes, dtype=np.float64) ** exponent
    return powers / powers.sum()


def interleaved(shares: np.ndarray, places: int) -> np.ndarray:
    """
    A task for each of so many places, `(places,)`, such that each beginning holds the tasks in their shares: the
    j-th row of task t is due at place (j + 1/2) / p_t (the divisor method of Webster and Sainte-Laguë).

    Example:
        >>> interleaved(np.array([0.5, 0.25, 0.25]), 8).tolist()
        [0, 1, 2, 0, 0, 1, 2, 0]
    """
    # Of no task more rows are due among the first places than in that many and one for each task.
    counts = np.ceil(shares * (places + len(shares))).astype(np.int64) + 1
    due = [(np.arange(count) + 0.5) / share for count, share in zip(counts, shares, strict=True)]
    tasks = np.repeat(np.arange(len(shares)), counts)
    return tasks[np.argsort(np.concatenate(due), kind="stable")[:places]]


def tasks_of(dataset: Any) -> np.ndarray | None:
    """
    The number of the task of every row, `(rows,)` int64, without decoding inputs; `None` where rows are not of a task.

    Example:
        >>> from datasets import Dataset
        >>> tasks_of(Dataset.from_dict({"text": ["a", "b"], "task": [0, 1]}))
        array([0, 1])
    """
    if isinstance(dataset, Subset):
        numbers = tasks_of(dataset.dataset)
        return None if numbers is None else numbers[np.asarray(dataset.indices, dtype=np.int64)]
    if is_datasets_available():
        import datasets

        if isinstance(dataset, datasets.Dataset) and TASK_COLUMN in dataset.column_names:
            from hf_transfer.multitask.reading import read_column

            return np.asarray(read_column(dataset, TASK_COLUMN).to_numpy())
    return None


def task_sampler(
    dataset: Any,
    tasks: Sequence[Task],
    sampling: Mix = "proportional",
    *,
    batch_size: int,
    ranks: int,
    seed: int,
    temperature: float = 5.0,
) -> TaskSampler | None:
    """
    The sampler that [`MultiTask`] trains with: a [`TaskSampler`] where rows are of one task each, else `None`.

    Args:
        dataset (`Dataset`): the training set as given.
        tasks (`Sequence[Task]`): those of the model, by the numbers in the column `task`.
        sampling, batch_size, ranks, seed, temperature: as for [`TaskSampler`].

    Raises:
        ValueError: if a row is of an unknown task or a task has no rows; and as [`TaskSampler`] does.

    Example:
        >>> task_sampler([{"text": "a"}], [Task("topic", num_labels=2)], batch_size=1, ranks=1, seed=0) is None
        True
    """
    numbers = tasks_of(dataset)
    if numbers is None:
        return None
    check_numbers(numbers, tasks)
    return TaskSampler(numbers, mix=sampling, batch_size=batch_size, ranks=ranks, seed=seed, temperature=temperature)


def check_numbers(numbers: np.ndarray, tasks: Sequence[Task]) -> None:
    """
    Check the column `task` against the tasks.

    Raises:
        ValueError: if it holds another number than 0 to K - 1, or not every one of these.
    """
    present = np.unique(numbers)
    names = ", ".join(f"{number} = `{task.name}`" for number, task in enumerate(tasks))
    unknown = present[(present < 0) | (present >= len(tasks))] if numbers.dtype.kind in "iu" else present[:1]
    if unknown.size:
        raise ValueError(
            f"The column `{TASK_COLUMN}` holds {unknown[0]}, which is none of {names}: no head would learn from these "
            "rows. Build the data set by `mix_tasks(datasets, tasks)` with the tasks of the model."
        )
    missing = [task.name for number, task in enumerate(tasks) if number not in present]
    if missing:
        raise ValueError(
            f"Task `{missing[0]}` has no row in the training set: its head would stay as it was drawn. Add rows of "
            "it, or leave the task out."
        )
