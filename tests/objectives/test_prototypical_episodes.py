"""Prototypical episodes as an objective: the batch it sees, the sampler it asks for, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers.utils import logging

from hf_transfer import ModelSpec, PrototypicalEpisodes, TransferBatch, attach
from tests.functional.test_prototypes import naive
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.few_shot_runs import rows, trained


def batch(labels, width=4):
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(len(labels), width, generator=generator, requires_grad=True)
    return TransferBatch(features=features, labels=torch.tensor(labels))


@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
def test_value_of_two_episodes_against_a_loop(distance):
    objective = PrototypicalEpisodes(n_way=2, k_shot=2, queries=1, distance=distance, temperature=0.5)
    data = batch([9, 9, 4, 4, 9, 4, 0, 0, 9, 9, 0, 9])
    expected, right = naive(data.features.tolist(), 2, 2, 1, distance, 0.5)
    assert objective(data).item() == pytest.approx(expected, rel=1e-5)
    assert objective.diagnostics["accuracy"].item() == pytest.approx(right)


def test_later_batches_leave_torn_episodes_out():
    objective = PrototypicalEpisodes(n_way=2, k_shot=1, queries=1)
    objective(batch([0, 1, 0, 1]))  # looked at
    data = batch([0, 1, 1, 0, 3, 2, 3, 2])
    objective(data).backward()
    assert not data.features.grad[:4].any() and data.features.grad[4:].any()


def test_an_unlabelled_first_batch_is_no_error():
    objective = PrototypicalEpisodes(n_way=2, k_shot=1, queries=1)
    assert objective(batch([-100] * 4)).item() == 0 and objective.diagnostics["accuracy"].item() == 0


def test_a_batch_below_an_episode_is_told_of(caplog):
    logging.get_logger("hf_transfer").propagate = True
    with caplog.at_level("WARNING", logger="hf_transfer"):
        assert PrototypicalEpisodes()(batch([0, 1, 2])).item() == 0
    assert "3 rows holds no episode of n_way * (k_shot + queries) = 50 rows" in caplog.text


def test_refuses_a_first_batch_in_another_order():
    model = tiny_bert().train()
    attach(model, [PrototypicalEpisodes(n_way=2, k_shot=1, queries=1)])
    inputs = {**batch_for(model), "labels": torch.tensor([0, 0, 1, 1])}
    with pytest.raises(ValueError, match=r"labels \[0, 0, 1, 1\], no episode of 2 classes.*`TransferTrainer`"):
        model(**inputs)


def test_task_loss_may_be_kept():
    model = tiny_bert().train()
    attachment = attach(model, [PrototypicalEpisodes(n_way=2, k_shot=1, queries=1, keep_task_loss=True)])
    loss = model(**{**batch_for(model), "labels": torch.tensor([0, 1, 0, 1])}).loss
    assert attachment.terms["task"] > 0.5 and str(attachment.objectives) == "loss = task + prototypical_episodes"
    loss.backward()
    assert model.classifier.weight.grad.any()


def test_sampler_gives_whole_episodes_in_every_batch_of_every_rank():
    objective = PrototypicalEpisodes(n_way=3, k_shot=2, queries=1, episodes=5)
    data = rows(30, 5)
    labels = torch.tensor(data["labels"][:])
    order = list(objective.sampler(data, batch_size=18, ranks=2, seed=3))
    assert len(order) % (18 * 2) == 0 and len(order) >= 5 * 9
    for start in range(0, len(order), 9):
        episode = order[start : start + 9]
        classes = labels[episode]
        assert len(set(episode)) == 9  # no query is in the support
        assert classes[:6].tolist() == [c for c in classes[6:].tolist() for _ in range(2)]
        assert len(set(classes[6:].tolist())) == 3


def test_the_trainer_feeds_it_episodes_and_logs_their_accuracy(tmp_path):
    trainer = trained("prototypical_episodes", tmp_path, 2)
    logged = [entry["prototypical_episodes_accuracy"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3 and all(0 <= value <= 1 for value in logged)
    assert type(trainer.get_train_dataloader().batch_sampler.sampler).__name__ == "EpisodeSampler"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_way": 1}, "`n_way=1`, `k_shot=5`, `queries=5`: an episode needs classes.*n_way of 2 or more"),
        ({"k_shot": 0}, "`k_shot=0`.*others of 1 or more"),
        ({"queries": 0}, "`queries=0`.*others of 1 or more"),
        ({"episodes": 0}, "`episodes=0`: an epoch would have none.*or None"),
        ({"distance": "euclidean"}, '`distance="euclidean"` is unknown.*squared_euclidean or cosine'),
        ({"temperature": 0.0}, "`temperature=0.0`: distances are divided by it.*0.1 for cosines"),
        ({"weight": -1.0}, "`weight=-1.0` is negative"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        PrototypicalEpisodes(**options)


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda: tiny_bert(problem_type="multi_label_classification"), "several labels a row"),
        (lambda: tiny_bert(problem_type="regression"), "a regression"),
        (lambda: tiny_bert(num_labels=1), "a regression"),
        (tiny_token_bert, "a token classifier"),
    ],
)
def test_other_problems_are_refused_when_attached(make, seen):
    with pytest.raises(ValueError, match=f"PrototypicalEpisodes on {seen}: it compares whole rows.*one class a row"):
        attach(make(), [PrototypicalEpisodes()])


@pytest.mark.parametrize(
    ("count", "classes", "batch_size", "message"),
    [
        (24, 3, 5, "per_device_train_batch_size"),
        (24, 1, 4, "n_way"),
        (4, 3, 4, "class 1|1 rows|fewer"),
    ],
)
def test_data_without_episodes_are_refused_before_training(count, classes, batch_size, message):
    objective = PrototypicalEpisodes(n_way=2, k_shot=1, queries=1).build(ModelSpec(feature_dim=4, num_labels=3))
    with pytest.raises(ValueError, match=message):
        objective.sampler(rows(count, classes), batch_size=batch_size, ranks=1, seed=0)


def test_refuses_a_data_set_without_labels():
    with pytest.raises(ValueError, match="labels"):
        PrototypicalEpisodes().sampler(Dataset.from_dict({"text": ["a"]}), batch_size=50, ranks=1, seed=0)
