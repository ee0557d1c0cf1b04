"""What a probe answers, against the numbers it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.features import fit_probe
from hf_transfer.features.probes import probe as module
from tests.features.probes.data import blobs, several, values


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_one_linear_layer_on_the_features_as_they_are(kind, intercept):
    features, labels = blobs()
    probe = fit_probe(features, labels, kind=kind, strengths=[0.1], intercept=intercept)
    weight, bias = probe.linear()
    assert weight.dtype == bias.dtype == np.float64 and bias.any() == intercept
    np.testing.assert_allclose(features @ weight.T + bias, probe.logits(features), atol=1e-9)


def test_logits_in_blocks(monkeypatch):
    for kind in ("ridge", "knn"):
        probe = fit_probe(*blobs(), kind=kind)
        whole = probe.logits(blobs()[0])
        with monkeypatch.context() as patch:
            patch.setattr(module, "_BLOCK", 7)
            np.testing.assert_allclose(probe.logits(blobs()[0]), whole, rtol=1e-12)
        assert probe.logits(np.zeros((0, 5))).shape == (0, 3)


def test_probabilities_and_answers():
    features, labels = blobs()
    probe = fit_probe(features, labels)
    logits = torch.from_numpy(probe.logits(features))
    np.testing.assert_allclose(probe.probabilities(features), logits.softmax(1), rtol=1e-9)
    assert np.array_equal(probe.predict(torch.from_numpy(features)), logits.argmax(1))
    features, labels = several()
    probe = fit_probe(features, labels)
    logits = torch.from_numpy(probe.logits(features))
    np.testing.assert_allclose(probe.probabilities(features), logits.sigmoid(), rtol=1e-9)
    assert np.array_equal(probe.predict(features), (logits > 0).long())


def test_extreme_logits_have_finite_probabilities():
    features, labels = blobs()
    probe = fit_probe(features, labels)
    assert np.isfinite(probe.probabilities(features * 1e6)).all()


def test_values_have_no_probabilities():
    features, labels = values()
    probe = fit_probe(features, labels, kind="ridge")
    np.testing.assert_array_equal(probe.predict(features), probe.logits(features))
    with pytest.raises(ValueError, match="values, no probabilities.*Call `predict`"):
        probe.probabilities(features)


def test_scores_count_labelled_rows():
    features, labels = blobs()
    probe = fit_probe(features, labels)
    wrong = (probe.predict(features) + 1) % 3
    wrong[:40] = -100
    assert probe.score(features, wrong) == {"accuracy": 0.0, "macro_f1": 0.0}


def test_names_are_told_apart_by_name():
    features, labels = blobs()
    names = np.array(["ant", "bee", "fly"])
    probe = fit_probe(features, names[labels])
    assert probe.label_names == ("ant", "bee", "fly")
    some = labels != 0
    assert probe.score(features[some], names[labels[some]])["accuracy"] > 0.8


@pytest.mark.parametrize("kind", ["knn", "mlp"])
def test_kinds_that_are_not_linear(kind):
    options = {"epochs": 1} if kind == "mlp" else {}
    probe = fit_probe(*blobs(), kind=kind, **options)
    assert not probe.is_linear
    with pytest.raises(ValueError, match=f"`{kind}` is not linear.*logistic, ridge, nearest_class_mean"):
        probe.linear()


def test_features_of_another_width():
    probe = fit_probe(*blobs())
    with pytest.raises(ValueError, match="width 4, the probe was fitted to width 5.*another model.*Extract them"):
        probe.logits(np.ones((2, 4)))


def test_labels_of_another_task():
    features, labels = blobs()
    probe = fit_probe(features, labels)
    with pytest.raises(ValueError, match="of 4 classes or values, the probe of 3.*never saw"):
        probe.score(features, [*labels[1:], 3])
    features, labels = several()
    with pytest.raises(ValueError, match="of 2 classes or values, the probe of 3"):
        fit_probe(features, labels).score(features, labels[:, :2])


def test_its_description_is_short():
    assert len(repr(fit_probe(*blobs(), strengths=[1.0]))) < 200
