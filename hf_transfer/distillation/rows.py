"""The rows of a distillation as one student takes them, with what the teacher says of them where that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_transfer.data.loading import TransferData
from hf_transfer.data.mixing import mix_domains
from hf_transfer.data.preparation import collator_for, prepare
from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments
from hf_transfer.fine_tuning import HELD_OUT
from hf_transfer.recipe_arguments import DataArguments
from hf_transfer.teacher.collator import TeacherCollator
from hf_transfer.teacher.tokens import same_tokens, teacher_inputs


logger = logging.get_logger(__name__)

__all__ = ["Rows", "load_data", "prepare_rows"]


@dataclass(frozen=True)
class Rows:
    """
    What runs are trained on, validated and scored by.

    Args:
        labelled (`Dataset`): the training rows with their labels.
        taught (`Dataset`): the same with what the teacher said, where that is kept, and with unlabelled rows beside
            them, in a `domain` of their own, where there are any.
        splits (`Mapping[str, Dataset]`): `eval`, and `test` where there is one.
        collate (`Callable`): the collator.
        domains (`int`): how many there are in `taught`.
        longest (`int`): rows of the largest domain.
    """

    labelled: Dataset
    taught: Dataset
    splits: Mapping[str, Dataset]
    collate: Callable[[list[dict[str, Any]]], Any]
    domains: int
    longest: int

    def steps(self, args: DistillationLoopArguments) -> int:
        """
        The optimizer steps of every run: `--max_steps`, or as many as `--num_train_epochs` passes over the largest
        domain take, `per_device_train_batch_size` rows of it a batch.
        """
        if args.max_steps > 0:
            return args.max_steps
        rows = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        return math.ceil(args.num_train_epochs * self.longest / rows)


def load_data(
    recipe: DistillationArguments, data_args: DataArguments, seed: int
) -> tuple[TransferData, list[TransferData]]:
    """
    The data, with rows held out to validate, and the unlabelled data. Rows are drawn by `seed`: teacher and students
    see the same.

    Raises:
        ValueError: if the data do not fit each other.
    """
    data = data_args.load(recipe.dataset_name, seed)
    if data.eval is None:
        data = data.with_validation(HELD_OUT, seed=seed)
        logger.info(
            f"{len(data.eval or ())} training rows ({HELD_OUT:.0%} of each class) are held out to validate, "
            f"{len(data.train)} are left."
        )
    names = recipe.unlabelled_dataset
    others = [data_args.load(name, seed, samples_per_class=None, require_labels=False) for name in names]
    for name, other in zip(names, others, strict=True):
        if other.input_columns != data.input_columns:
            raise ValueError(
                f"`--unlabelled_dataset {name}` has {', '.join(other.input_columns)} and the data "
                f"{', '.join(data.input_columns)}: one model cannot read both. Name data of the same kind."
            )
    return data, others


def prepare_rows(
    data: TransferData,
    unlabelled: Sequence[TransferData],
    processor: Any,
    data_args: DataArguments,
    *,
    teacher_processor: Any = None,
    ask: Callable[[Dataset], Dataset] | None = None,
) -> Rows:
    """
    Rows as a student takes them.

    Args:
        data (`TransferData`): with labels.
        unlabelled (`Sequence[TransferData]`): without.
        processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`): the student's.
        data_args (`DataArguments`): how inputs are prepared.
        teacher_processor (`PreTrainedTokenizerBase` or `BaseImageProcessor`, *optional*): the teacher's; where its
            tokens are others, rows hold them too.
        ask (`Callable`, *optional*): adds what the teacher says to a split that was not prepared yet.
    """
    ready = partial(prepare, processor=processor, max_length=data_args.max_length)
    train = partial(ready, augment=data_args.augment(data, processor))
    splits = {"eval": data.eval, "test": data.test}
    others = [_unlabelled(other.train) for other in unlabelled]
    tokenizer = _other_tokenizer(processor, teacher_processor)
    columns = [name for name in ("text", "text_pair") if name in data.input_columns]
    parts = []
    for part in (data.train, *others):
        asked = part if ask is None else ask(part)
        if tokenizer is not None and columns:
            asked = teacher_inputs(asked, tokenizer, columns, max_length=data_args.max_length)
        parts.append(train(asked))
    return Rows(
        labelled=train(data.train),
        taught=mix_domains(*parts) if others else parts[0],
        splits={name: ready(split) for name, split in splits.items() if split is not None},
        collate=TeacherCollator(collator_for(processor, tokens=data.task == "token-classification"), tokenizer),
        domains=len(parts),
        longest=max(map(len, parts)),
    )


def _unlabelled(split: Dataset) -> Dataset:
    return split.remove_columns("label") if "label" in split.column_names else split


def _other_tokenizer(processor: Any, teacher_processor: Any) -> Any:
    """The teacher's tokenizer, where the student's makes other tokens."""
    if not isinstance(teacher_processor, PreTrainedTokenizerBase) or same_tokens(processor, teacher_processor):
        return None
    return teacher_processor
