"""`meta_test`: how well a model does on classes it never saw, after a few steps on a few rows of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    default_data_collator,
)

from hf_transfer.few_shot.episodes import EpisodeRows, Episodes
from hf_transfer.meta.learner import EpisodeShape, Learner, Rates
from hf_transfer.meta.results import MetaTestResults
from hf_transfer.meta.selection import select
from hf_transfer.modes import at_rest
from hf_transfer.random_state import random_numbers_put_back
from hf_transfer.source import accepted_inputs, inputs_of


__all__ = ["class_column", "meta_test"]


def meta_test(
    model: nn.Module,
    dataset: Any,
    *,
    n_way: int = 5,
    k_shot: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    parameters: str | Sequence[str] = "head",
    inner_steps: int = 5,
    inner_lr: float | None = None,
    rates: Rates | None = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    processing_class: Any = None,
    batch_size: int = 64,
    vectorize: bool | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> MetaTestResults:
    """
    Adapt a model to each of many episodes by gradient descent on the support, and score it on the queries.

    Each episode begins from the model as it is, which stays so. Episodes are those of [`Episodes`] with the same
    labels, sizes and seed: methods can be compared on them one by one. Dropout is off, batch normalisation uses its
    running statistics: no query tells anything of another.

    Args:
        model (`nn.Module`):
            A classifier with `n_way` outputs, also under PEFT (`give_episode_head` gives another model such a head).
        dataset (`datasets.Dataset` or torch dataset of dicts):
            Prepared rows of classes the model was not meta-trained on, with their class in `labels`.
        n_way, k_shot, queries (`int`, *optional*, defaults to 5, 1 and 15):
            Classes of an episode, support and query rows of each.
        episodes (`int`, *optional*, defaults to 600):
            Number of episodes.
        seed (`int`, *optional*, defaults to 0):
            Of the episodes.
        parameters (`str` or `Sequence[str]`, *optional*, defaults to `"head"`):
            What is adapted: `"head"`, `"lora"`, `"scale_shift"`, `"all"` or patterns; the head always is.
        inner_steps (`int`, *optional*, defaults to 5):
            Steps on the support.
        inner_lr (`float`, *optional*):
            Their rate; by default as for [`MetaTrainer`].
        rates (`float` or `Mapping[str, Tensor]`, *optional*):
            Learned rates by parameter name (Meta-SGD), in place of `inner_lr`.
        data_collator (`Callable`, *optional*):
            Makes a batch of rows; by default the one `Trainer` would take for `processing_class`.
        processing_class (*optional*):
            Tokenizer or processor, for the default collator.
        batch_size (`int`, *optional*, defaults to 64):
            Rows of a forward that computes features, where only the head is adapted: each row is then run once.
        vectorize (`bool`, *optional*):
            Run four episodes at once by `vmap` where more than the head is adapted; by default one by one, which
            needs least memory.
        rank, ranks (`int`, *optional*, defaults to 0 and 1):
            Score only every `ranks`-th episode, from number `rank` on; the others are 0 in the results.

    Returns:
        [`MetaTestResults`]: accuracy of each episode, mean and 95% interval.

    Raises:
        ValueError: if the model has another number of outputs, rows do not suffice for an episode, or the inputs
            have no first dimension of rows.

    Relations:
        [`evaluate_few_shot`] scores classifiers on fixed features; nearest class means are the one to beat.

    Example:
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=2)
        >>> rows = Dataset.from_dict({"input_ids": [[1, 2], [1, 3], [5, 6], [5, 7]], "labels": [0, 0, 1, 1]})
        >>> model = BertForSequenceClassification(config)
        >>> len(meta_test(model, rows, n_way=2, k_shot=1, queries=1, episodes=10).accuracies)
        10
    """
    check_outputs(model, n_way)
    begin = time.perf_counter()
    shape = EpisodeShape(n_way, k_shot, queries)
    if episodes < 1:
        raise ValueError(f"`episodes={episodes}`: there would be nothing to average. Pass 600, as papers do.")
    draws = Episodes(class_column(dataset), n_way=n_way, k_shot=k_shot, queries=queries, seed=seed)
    numbers = np.arange(episodes)[rank::ranks]
    collate = data_collator or _collator(processing_class)
    accuracies, losses = np.zeros(episodes), np.zeros(episodes)
    with at_rest(model), random_numbers_put_back(0):
        learner = Learner(
            model, select(model, parameters).trained, shape, steps=inner_steps, vectorize=bool(vectorize)
        )
        read = _Reader(learner, dataset, collate, batch_size)
        device = next(model.parameters()).device
        _, asked = shape.labels(device)
        done = 0
        with torch.no_grad():
            for prepared in read.episodes(draws.draw(numbers)):
                logits, _ = learner.query_logits(prepared, inner_lr if rates is None else rates)
                here = numbers[done : done + len(logits)]
                accuracies[here] = (logits.argmax(-1) == asked).double().mean(-1).cpu().numpy()
                losses[here] = (
                    F.cross_entropy(logits.transpose(1, 2), asked.expand(len(logits), -1), reduction="none")
                    .mean(-1)
                    .double()
                    .cpu()
                    .numpy()
                )
                done += len(logits)
    return MetaTestResults(accuracies, losses, time.perf_counter() - begin)


def check_outputs(model: Any, n_way: int) -> None:
    """
    Refuse a model whose head has another number of outputs than an episode has classes.

    Raises:
        ValueError: if it has.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    outputs = base.config.num_labels
    if outputs != n_way:
        raise ValueError(
            f"The model has {outputs} outputs and an episode {n_way} classes: labels 0 to {n_way - 1} would mean "
            f"nothing to it. Give it a new head by `give_episode_head(model, {n_way})`, or pass `n_way={outputs}`."
        )


