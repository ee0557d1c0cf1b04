"""Whether a teacher knows its task: its predictions for labelled rows against a constant answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_transfer.batch import TransferBatch
from hf_transfer.functional.task_loss import UNLABELLED
from hf_transfer.language_models import next_token_labels, predicts_next_token
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.source import inputs_of, to_device
from hf_transfer.teacher.cached_columns import is_cached


if TYPE_CHECKING:
    from hf_transfer.teacher.teacher import Teacher

logger = logging.get_logger(__name__)

ROWS = 256
"""Examples that are looked at."""

_FEWEST = 20  # labelled rows, tokens or labels: of fewer nothing is concluded
_CHANCE = 0.05

__all__ = ["ROWS", "Verdict", "inspect_teacher", "judge", "spread_batches"]


class Verdict(NamedTuple):
    """
    How a teacher does on labelled rows.

    Attributes:
        score: share of right answers in [0, 1], or the R^2 of a regression.
        constant: the same of always answering the most frequent class; 0 for a regression.
        rows: labelled rows; tokens, or single labels where there are several a row.
        knows: whether it does better, and not by chance; `None` where there are too few rows to tell.
    """

    score: float
    constant: float
    rows: int
    knows: bool | None


def inspect_teacher(teacher: Teacher, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    """
    Warn if a teacher does no better on labelled rows of the training data than a constant answer; tell its accuracy
    otherwise. No random number is drawn that would be missed later, and without labels nothing happens.

    Args:
        teacher (`Teacher`): bound to the student.
        model (`nn.Module`): the student.
        batches (`Iterable[Mapping]`): of the training data. Of a `DataLoader`, labelled rows are taken evenly from all
            of the data, which may be sorted by class.
    """
    device = next(model.parameters()).device
    judged: dict[int, list[tuple[Tensor, Tensor]]] = {}
    judges: tuple[Teacher, ...] = ()
    with random_numbers_put_back(), torch.no_grad():
        for batch in spread_batches(batches):
            labels = batch.get("labels")
            if not isinstance(labels, Tensor):
                break
            columns = {name: batch[name] for name in teacher.columns if name in batch}
            # of several, only what they said together is stored
            judges = (teacher,) if any(map(is_cached, columns)) else teacher.members
            told = labels.to(device)
            told = next_token_labels(told) if predicts_next_token(model) else told
            seen = TransferBatch(
                features=torch.empty(len(labels), 0, device=device),
                labels=told,
                columns=to_device(columns, device),
                inputs=inputs_of(model, batch, device),
            )
            for number, one in enumerate(judges):
                judged.setdefault(number, []).append((_answers(one(seen).logits, told, model), told.cpu()))
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
        return  # every rank saw the same
    for number, pairs in judged.items():
        width = min(answers.shape[1] for answers, _ in pairs) if pairs[0][0].dim() > 1 else 0
        same = all(answers.dim() < 2 or answers.shape[1] == width for answers, _ in pairs)
        if not same:  # tokens, padded to another length in each batch
            pairs = [(answers.flatten(), labels.flatten()) for answers, labels in pairs]
        answers, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        _tell(repr(judges[number]), judge(answers, labels), labels)


def judge(answers: Tensor, labels: Tensor) -> Verdict:
    r"""
    Compare answers with labels.

    A classifier knows something if the share of its right answers is above that of the most frequent class, and by
    more than chance: with that share as the probability of a right answer, as many right ones or more come about in
    less than 5% of cases (a one-sided binomial test). Several labels a row are judged one by one, each against its own
    more frequent value. A regression knows something if its $R^2 > 0$, that is, if it does better than the mean.

    Args:
        answers (`Tensor`): classes or 0 and 1 (integer) or values (float), of the shape of the labels.
        labels (`Tensor`): -100 where there is none.

    Example:
        >>> judge(torch.tensor([0, 1] * 20), torch.tensor([0, 1] * 20))
        Verdict(score=1.0, constant=0.5, rows=40, knows=True)
    """
    labelled = labels != UNLABELLED
    count = int(labelled.sum())
    if count == 0:
        return Verdict(0.0, 0.0, 0, None)
    if answers.is_floating_point():
        kept, truth = answers[labelled].double(), labels[labelled].double()
        spread = (truth - truth.mean()).square().sum()
        score = float(1 - (truth - kept).square().sum() / spread) if spread > 0 else 0.0
        return Verdict(score, 0.0, count, score > 0 if count >= _FEWEST and spread > 0 else None)
    right = int((answers == labels)[labelled].sum())
    if labels.is_floating_point() and labels.dim() == 2:
        ones = ((labels == 1) & labelled).sum(0)
        most = int(torch.maximum(ones, labelled.sum(0) - ones).sum())
    else:
        most = int(torch.unique(labels[labelled], return_counts=True)[1].max())
    constant = most / count
    enough = count >= _FEWEST and constant < 1
    return Verdict(right / count, constant, count, _tail(right, count, constant) < _CHANCE if enough else None)


def spread_batches(batches: Any, most: int = ROWS) -> Iterator[Mapping[str, Any]]:
    """
    Batches of at most `most` rows: of a `DataLoader` evenly from all of its data, in order, and of the labelled ones
    where a column tells them; of anything else the first.

    Args:
        batches (`Iterable[Mapping]`): of the training data.
        most (`int`, *optional*): rows.
    """
    dataset, collate = getattr(batches, "dataset", None), getattr(batches, "collate_fn", None)
    if collate is None or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        seen = 0
        for batch in batches:
            if seen >= most:
                return
            yield batch
            seen += len(next(iter(batch.values()), ()))
        return
    data: Any = dataset
    rows = _labelled_rows(data)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))]
    size = getattr(batches, "batch_size", None) or 8
    for start in range(0, len(chosen), size):
        yield collate([data[int(row)] for row in chosen[start : start + size]])


def _labelled_rows(dataset: Any) -> np.ndarray:
    everything = np.arange(len(dataset))
    features = getattr(dataset, "features", None) or {}
    name = next((name for name in ("labels", "label") if name in features), None)
    if name is None or not hasattr(dataset, "select_columns") or not hasattr(features[name], "dtype"):
        return everything
    labels = dataset.select_columns([name]).with_format("numpy")[:][name]
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iuf":
        return everything
    return everything[labels != UNLABELLED]


def _answers(logits: Tensor, labels: Tensor, model: nn.Module) -> Tensor:
    """What is answered, of the shape of the labels: float for a regression."""
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "regression" or (problem is None and logits.shape[-1] == 1):
        return logits.float().reshape(labels.shape).cpu()
    if problem == "multi_label_classification" or (labels.is_floating_point() and labels.shape == logits.shape):
        return (logits > 0).long().cpu()
    return logits.argmax(-1).cpu()


def _tail(right: int, count: int, rate: float) -> float:
    """Probability of `right` or more successes in `count` trials."""
    k = torch.arange(right, count + 1, dtype=torch.float64)
    whole = torch.tensor(float(count), dtype=torch.float64)
    ways = torch.lgamma(whole + 1) - torch.lgamma(k + 1) - torch.lgamma(whole - k + 1)
    return float((ways + k * math.log(rate) + (whole - k) * math.log1p(-rate)).exp().sum())


def _tell(teacher: str, verdict: Verdict, labels: Tensor) -> None:
    if not verdict.rows:
        return
    whole = labels.dim() == 1
    things = "rows" if whole else "tokens or labels"
    if labels.is_floating_point() and whole or verdict.constant == 0:
        told = f"{teacher} explains R^2 = {verdict.score:.3f} of the values of {verdict.rows} labelled rows"
        constant = "their mean explains 0"
    else:
        told = f"{teacher} is right for {verdict.score:.1%} of {verdict.rows} labelled {things}"
        constant = f"always answering the most frequent class is for {verdict.constant:.1%}"
    if verdict.knows is False:
        logger.warning(
            f"{told}, and {constant}: it is no better. Perhaps its head was never trained, or its classes or inputs "
            "mean something else, and the student would learn that. Give a checkpoint that was fine-tuned for the "
            "task, and check `labels=` and `processor=` of the `Teacher`."
        )
    else:
        logger.info(f"{told}; {constant}.")
