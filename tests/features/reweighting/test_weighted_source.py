"""From a model and two data sets to a weighted source, and on to training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

import hf_transfer
from hf_transfer import TransferArguments, TransferTrainer, importance_weights, mix_domains, reweight
from hf_transfer.features import extract_features, matrix
from tests.models import tiny_bert, tiny_token_bert


def texts(rows, *, low=1, high=50, labels=None, seed=0) -> Dataset:
    ids = np.random.default_rng(seed).integers(low, high, (rows, 6)).tolist()
    return Dataset.from_dict({"input_ids": ids, **({} if labels is None else {"labels": labels})})


@pytest.fixture
def options(tmp_path):
    return {"extraction": {"cache_dir": tmp_path / "features", "progress": False}}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = tiny_bert()
    with torch.no_grad():  # features that tell one token from another
        model.bert.embeddings.word_embeddings.weight.mul_(50)
    return model


def halves(low, high, seed=0) -> Dataset:
    """Rows of low token numbers, of class 0, and rows of high ones, of class 1."""
    ids = [texts(low, high=10, seed=seed)["input_ids"][:], texts(high, low=40, seed=seed + 1)["input_ids"][:]]
    return Dataset.from_dict({"input_ids": ids[0] + ids[1], "labels": [0] * low + [1] * high})


def test_weights_are_those_of_the_features(model, options):
    source, target = halves(20, 20).shuffle(seed=0), halves(2, 18, seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weighted = reweight(model, source, target, clip=0.9, seed=1, folds=4, **options)
    features = [extract_features(model, data, **options["extraction"]) for data in (source, target)]
    expected = importance_weights(*(matrix(part) for part in features), clip=0.9, seed=1, folds=4)
    np.testing.assert_allclose(weighted["sample_weight"][:], expected)
    assert weighted["input_ids"][:] == source["input_ids"][:] and weighted["labels"][:] == source["labels"][:]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # rows that look like the target count more
    weights, high = np.array(weighted["sample_weight"][:]), np.array(source["labels"][:]) == 1
    assert weights[high].mean() > 2 * weights[~high].mean()


@pytest.mark.parametrize("method", ["kmm", "ulsif", "nearest_neighbour"])
def test_target_labels_are_not_read(model, options, method):
    source = texts(20, labels=[0, 1] * 10)
    weights = [
        reweight(model, source, texts(10, low=20, labels=labels, seed=1), method=method, **options)["sample_weight"][:]
        for labels in (None, [0] * 10, [2] * 10)
    ]
    assert weights[0] == weights[1] == weights[2] and np.mean(weights[0]) == pytest.approx(1)


def test_label_shift_through_probes(model, options):
    """The target has three rows of class 1 to one of class 0."""
    source, target = halves(40, 40), halves(15, 45, 5)
    for confusion in ("hard", "soft"):
        weighted = reweight(model, source, target, method="bbse", confusion=confusion, **options)
        weights = np.array(weighted["sample_weight"][:])
        assert weights[:40].mean() == pytest.approx(0.5, abs=0.15)
        assert weights[40:].mean() == pytest.approx(1.5, abs=0.15)
        assert len(np.unique(weights)) == 2 and weights.mean() == pytest.approx(1)
    unlabelled = source.map(lambda row, index: {"labels": -100} if index == 0 else {}, with_indices=True)
    one_row = unlabelled.map(lambda row, index: {"labels": 2} if index == 1 else {}, with_indices=True)
    weights = np.array(reweight(model, one_row, target, method="bbse", **options)["sample_weight"][:])
    assert weights[0] == 1 and weights[1] > 0 and weights[1:].mean() == pytest.approx(1)


def test_tradaboost_reads_a_few_target_labels(model, options):
    flipped = halves(20, 20).map(
        lambda row, index: {"labels": 1 - row["labels"]} if index % 4 == 0 else {}, with_indices=True
    )
    weighted = reweight(model, flipped, halves(5, 5, seed=3), method="tradaboost", rounds=5, **options)
    weights = np.array(weighted["sample_weight"][:])
    assert weights.mean() == pytest.approx(1)
    assert weights[::4].mean() < weights.mean() / 2


def test_a_token_classifier_gets_a_weight_an_example(options):
    labels = [[0, 1, -100, 2, 0, 0]] * 12
    source, target = texts(12, labels=labels), texts(6, low=25, seed=1)
    weighted = reweight(tiny_token_bert(), source, target, **options)
    assert np.shape(weighted["sample_weight"][:]) == (12,)
    with pytest.raises(ValueError, match="`bbse` for BertForTokenC.*tokens have them.*`domain_classifier`"):
        reweight(tiny_token_bert(), source, target, method="bbse", **options)


def test_on_to_training(model, options, tmp_path):
    source, target = texts(12, labels=[0, 1, 2] * 4), texts(6, low=25, seed=1)
    mixed = mix_domains(reweight(model, source, target, **options), target)
    assert mixed["sample_weight"][12:] == [1.0] * 6
    arguments = TransferArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = TransferTrainer(model, arguments, train_dataset=mixed)
    assert np.isfinite(trainer.train().training_loss) and trainer.attachment is not None


def test_what_is_refused(model, options):
    source = texts(6, labels=[0, 1] * 3)
    with pytest.raises(ValueError, match="no weighting method `bbs`.*Did you mean `bbse`"):
        reweight(model, source, source, method="bbs", **options)
    with pytest.raises(ValueError, match="`bbse` has no option folds.*Its options are confusion"):
        reweight(model, source, source, method="bbse", folds=3, **options)
    with pytest.raises(ValueError, match="has a column `sample_weight` already.*remove_columns"):
        reweight(model, source.add_column("sample_weight", [1.0] * 6), source, **options)
    with pytest.raises(ValueError, match="extraction=.*'taps'"):
        reweight(model, source, source, extraction={"taps": "blocks"})
    assert hf_transfer.reweight is reweight
