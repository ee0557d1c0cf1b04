"""The order of training rows: whole episodes in every batch of every rank, the same after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler
from transformers import Trainer, TrainingArguments

from hf_transfer.few_shot.episodes import Episodes
from hf_transfer.few_shot.sampler import EpisodeSampler


LABELS = [number % 5 for number in range(60)]
WAYS = {"n_way": 3, "k_shot": 2, "queries": 1}
SIZE = 9


def is_episode(rows):
    """Support class by class, then queries class by class, all of three classes and different rows."""
    classes = [LABELS[row] for row in rows]
    support, query = classes[:6], classes[6:]
    return len(set(rows)) == SIZE and support == [each for each in query for _ in range(2)] and len(set(query)) == 3


def test_an_epoch_is_episode_after_episode():
    sampler = EpisodeSampler(LABELS, **WAYS, seed=4)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 6 * SIZE  # as many as 60 rows make
    assert all(is_episode(rows[start : start + SIZE]) for start in range(0, len(rows), SIZE))
    drawn = Episodes(LABELS, **WAYS, seed=4).draw(range(6))
    assert rows[SIZE : 2 * SIZE] == [*drawn.support[1], *drawn.query[1]]


def test_epochs_go_on_with_the_numbers_of_the_episodes():
    sampler = EpisodeSampler(LABELS, **WAYS, episodes=4)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs += list(sampler)
    drawn = Episodes(LABELS, **WAYS).draw(range(12))
    assert epochs == np.concatenate([drawn.support, drawn.query], axis=1).reshape(-1).tolist()


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    whole = list(EpisodeSampler(LABELS, **WAYS, episodes=10))
    monkeypatch.setattr("hf_transfer.few_shot.sampler._AT_ONCE", 3)
    assert list(EpisodeSampler(LABELS, **WAYS, episodes=10)) == whole


@pytest.mark.parametrize(("ranks", "per_batch", "episodes", "rounded"), [(1, 2, 5, 6), (2, 2, 5, 8), (3, 1, 4, 6)])
def test_every_batch_of_every_rank_holds_whole_episodes(ranks, per_batch, episodes, rounded):
    sampler = EpisodeSampler(LABELS, **WAYS, episodes=episodes, batch_size=per_batch * SIZE, ranks=ranks)
    assert sampler.num_episodes == rounded
    seen = []
    for rank in range(ranks):
        batches = list(BatchSamplerShard(BatchSampler(sampler, per_batch * SIZE, False), ranks, rank))
        assert len(batches) == rounded // per_batch // ranks
        for batch in batches:
            assert len(batch) == per_batch * SIZE
            seen += [tuple(batch[start : start + SIZE]) for start in range(0, len(batch), SIZE)]
    assert all(is_episode(rows) for rows in seen)
    assert len(set(seen)) == len(seen) == rounded  # no rank sees the episode of another


class Rows(Trainer):
    """A Trainer that only notes which rows its batches hold."""

    def __init__(self, sampler, **options):
        self.sampler, self.seen = sampler, []
        data = Dataset.from_dict({"row": range(len(LABELS)), "labels": LABELS})
        args = TrainingArguments(
            per_device_train_batch_size=SIZE,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            **options,
        )
        super().__init__(torch.nn.Linear(1, 1), args, train_dataset=data)

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.seen.append(inputs["row"].tolist())
        return model(torch.ones(1, 1)).sum()


def test_a_trainer_gets_an_episode_in_each_batch_and_resumes_in_the_middle(tmp_path):
    options = {"num_train_epochs": 2, "save_steps": 3, "logging_strategy": "no", "output_dir": str(tmp_path)}
    straight = Rows(EpisodeSampler(LABELS, **WAYS, batch_size=SIZE, episodes=5), **options)
    straight.train()
    assert len(straight.seen) == 10 and all(is_episode(rows) for rows in straight.seen)
    assert len({tuple(rows) for rows in straight.seen}) == 10
    again = Rows(EpisodeSampler(LABELS, **WAYS, batch_size=SIZE, episodes=5), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert again.seen == straight.seen[6:]


@pytest.mark.parametrize(("batch", "advice"), [(8, 9), (20, 18), (1, 9), (0, 9)])
def test_a_batch_of_parts_of_episodes_is_refused(batch, advice):
    message = f"A batch of {batch} rows does not hold whole episodes of 9 rows.*per_device_train_batch_size={advice}`"
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(LABELS, **WAYS, batch_size=batch)


@pytest.mark.parametrize("options", [{"episodes": 0}, {"ranks": 0}])
def test_an_epoch_without_a_batch_is_refused(options):
    with pytest.raises(ValueError, match="an epoch would have no batch. Pass positive numbers"):
        EpisodeSampler(LABELS, **WAYS, **options)


def test_few_rows_still_make_an_episode():
    """12 rows of 3 classes, episodes of 9: one of them."""
    assert EpisodeSampler([0, 1, 2] * 4, **WAYS).num_episodes == 1


def test_errors_of_the_episodes_come_through():
    with pytest.raises(ValueError, match="`n_way=6`"):
        EpisodeSampler(LABELS, n_way=6)
    with pytest.raises(ValueError, match="seed=-1 is negative"):
        EpisodeSampler(LABELS, **WAYS, seed=-1)
