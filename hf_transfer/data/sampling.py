"""Samplers whose order is a function of seed, epoch and position; the one that alternates domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler, Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.import_utils import is_datasets_available

from hf_transfer.data.columns import DOMAIN_COLUMN


class EpochSampler(Sampler[int]):
    """
    Row numbers in an order that is a function of seed, epoch and position alone: no global random state is read or
    changed, and skipping the first batches of an epoch resumes it exactly.

    Args:
        seed (`int`):
            Seed of the order; not negative.

    Raises:
        ValueError: if the seed is negative.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed} is negative; NumPy's seed sequences are not. Pass 0 or a positive number.")
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch; `Trainer` and accelerate's data loaders call this."""
        self.epoch = epoch


class AlternatingSampler(EpochSampler):
    """
    Row numbers that go round the domains: d0, d1, ..., dK-1, d0, ...; short domains start over until the longest ends.

    Any K consecutive rows hold all K domains, so every contiguous batch of at least K rows does. `accelerate` hands
    out contiguous batches (whole ones, or with `split_batches` contiguous pieces of them), also where it fills up the
    last batch from the start of the epoch. The strided `torch.utils.data.DistributedSampler` does not: with 2 ranks
    and 2 domains each rank would see one domain only.

    Args:
        domains (`datasets.Dataset`, torch dataset of `mix_domains`, or integers):
            Dataset with a column `domain`, or the domain number of every row. Inputs are not decoded.
        seed (`int`, *optional*, defaults to 0):
            Seed of the order; not negative.
        shuffle (`bool`, *optional*, defaults to `True`):
            Whether each pass over a domain is in a new random order, instead of the order of the rows.

    Raises:
        ValueError: if there are no rows, a domain number is negative or not an integer, or the seed is negative.

    Example:
        >>> sampler = AlternatingSampler([0, 0, 0, 1], shuffle=False)
        >>> list(sampler)
        [0, 3, 1, 3, 2, 3]
    """

    def __init__(self, domains: Any, *, seed: int = 0, shuffle: bool = True) -> None:
        numbers = domains_of(domains)
        numbers = np.asarray(domains) if numbers is None else numbers
        if numbers.ndim != 1 or numbers.size == 0 or numbers.dtype.kind not in "iu" or numbers.min() < 0:
            raise ValueError(
                f"AlternatingSampler got {_described(domains)} instead of one domain number (0, 1, ...) per row; "
                "without them it cannot alternate. Pass a dataset made by `mix_domains`, or a list of integers."
            )
        super().__init__(seed)
        self.shuffle = shuffle
        self._rows = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]

    @property
    def num_domains(self) -> int:
        """Number K of domains that occur."""
        return len(self._rows)

    def __len__(self) -> int:
        return self.num_domains * max(len(rows) for rows in self._rows)

    def __iter__(self) -> Iterator[int]:
        rounds = max(len(rows) for rows in self._rows)
        columns = [self._passes(rows, position, rounds) for position, rows in enumerate(self._rows)]
        return iter(np.stack(columns, axis=1).reshape(-1).tolist())

    def _passes(self, rows: np.ndarray, position: int, length: int) -> np.ndarray:
        """`length` rows of one domain: whole passes, the last one cut."""
        passes = -(-length // len(rows))
        if not self.shuffle:
            return np.tile(rows, passes)[:length]
        orders = (np.random.default_rng([self.seed, self.epoch, position, number]) for number in range(passes))
        return np.concatenate([order.permutation(rows) for order in orders])[:length]


def domains_of(dataset: Any) -> np.ndarray | None:
    """
    The domain number of every row of a mixed dataset, `(rows,)` int64, without decoding inputs; `None` if it has none.

    Example:
        >>> from datasets import Dataset
        >>> domains_of(Dataset.from_dict({"text": ["a", "b"], "domain": [0, 1]}))
        array([0, 1])
    """
    if isinstance(dataset, Subset):
        numbers = domains_of(dataset.dataset)
        return None if numbers is None else numbers[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, torch.utils.data.Dataset):
        from hf_transfer.data.mixing_torch import MixedDataset

        return dataset.domains if isinstance(dataset, MixedDataset) else None
    if is_datasets_available():
        import datasets

        if isinstance(dataset, datasets.Dataset) and DOMAIN_COLUMN in dataset.column_names:
            # only this column: a transform or an image column must not run for it
            return dataset.select_columns([DOMAIN_COLUMN]).with_format("numpy")[:][DOMAIN_COLUMN]
    return None


def domain_sampler(dataset: Any, seed: int) -> AlternatingSampler | None:
    """
    The sampler `TransferTrainer` trains with: alternating if the dataset holds several domains, else `None`.

    Args:
        dataset (`datasets.Dataset` or torch dataset):
            Training data *before* the Trainer removes unused columns, or with `domain` kept.
        seed (`int`):
            Seed of the order: `args.data_seed` or `args.seed`.

    Example:
        >>> domain_sampler([1, 2, 3], seed=0) is None
        True
    """
    numbers = domains_of(dataset)
    if numbers is None or np.unique(numbers).size < 2:
        return None
    return AlternatingSampler(numbers, seed=seed)


def check_whole_batches(args: TrainingArguments, what: str) -> None:
    """
    Refuse that a batch is divided among ranks, where its rows belong together.

    Args:
        args (`TrainingArguments`): of the run.
        what (`str`): what composes the batches, for the message.

    Raises:
        ValueError: with `split_batches` on several ranks.
    """
    config: Any = args.accelerator_config
    if args.world_size > 1 and getattr(config, "split_batches", False):
        raise ValueError(
            f"`accelerator_config` has split_batches=True on {args.world_size} ranks, and {what} composes whole "
            "batches: each rank would get a piece with other proportions, or half of an episode. Leave it False."
        )


class SetSamplerEpoch(TrainerCallback):
    """
    Tell the sampler of the training data which epoch begins, however deep accelerate has wrapped it.

    On several ranks, `skip_first_batches` makes a chain of four batch samplers, of which `DataLoaderShard.set_epoch`
    (accelerate 1.15) and `Trainer._run_epoch` (transformers 5.23) reach three: a run resumed in the middle of its
    second epoch would go on in the order of the first. May go when either walks the whole chain.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called before the batches are skipped; the sampler is the same object before and after."""
        sampler = kwargs.get("train_dataloader")
        while sampler is not None and not isinstance(sampler, EpochSampler):
            inner = getattr(sampler, "batch_sampler", None)
            # not by its truth value: the batch sampler of a stream has a length that raises
            sampler = getattr(sampler, "sampler", None) if inner is None else inner
        if sampler is not None:
            sampler.set_epoch(int(state.epoch or 0))


def _described(domains: Any) -> str:
    if isinstance(domains, Sequence) and not isinstance(domains, str):
        return f"{len(domains)} values such as {list(domains[:3])}"
    return f"a {type(domains).__qualname__}"
