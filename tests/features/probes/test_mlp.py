"""The network: its logits are scikit-learn's, it stops where it is best, and it learns what is not linear."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor

from hf_transfer.features.probes.mlp import fit_mlp, mlp_logits
from tests.features.probes.data import blobs, several, training_of, values


OPTIONS = {"hidden_size": 16, "epochs": 30, "patience": 10}


@pytest.mark.parametrize("classes", [2, 3])
def test_one_pass_is_one_of_scikit_learn(classes):
    training = training_of(*blobs(classes=classes), validation=blobs(20, classes=classes, seed=2))
    fitted = fit_mlp(training, [100.0], hidden_size=16, epochs=1, patience=1)
    network = MLPClassifier(hidden_layer_sizes=(16,), alpha=0.01, random_state=0)
    network.partial_fit(training.inputs[:60], training.targets[:60], classes=np.arange(classes))
    logits = mlp_logits(fitted.arrays, training.inputs.astype(float))
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    found = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(found, network.predict_proba(training.inputs), atol=1e-5)
    assert fitted.scores == {100.0: pytest.approx(network.score(training.inputs[60:], training.targets[60:]))}


def test_several_labels():
    training = training_of(*several(), validation=several(20, seed=2))
    fitted = fit_mlp(training, [1e4], hidden_size=16, epochs=1, patience=1)
    network = MLPClassifier(hidden_layer_sizes=(16,), alpha=1e-4, random_state=0)
    network.partial_fit(training.inputs[:60], training.targets[:60].astype(int), classes=np.arange(3))
    found = 1 / (1 + np.exp(-mlp_logits(fitted.arrays, training.inputs.astype(float))))
    np.testing.assert_allclose(found, network.predict_proba(training.inputs), atol=1e-5)


def test_a_single_label_of_yes_or_no():
    features, labels = several(classes=1)
    fitted = fit_mlp(training_of(features, labels), [1e4], **OPTIONS)
    assert mlp_logits(fitted.arrays, features.astype(float)).shape == (60, 1)
    assert fitted.scores[1e4] > 0.5


@pytest.mark.parametrize("targets", [1, 2])
def test_values_are_learned_at_deviation_one(targets):
    features, labels = values(targets=targets)
    labels = 1000 + 100 * labels
    training = training_of(features, labels, validation=(features[:5], labels[:5]))
    fitted = fit_mlp(training, [1e4], hidden_size=16, epochs=1, patience=1)
    network = MLPRegressor(hidden_layer_sizes=(16,), alpha=1e-4, random_state=0)
    scaled = ((labels - labels.mean(0)) / labels.std(0)).astype(np.float32)
    network.partial_fit(training.inputs[:40], scaled[:, 0] if targets == 1 else scaled)
    expected = network.predict(training.inputs).reshape(45, targets) * labels.std(0) + labels.mean(0)
    np.testing.assert_allclose(mlp_logits(fitted.arrays, training.inputs.astype(float)), expected, rtol=1e-5)


def test_the_best_pass_is_kept():
    """Labels of the rows to fit to are random: those held out get worse from the start."""
    features, labels = blobs(200)
    training = training_of(features, np.random.default_rng(0).permutation(labels), validation=(features, labels))
    few, many = (fit_mlp(training, [1e4], hidden_size=16, epochs=n, patience=200) for n in (3, 60))
    assert many.scores[1e4] >= few.scores[1e4]
    answers = mlp_logits(many.arrays, training.inputs[200:].astype(float)).argmax(1)
    assert np.mean(answers == labels) == pytest.approx(many.scores[1e4])


def test_patience(monkeypatch):
    passes = []
    original = MLPClassifier.partial_fit

    def counted(self, *args, **options):
        passes.append(1)
        return original(self, *args, **options)

    monkeypatch.setattr(MLPClassifier, "partial_fit", counted)
    features, labels = blobs(60)
    training = training_of(features, labels, validation=(features, (labels + 1) % 3))  # it only ever gets worse
    fit_mlp(training, [1e4], hidden_size=64, epochs=100, patience=4)
    assert len(passes) < 40


def test_what_is_not_linear():
    generator = np.random.default_rng(0)
    features = generator.standard_normal((400, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(int)
    fitted = fit_mlp(training_of(features, labels), [1e4], hidden_size=64, epochs=200, patience=20)
    answers = mlp_logits(fitted.arrays, training_of(features, labels).inputs.astype(float)).argmax(1)
    assert np.mean(answers == labels) > 0.9


def test_the_same_seed_is_the_same_network():
    first, again, other = (
        fit_mlp(training_of(*blobs(), seed=seed), [1e4], **OPTIONS).arrays["weight"] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_one_row_of_each_class_and_a_class_without_rows():
    training = training_of(np.eye(3, dtype=np.float32), np.array([0, 1, 3]), classes=4)
    fitted = fit_mlp(training, [1.0, 1e4], hidden_size=16, epochs=80, patience=5)
    assert fitted.scores == {}
    assert mlp_logits(fitted.arrays, training.inputs.astype(float)).argmax(1).tolist() == [0, 1, 3]


def test_weight_decay_is_chosen_by_held_out_rows():
    fitted = fit_mlp(training_of(*blobs(spread=2.0)), [1e4, 1e-3], **OPTIONS)
    assert list(fitted.scores) == [1e-3, 1e4] and fitted.scores[fitted.strength] == max(fitted.scores.values())
