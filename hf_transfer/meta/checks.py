"""What `MetaTrainer` refuses, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from hf_transfer.data.sampling import check_whole_batches
from hf_transfer.few_shot.episodes import Episodes
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.meta.learner import EpisodeShape
from hf_transfer.meta.testing import class_column


ALGORITHMS = ("maml", "fomaml", "anil", "reptile", "meta_sgd")

__all__ = ["ALGORITHMS", "check_arguments", "check_class_major", "check_data", "check_kwargs", "check_options"]


def check_options(algorithm: str, inner_steps: int, inner_lr: float | None, eval_episodes: int) -> None:
    """
    Refuse an unknown algorithm and numbers that adapt nothing.

    Raises:
        ValueError: if there is one.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"`algorithm={algorithm!r}` is not known: what the outer loop should do would be a guess. Use one of "
            f'{", ".join(ALGORITHMS)}; meta-transfer learning is "anil" with `parameters="scale_shift"`.'
        )
    for name, value in (("inner_steps", inner_steps), ("eval_episodes", eval_episodes)):
        if value < 1:
            raise ValueError(f"`{name}={value}`: there would be nothing to adapt or to average. Pass 1 or more.")
    if inner_lr is not None and not inner_lr > 0:
        raise ValueError(
            f"`inner_lr={inner_lr}`: the inner loop would not descend, and no episode be learned. Pass a positive "
            "rate such as 0.1, or None."
        )


def check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """
    Refuse what acts in the ordinary forward with labels, of which an episode has none.

    Raises:
        ValueError: if there is such an argument or column.
    """
    for name in ("objectives", "compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics"):
        if kwargs.get(name):
            raise ValueError(
                f"`{name}` with `MetaTrainer`: the loss and the score of an episode come after its inner loop, and "
                f"this would never be asked. Leave it out; train with `TransferTrainer` where `{name}` matters."
            )
    if SAMPLE_WEIGHT in (getattr(kwargs.get("train_dataset"), "column_names", None) or ()):
        raise ValueError(
            f"The training data has a column `{SAMPLE_WEIGHT}`: rows of an episode count alike, and the weights would "
            "be ignored. Remove the column, or leave out the rows that should not count."
        )


def check_arguments(args: TrainingArguments, episodes_per_step: int) -> int:
    """
    Refuse what gradients that are computed by hand do not pass through, and say how many episodes a micro-batch has.

    Raises:
        ValueError: if there is such an option, or the episodes of a step cannot be dealt out evenly.
    """
    refused = {
        "fp16": (args.fp16, "there is no loss to scale in the inner loop", "bf16=True"),
        "torch_compile": (args.torch_compile, "the compiled model is not the one that is adapted", None),
        "activation_checkpointing": (
            getattr(args, "gradient_checkpointing", False) or getattr(args, "activation_checkpointing", False),
            "what it recomputes has no second derivative",
            "vectorize=False, which needs less memory",
        ),
        "fsdp": (bool(args.fsdp), "shards cannot be replaced by adapted parameters", "DDP by `torchrun`"),
        "deepspeed": (bool(args.deepspeed), "shards cannot be replaced by adapted parameters", "DDP by `torchrun`"),
        "label_smoothing_factor": (bool(args.label_smoothing_factor), "the loss of an episode has none", None),
        "several GPUs in one process": (args.n_gpu > 1, "`nn.DataParallel` copies the model", "one process per GPU"),
    }
    for name, (seen, why, instead) in refused.items():
        if seen:
            way = f"Use {instead}." if instead else "Leave it out."
            raise ValueError(f"`{name}` does not go with `MetaTrainer`: {why}. {way}")
    check_whole_batches(args, "`MetaTrainer`")
    parts = args.world_size * args.gradient_accumulation_steps
    if episodes_per_step < 1 or episodes_per_step % parts:
        raise ValueError(
            f"`episodes_per_step={episodes_per_step}` cannot be dealt out to {args.world_size} ranks with "
            f"{args.gradient_accumulation_steps} micro-batches each: some would have more episodes than others. Pass "
            f"a multiple of {parts}."
        )
    return episodes_per_step // parts


def check_data(dataset: Any, shape: EpisodeShape) -> None:
    """
    Refuse training data from which no episode can be drawn; without any, as for `evaluate` alone, nothing.

    Raises:
        ValueError: if it is a stream, there are too few classes, or a class has too few rows.
    """
    if dataset is None:
        return
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{type(dataset).__name__} is a stream: the rows of a class must be known before an episode is drawn. "
            "Pass a data set of rows."
        )
    Episodes(class_column(dataset), n_way=shape.n_way, k_shot=shape.k_shot, queries=shape.queries)


def check_class_major(labels: Tensor | None, shape: EpisodeShape) -> None:
    """
    Refuse a batch whose rows do not lie as the episodes were drawn.

    Raises:
        ValueError: if the collator changed their order, or left the labels out.
    """
    if labels is not None:
        classes = labels.reshape(-1, shape.size)
        first = classes[:, : shape.support : shape.k_shot]
        wanted = torch.cat(
            [first.repeat_interleave(shape.k_shot, 1), first.repeat_interleave(shape.queries, 1)], dim=1
        )
        distinct = first.sort(1).values.diff(dim=1).ne(0).all()
        if bool((classes == wanted).all() & distinct):
            return
    raise ValueError(
        "The rows of the batch do not lie class by class as they were drawn, or have no labels: the inner loop would "
        "learn wrong classes. Use a collator that keeps the order of the rows and their `labels`."
    )
