"""Similarity of pairs as an objective: the batch it sees, the sampler it asks for, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_transfer import PairSimilarity, TransferBatch, attach
from tests.functional.test_pairs import naive
from tests.models import batch_for, lora, tiny_bert, tiny_token_bert
from tests.objectives.few_shot_runs import rows, trained


def test_value_against_a_loop():
    features = torch.randn(7, 5, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 2, -100, 1, 1])
    value = PairSimilarity()(TransferBatch(features=features, labels=labels))
    assert value.item() == pytest.approx(naive(features.tolist(), labels.tolist()), rel=1e-5)
    value.backward()
    assert features.grad[:4].any(1).all() and not features.grad[4:].any()


def test_both_cosines_are_logged(tmp_path):
    trainer = trained("pair_similarity", tmp_path)
    (first, *_) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert -1 <= first["pair_similarity_cosine_different"] <= 1 and -1 <= first["pair_similarity_cosine_same"] <= 1
    assert type(trainer.get_train_dataloader().batch_sampler.sampler).__name__ == "PairSampler"


def test_sampler_gives_pairs_of_the_training_set_in_turn():
    data = rows(12, 3)
    labels = data["labels"][:]
    order = list(PairSimilarity(pairs_per_row=3).sampler(data, batch_size=4, ranks=2, seed=1))
    alike = [labels[a] == labels[b] for a, b in zip(order[::2], order[1::2], strict=True)]
    assert len(alike) == 36 and alike[::2] == [True] * 18 and alike[1::2] == [False] * 18


def test_under_lora_in_bfloat16():
    model = lora(tiny_bert(), ["query"], "classifier").train().bfloat16()
    attachment = attach(model, [PairSimilarity()])
    model(**batch_for(model, 8)).loss.backward()
    assert attachment.terms["pair_similarity"].dtype == torch.float32


def test_refuses_a_number_of_pairs_below_one():
    with pytest.raises(ValueError, match="`pairs_per_row=0`: an epoch would hold no pair.*default 10"):
        PairSimilarity(pairs_per_row=0)


def test_refuses_an_odd_batch_size():
    with pytest.raises(ValueError, match="Batches of 7 rows tear pairs apart.*per_device_train_batch_size=8"):
        PairSimilarity().sampler(rows(), batch_size=7, ranks=1, seed=0)


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda: tiny_bert(problem_type="multi_label_classification"), "several labels a row"),
        (lambda: tiny_bert(num_labels=1), "a regression"),
        (tiny_token_bert, "a token classifier"),
    ],
)
def test_other_problems_are_refused_when_attached(make, seen):
    with pytest.raises(ValueError, match=f"PairSimilarity on {seen}: it compares whole rows.*one class a row"):
        attach(make(), [PairSimilarity()])


def test_one_class_is_refused_before_training():
    data = Dataset.from_dict({"input_ids": [[1], [2]], "labels": [1, 1]})
    with pytest.raises(ValueError, match="1 classes among 2 labelled rows"):
        PairSimilarity().sampler(data, batch_size=4, ranks=1, seed=0)
