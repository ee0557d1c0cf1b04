"""Training on base classes: batches of whole episodes, and what is handed to the trainers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers import default_data_collator

from hf_transfer.few_shot.arguments import FewShotArguments, FewShotLoopArguments
from hf_transfer.few_shot.training import ON_ITS_FEATURES, EpisodicRun, default_temperature
from hf_transfer.meta.trainer import MetaTrainer
from hf_transfer.objectives.few_shot.prototypical_episodes import PrototypicalEpisodes
from tests.models import tiny_bert


def rows(classes: int = 3, each: int = 6) -> Dataset:
    labels = np.arange(classes * each) % classes
    tokens = np.random.default_rng(0).integers(1, 20, (len(labels), 4))
    data = Dataset.from_dict({"input_ids": tokens.tolist(), "labels": labels.tolist()})
    return data.cast_column("labels", ClassLabel(names=[str(number) for number in range(classes)]))


def run(method: str, **options: Any) -> EpisodicRun:
    chosen: dict[str, Any] = {
        **{"n_way": 2, "queries": 2, "episodes": 6, "train_queries": 2, "episodes_per_step": 2, "base_classes": 3},
        **options,
    }
    recipe = FewShotArguments("data", methods=[method], **chosen)
    return EpisodicRun(method, recipe, rows(), rows(4), default_data_collator, 2.5, 7)


def loop(tmp_path, **options: Any) -> FewShotLoopArguments:
    return FewShotLoopArguments(str(tmp_path), use_cpu=True, max_steps=1, disable_tqdm=True, **options)


def test_prototypes_are_trained_with_the_options_given(tmp_path):
    trainer = run("protonet", k_shot=[1, 2], train_n_way=3).trainer(tiny_bert(), None, loop(tmp_path))
    (objective,) = trainer.objectives.values()
    assert isinstance(objective, PrototypicalEpisodes)
    assert (objective.n_way, objective.k_shot, objective.queries, objective.temperature) == (3, 2, 2, 2.5)
    assert trainer.args.per_device_train_batch_size == 2 * 3 * (2 + 2)


@pytest.mark.parametrize(
    ("method", "algorithm", "parameters", "rate"),
    [("mtl", "anil", "scale_shift", None), ("anil", "anil", "all", 0.2), ("maml", "maml", "all", None)],
)
def test_meta_learners_are_those_of_the_meta_trainer(tmp_path, method, algorithm, parameters, rate):
    trainer: Any = run(method, inner_lr=rate).trainer(tiny_bert(), None, loop(tmp_path))
    assert isinstance(trainer, MetaTrainer)
    assert (trainer.algorithm, trainer.subset, trainer.inner_lr) == (algorithm, parameters, rate)


def test_episodes_that_cannot_be_dealt_out(tmp_path):
    with pytest.raises(
        ValueError, match="`--episodes_per_step 2` with 1 ranks and 3 micro.*torn apart.*multiple of 3"
    ):
        run("protonet").trainer(tiny_bert(), None, loop(tmp_path, gradient_accumulation_steps=3))


def test_a_run_is_tested_on_every_number_of_shots(tmp_path):
    torch.manual_seed(0)
    own = run("meta_sgd", k_shot=[1, 2])
    trainer = own.trainer(tiny_bert(), None, loop(tmp_path))
    found, seconds = own.train(trainer)
    assert found.keys() == {"meta_sgd", f"meta_sgd{ON_ITS_FEATURES}"} and seconds > 0
    for by_shots in found.values():
        assert by_shots.keys() == {1, 2}
        assert all(accuracies.shape == (6,) for accuracies in by_shots.values())
        assert all(((accuracies * 4) % 1 == 0).all() for accuracies in by_shots.values())  # of four queries


def test_meta_sgd_is_tested_with_the_rates_it_learned(tmp_path, monkeypatch):
    own = run("meta_sgd", meta_parameters="head", inner_lr=0.5)
    trainer: Any = own.trainer(tiny_bert(), None, loop(tmp_path))
    given: list[Any] = []

    def tested(*_, rates, **options):
        given.append(rates)
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_transfer.few_shot.training.meta_test", tested)
    with pytest.raises(KeyboardInterrupt):
        own.tested(trainer)
    (rates,) = given
    assert set(rates) == set(trainer.adapted) and all(bool((rate == 0.5).all()) for rate in rates.values())


def test_the_temperature_is_a_tenth_of_the_mean_squared_distance():
    features = np.random.default_rng(0).standard_normal((40, 3)) * 5
    distances = [((one - other) ** 2).sum() for one in features for other in features]
    assert default_temperature(features, "squared_euclidean") == pytest.approx(np.mean(distances) / 10)
    assert default_temperature(features, "cosine") == 0.1
    assert default_temperature(np.ones((3, 2)), "squared_euclidean") == 1.0  # never zero
