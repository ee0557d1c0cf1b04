"""The domains of an adaptation, loaded and prepared: what is trained on, what validates, what is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from transformers import TrainingArguments
from transformers.utils import logging

from hf_transfer.data.loading import TransferData
from hf_transfer.data.mixing import mix_domains
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.data.subsets import random_rows
from hf_transfer.fine_tuning import HELD_OUT
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.recipe_arguments import DataArguments, ModelArguments


logger = logging.get_logger(__name__)

__all__ = ["Domains", "load_domains"]


@dataclass(frozen=True)
class Domains:
    """
    Sources and targets as one model takes them.

    No split of a target but `target_labelled` and `tests` has labels: nothing that trains or chooses can read them.

    Args:
        data (`TransferData`): the first source, whose classes the head has.
        source (`Dataset`): the labelled training rows, with `domain` where there are several sources.
        mixed (`Dataset`): source and target rows with `domain`, the targets without labels.
        target_labelled (`Dataset`, *optional*): training rows of the targets with their labels, for the oracle alone.
        source_train (`Dataset`): training rows of the sources without augmentation.
        validation (`Dataset`): labelled rows of the sources that are not trained on.
        target (`Dataset`): training rows of the targets without labels and augmentation. Of each domain these three
            hold at most `validation_rows`.
        tests (`Mapping[str, Dataset]`): labelled splits for the final scores, `source` and `target`, numbered where
            there are several.
        num_domains (`int`): sources and targets.
        num_sources (`int`): sources alone.
        longest (`int`): rows of the longest domain.
        collate (`Callable`): the collator.
        raw_sources (`Sequence[Dataset]`): training rows of every source as they were read.
        raw_targets (`Sequence[Dataset]`): the same of the targets.
        ready (`Callable`): prepares raw rows for the model, without augmentation unless `augment` is given.
        augment (`Callable`, *optional*): of training images.
    """

    data: TransferData
    source: Dataset
    mixed: Dataset
    target_labelled: Dataset | None
    source_train: Dataset
    validation: Dataset
    target: Dataset
    tests: Mapping[str, Dataset]
    num_domains: int
    num_sources: int
    longest: int
    collate: Callable[[list[dict[str, Any]]], Any]
    raw_sources: Sequence[Dataset]
    raw_targets: Sequence[Dataset]
    ready: Callable[..., Dataset]
    augment: Callable[[Tensor], Tensor] | None

    @property
    def source_rows(self) -> Dataset:
        """All training rows of the sources with their labels, without augmentation, one source after the other."""
        return self.ready(_together(self.raw_sources))

    @property
    def target_rows(self) -> Dataset:
        """All training rows of the targets, without labels and augmentation."""
        return self.ready(_together([_unlabelled(part) for part in self.raw_targets]))

    def weighted(self, weights: np.ndarray) -> Domains:
        """
        The same with a column `sample_weight` of the source rows; rows of the target have 1, and no label to weigh.

        Args:
            weights (`np.ndarray`): `(N,)`, for the rows of `source_rows`.
        """
        ends = np.cumsum([len(part) for part in self.raw_sources])[:-1]
        own = [*np.split(weights, ends), *(np.ones(len(part)) for part in self.raw_targets)]
        parts = [
            self.ready(part.add_column(SAMPLE_WEIGHT, values.astype(np.float32)), augment=self.augment)
            for part, values in zip([*self.raw_sources, *self.raw_targets], own, strict=True)
        ]
        several = range(self.num_sources)
        return replace(self, source=_joined(parts[: self.num_sources]), mixed=mix_domains(*parts, labelled=several))

    @property
    def target_test(self) -> Dataset:
        """The labelled rows of the first target that has any, for an oracle."""
        found = [split for name, split in self.tests.items() if name.startswith("target")]
        if not found:
            raise ValueError(
                "The target has no labels to score: an oracle metric cannot choose a checkpoint. Choose by a "
                "validator, such as `--metric_for_best_model snd`."
            )
        return found[0]

    @property
    def scored(self) -> tuple[str, ...]:
        """Which of source and target have labelled rows to score."""
        return tuple(way for way in ("source", "target") if any(name.startswith(way) for name in self.tests))


def load_domains(
    sources: Sequence[str],
    targets: Sequence[str],
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    *,
    validation_rows: int,
    oracle: bool = False,
) -> Domains:
    """
    Load every domain and check that they fit each other and the model, before anything is trained.

    A source without a validation split gives 20% of its training rows. Rows are drawn by `args.seed`.

    Args:
        sources (`Sequence[str]`): Hub ids, folders, files or embedded sets with labels.
        targets (`Sequence[str]`): the same, with labels or without.
        model_args (`ModelArguments`): the model, for its processor.
        data_args (`DataArguments`): columns, rows and preparation, alike for all domains.
        args (`TrainingArguments`): seed and batch size.
        validation_rows (`int`): most rows of a domain that validators look at.
        oracle (`bool`, *optional*, defaults to `False`): whether the labels of the targets' training rows are needed.

    Raises:
        ValueError: if the domains do not fit each other, a target is smaller than a batch, or the oracle lacks labels.
    """
    seed = args.seed
    loaded = [_with_validation(data_args.load(name, seed), name, seed) for name in sources]
    others = [data_args.load(name, seed, samples_per_class=None, require_labels=False) for name in targets]
    for name, target in zip(targets, others, strict=True):
        _check_size(name, len(target.train), args)
        if oracle and "label" not in target.train.column_names:
            raise ValueError(
                f"`target_oracle` trains on the target's labels, but {name} has none: there is nothing to compare "
                "with. Leave it out of `--methods`."
            )
    first = loaded[0]
    _, processor = model_args.load(first)
    ready = partial(prepare, processor=processor, max_length=data_args.max_length)
    augment = data_args.augment(first, processor)
    train = partial(ready, augment=augment)
    source_train, target_train = [train(d.train) for d in loaded], [train(d.train) for d in others]
    several = range(len(loaded))
    mixed = mix_domains(*source_train, *target_train, labelled=several)  # refuses domains that do not fit
    return Domains(
        data=first,
        source=_joined(source_train),
        mixed=mixed,
        target_labelled=_joined(target_train) if oracle else None,
        source_train=ready(_sample([d.train for d in loaded], validation_rows, seed)),
        validation=ready(_sample([d.eval for d in loaded if d.eval is not None], validation_rows, seed)),
        target=ready(_sample([_unlabelled(d.train) for d in others], validation_rows, seed)),
        tests=_tests(loaded, others, ready),
        num_domains=len(loaded) + len(others),
        num_sources=len(loaded),
        longest=max(map(len, [*source_train, *target_train])),
        collate=collator_for(processor, tokens=first.task == "token-classification"),
        raw_sources=[d.train for d in loaded],
        raw_targets=[d.train for d in others],
        ready=ready,
        augment=augment,
    )


def _with_validation(data: TransferData, name: str, seed: int) -> TransferData:
    if data.eval is not None:
        return data
    data = data.with_validation(HELD_OUT, seed=seed)
    logger.info(
        f"{len(data.eval or ())} training rows of {name} ({HELD_OUT:.0%} of each class) are held out to validate, "
        f"{len(data.train)} are left."
    )
    return data


def _check_size(name: str, rows: int, args: TrainingArguments) -> None:
    batch = args.per_device_train_batch_size * args.world_size
    if rows < batch:
        raise ValueError(
            f"The target {name} has {rows} rows, fewer than the {batch} that a batch takes of each domain: the same "
            f"rows would stand in it twice. Pass `--per_device_train_batch_size {max(rows // args.world_size, 1)}` or "
            "less, or add rows."
        )


def _unlabelled(split: Dataset) -> Dataset:
    return split.remove_columns("label") if "label" in split.column_names else split


def _joined(parts: Sequence[Dataset]) -> Dataset:
    """One labelled training set; with several, their rows alternate as in mixed batches."""
    return parts[0] if len(parts) == 1 else mix_domains(*parts, labelled=range(len(parts)))


def _sample(parts: Sequence[Dataset], count: int, seed: int) -> Dataset:
    """Rows of all parts in one, at random and at most `count` of each."""
    taken = [part if len(part) <= count else part.select(random_rows(len(part), count, seed=seed)) for part in parts]
    return _together(taken)


def _together(parts: Sequence[Dataset]) -> Dataset:
    # readers differ in the width of strings; `mix_domains` has refused all else
    return concatenate_datasets([parts[0], *(part.cast(parts[0].features) for part in parts[1:])])


def _tests(sources: Sequence[TransferData], targets: Sequence[TransferData], ready: Any) -> dict[str, Dataset]:
    found = {}
    for way, domains in (("source", sources), ("target", targets)):
        for number, data in enumerate(domains):
            split = data.test or data.eval
            if split is not None and "label" in split.column_names:
                found[way if len(domains) == 1 else f"{way}_{number}"] = ready(split)
    return found