def class_column(dataset: Any) -> Any:
    """What [`Episodes`] reads the classes from: the data set itself, or of a torch data set the label of each row."""
    if hasattr(dataset, "column_names") or isinstance(dataset, torch.utils.data.Subset):
        return dataset
    try:
        return [int(dataset[row]["labels"]) for row in range(len(dataset))]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{type(dataset).__name__} is no data set of rows with `labels`: episodes are drawn class by class before "
            "anything is read. Pass a `datasets.Dataset`, or a torch data set whose rows are dicts with `labels`."
        ) from error


class _Reader:
    """Rows of episodes as the learner takes them: read for each episode, or features computed once."""

    def __init__(self, learner: Learner, dataset: Any, collate: Callable[[list[Any]], Any], batch_size: int):
        self.learner, self.dataset, self.batch_size = learner, dataset, batch_size
        names = accepted_inputs(learner.model) | {"labels", "label"}
        self.collate = lambda rows: collate([{key: row[key] for key in row if key in names} for row in rows])

    def episodes(self, rows: EpisodeRows) -> Iterator[dict[str, Tensor]]:
        order = np.concatenate([rows.support, rows.query], axis=1)
        if self.learner.on_features:
            self.learner.prepare(self.learner.split(next(self._batches([order[0].tolist()]))))  # may find it cannot
        if self.learner.on_features:
            needed, places = np.unique(order, return_inverse=True)
            chunks = [needed[at : at + self.batch_size].tolist() for at in range(0, len(needed), self.batch_size)]
            features = torch.cat([self.learner.features(batch) for batch in self._batches(chunks)])
            index = torch.from_numpy(places.reshape(order.shape)).to(features.device)
            for part in index.split(64):
                yield {"features": features[part]}
            return
        count = 4 if self.learner.vectorize else 1
        chunks = [order[at : at + count].reshape(-1).tolist() for at in range(0, len(order), count)]
        for batch in self._batches(chunks):
            yield self.learner.split(batch)

    def _batches(self, chunks: list[list[int]]) -> Iterator[dict[str, Tensor]]:
        device = next(self.learner.model.parameters()).device
        loader = DataLoader(self.dataset, batch_sampler=chunks, collate_fn=self.collate)
        for batch in loader:
            yield inputs_of(self.learner.model, batch, device)


def _collator(processing_class: Any) -> Callable[[list[Any]], Any]:
    pads = isinstance(processing_class, PreTrainedTokenizerBase | SequenceFeatureExtractor)  # as `Trainer` chooses
    return DataCollatorWithPadding(cast(Any, processing_class)) if pads else default_data_collator
