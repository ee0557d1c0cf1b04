"""What is held out, how it is judged, and what standardisation leaves of odd features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss

from hf_transfer.features.probes import training as module
from hf_transfer.features.probes.labelled_rows import ProbeRows
from hf_transfer.features.probes.training import choose, held_out_score, standardised
from tests.features.probes.data import blobs, several, training_of, values


def rows_of(features):
    return ProbeRows(np.asarray(features), np.zeros(len(features), np.int64), task="single_label")


def test_standardisation(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    features, _ = blobs()
    inputs, mean, scale = standardised(rows_of(features), None, standardize=True, centred=True)
    np.testing.assert_allclose(mean, features.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, features.astype(float).std(0), rtol=1e-10)
    np.testing.assert_allclose(inputs, (features - mean) / scale, atol=1e-5)
    assert inputs.dtype == np.float32


def test_rows_for_validation_do_not_count():
    features, _ = blobs()
    inputs, mean, _ = standardised(rows_of(features), rows_of(features[:9] + 5), standardize=True, centred=True)
    np.testing.assert_allclose(mean, features.astype(float).mean(0), rtol=1e-12)
    assert inputs.shape == (69, 5) and (inputs[60:] > inputs[:9]).all()


def test_uncentred_and_untouched():
    features, _ = blobs()
    _, mean, scale = standardised(rows_of(features), None, standardize=True, centred=False)
    assert not mean.any()
    np.testing.assert_allclose(scale, features.astype(float).std(0), rtol=1e-10)
    inputs, mean, scale = standardised(rows_of(features), None, standardize=False, centred=True)
    assert np.array_equal(inputs, features) and not mean.any() and (scale == 1).all()


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_a_feature_that_does_not_vary_is_not_blown_up(noise):
    features, _ = blobs()
    features[:, 1] = 1000 + 1000 * noise * np.arange(60) / 60
    inputs, _, scale = standardised(rows_of(features), None, standardize=True, centred=True)
    assert scale[1] == 1.0 and np.abs(inputs[:, 1]).max() < 1e-3


def test_half_precision_is_standardised_in_double():
    features = np.full((3000, 1), 60000, np.float16)
    features[::2] = 50000
    _, mean, scale = standardised(rows_of(features), None, standardize=True, centred=True)
    assert mean[0] == pytest.approx((float(features[0, 0]) + float(features[1, 0])) / 2)
    assert scale[0] == pytest.approx((float(features[1, 0]) - float(features[0, 0])) / 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_features_that_are_not_finite(value):
    features, _ = blobs()
    features[3, 2] = value
    with pytest.raises(ValueError, match="rows of features are not finite.*no probe.*Extract them in float32"):
        standardised(rows_of(features), None, standardize=False, centred=True)


def test_folds_hold_the_classes_in_equal_shares():
    training = training_of(*blobs())
    splits = training.splits()
    assert len(splits) == 5 and sorted(np.concatenate([held for _, held in splits])) == list(range(60))
    for train, held in splits:
        assert np.bincount(training.targets[held]).tolist() == [4, 4, 4]
        assert sorted([*train, *held]) == list(range(60))


def test_many_rows_have_three_folds_unless_said():
    data = blobs(5000)
    assert len(training_of(*data).splits()) == 3 and len(training_of(*data, folds=4).splits()) == 4


def test_a_class_with_one_row_is_never_held_out():
    features, labels = blobs(31)
    labels[:] = np.arange(31) % 2
    labels[7] = 2
    for train, held in training_of(features, labels).splits():
        assert 7 in train and 7 not in held and len(train) + len(held) == 31


def test_one_row_of_each_class():
    assert training_of(np.eye(3, dtype=np.float32), np.arange(3)).splits() == []


def test_rows_of_a_group_stay_together():
    groups = np.repeat(np.arange(20), 3)
    for data in (blobs(), several(), values(60)):
        splits = training_of(*data, groups=groups).splits()
        assert len(splits) == 5
        for train, held in splits:
            assert not set(groups[train]) & set(groups[held])


def test_one_group_leaves_nothing_to_hold_out():
    assert training_of(*values(60), groups=np.zeros(60, int)).splits() == []


def test_rows_for_validation_are_the_split():
    training = training_of(*blobs(), validation=blobs(12, seed=3))
    ((train, held),) = training.splits()
    assert np.array_equal(train, np.arange(60)) and np.array_equal(held, np.arange(60, 72))
    assert training.validated and not training.leaves_one_out


def test_the_seed_decides():
    data = blobs()
    first, again, other = (training_of(*data, seed=seed).splits()[0][1] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_judgement_of_classes():
    logits = np.random.default_rng(0).standard_normal((20, 3)) * 5
    labels = np.arange(20) % 3
    score, loss = held_out_score(logits, labels, "classes")
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert score == np.mean(probabilities.argmax(1) == labels)
    assert loss == pytest.approx(log_loss(labels, probabilities))


def test_judgement_of_several_labels():
    logits, labels = (
        np.random.default_rng(0).standard_normal((20, 3)),
        np.random.default_rng(1).integers(0, 2, (20, 3)),
    )
    score, loss = held_out_score(logits, labels, "several")
    assert score == pytest.approx(f1_score(labels, logits > 0, average="micro"))
    probability = 1 / (1 + np.exp(-logits))
    assert loss == pytest.approx(-np.mean(np.where(labels, np.log(probability), np.log(1 - probability))))
    assert held_out_score(-np.ones((2, 2)), np.zeros((2, 2)), "several")[0] == 1.0


def test_the_best_mean_wins_then_the_lowest_loss_then_the_first():
    judged = [(1.0, (0.5, 1.0)), (1.0, (0.7, 1.0)), (2.0, (0.6, 0.5)), (2.0, (0.6, 0.5)), (3.0, (0.6, 0.5))]
    assert choose(judged, [1.0, 2.0, 3.0]) == (2.0, pytest.approx({1.0: 0.6, 2.0: 0.6, 3.0: 0.6}))
    assert choose([], [1.0, 2.0, 3.0]) == (2.0, {})


def test_targets_of_least_squares():
    assert training_of(np.eye(3, dtype=np.float32), np.arange(3)).table().tolist() == [
        [1, -1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
    ]
    features, labels = several(4)
    assert np.array_equal(training_of(features, labels).table(), np.where(labels, 1, -1))
