"""Every kind on every kind of labels, the choice by given rows, and what is refused."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_transfer.features import fit_probe
from tests.features.probes.data import blobs, several, values


KINDS = ["logistic", "ridge", "nearest_class_mean", "knn", "mlp"]
SMALL = {"mlp": {"hidden_size": 32, "epochs": 40}, "logistic": {"strengths": [0.01, 1.0]}}


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_told_apart(kind):
    features, labels = blobs(150)
    probe = fit_probe(features[:100], labels[:100], kind=kind)
    assert (probe.kind, probe.task, probe.rows, probe.classes) == (kind, "single_label", 100, 3)
    assert probe.score(features[100:], labels[100:])["accuracy"] > 0.85
    probabilities = probe.probabilities(features[100:])
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert np.array_equal(probabilities.argmax(1), probe.predict(features[100:]))


@pytest.mark.parametrize("kind", ["logistic", "ridge", "knn", "mlp"])
def test_several_labels_are_told(kind):
    features, labels = several(300)
    probe = fit_probe(features[:200], labels[:200], kind=kind)
    scores = probe.score(features[200:], labels[200:])
    assert probe.task == "multi_label" and scores["micro_f1"] > 0.7 and scores["exact_match"] > 0.3
    answers = probe.probabilities(features[200:]) > 0.5
    assert np.array_equal(answers, probe.predict(features[200:]))


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("kind", ["ridge", "knn", "mlp"])
def test_values_are_predicted(kind, targets):
    features, labels = values(300, targets=targets)
    given = labels[:, 0] if targets == 1 else labels
    probe = fit_probe(features[:200], given[:200], kind=kind)
    scores = probe.score(features[200:], given[200:])
    assert probe.task == "regression" and scores["r2"] > 0.6 and ("pearson" in scores) == (targets == 1)
    assert probe.predict(features[200:]).shape == (100, targets)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_call_gives_the_same_probe(kind):
    features, labels = blobs(spread=2.0)
    first, again = (fit_probe(features, labels, kind=kind, **SMALL.get(kind, {})) for _ in range(2))
    assert first.strength == again.strength and first.scores == again.scores
    assert np.array_equal(first.logits(features), again.logits(features))


@pytest.mark.parametrize("kind", KINDS)
def test_given_rows_decide(kind):
    """Where the rows for validation are labelled at random nothing can score well."""
    features, labels = blobs(200)
    options = {"nearest_class_mean": {"shrinkages": (1.0, 0.5)}, **SMALL}.get(kind, {})
    data = features[:100], labels[:100]
    good = fit_probe(*data, kind=kind, validation=(features[100:], labels[100:]), **options)
    shuffled = np.random.default_rng(0).permutation(labels[100:])
    bad = fit_probe(*data, kind=kind, validation=(features[100:], shuffled), **options)
    assert good.rows == 100 and max(good.scores.values()) > 0.85 > 0.6 > max(bad.scores.values())
    np.testing.assert_array_equal(good.mean, features[:100].astype(float).mean(0))


def test_features_of_a_data_set():
    features, labels = blobs()
    kinds = Features({"features": List(Value("float32"), length=5), "labels": ClassLabel(names=["a", "b", "c"])})
    dataset = Dataset.from_dict({"features": features.tolist(), "labels": labels.tolist()}, features=kinds)
    other = kinds.copy()
    other["labels"] = ClassLabel(names=["c", "a", "b"])
    renumbered = Dataset.from_dict(
        {"features": features.tolist(), "labels": ((labels + 1) % 3).tolist()}, features=other
    )
    probe = fit_probe(dataset, kind="ridge", validation=renumbered)
    assert probe.label_names == ("a", "b", "c")
    assert probe.score(dataset) == probe.score(renumbered) == probe.score(features, labels)
    assert max(probe.scores.values()) > 0.85
    same = fit_probe(features, labels, kind="ridge", strengths=[probe.strength])
    np.testing.assert_array_equal(probe.logits(dataset), same.logits(features))


def test_tokens_are_held_out_by_example():
    """All tokens of an example are alike, and their label is chance: only by peeking it is told."""
    generator = np.random.default_rng(0)
    features = [np.repeat(generator.standard_normal((1, 4)), 5, axis=0) for _ in range(30)]
    labels = [[int(generator.integers(2))] * 5 for _ in range(30)]
    probe = fit_probe(features, labels, kind="knn", neighbours=[1, 3])
    assert probe.task == "token" and max(probe.scores.values()) < 0.8
    assert probe.rows == 150 and probe.logits(features).shape == (150, 2)


@pytest.mark.parametrize("kind", ["logistic", "ridge", "knn", "mlp"])
def test_fewer_rows_than_features_and_a_constant_one(kind):
    features, labels = blobs(9, width=40)
    features[:, 7] = 3.0
    probe = fit_probe(features, labels, kind=kind)
    assert probe.score(features, labels)["accuracy"] > 0.8 and np.isfinite(probe.logits(features)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_of_each_class(kind):
    features = np.eye(3, 5) + 0.01
    probe = fit_probe(features, [0, 1, 2], kind=kind)
    assert probe.score(features, [0, 1, 2])["accuracy"] == 1.0 or kind == "knn"


@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_rows_are_left_out(kind):
    features, labels = blobs()
    more = np.concatenate([features, 1e6 * np.ones((5, 5), np.float32)])
    options = SMALL.get(kind, {})
    probe = fit_probe(more, [*labels, *[-100] * 5], kind=kind, **options)
    assert probe.rows == 60
    same = fit_probe(features, labels, kind=kind, **options)
    np.testing.assert_array_equal(probe.logits(features), same.logits(features))


def test_scale_of_the_features_does_not_matter():
    features, labels = blobs()
    for kind in ("logistic", "ridge"):
        first = fit_probe(features, labels, kind=kind, strengths=[0.1])
        other = fit_probe(features * 1000 + 5, labels, kind=kind, strengths=[0.1])
        np.testing.assert_allclose(first.logits(features), other.logits(features * 1000 + 5), atol=2e-3)
        plain = fit_probe(features * 1000, labels, kind=kind, strengths=[0.1], standardize=False)
        assert np.abs(plain.logits(features * 1000) - first.logits(features)).max() > 1e-2


REFUSED = {
    "kind": ({"kind": "svm"}, "no probe of the kind `svm`.*logistic, ridge, nearest_class_mean, knn, mlp"),
    "option": ({"kind": "ridge", "neighbours": [3]}, "`ridge` has no neighbours.*no effect.*strengths; leave"),
    "nothing": ({"strengths": []}, r"`strengths=\[\]` is nothing to choose from.*above 0.*default"),
    "strength": ({"strengths": [0.0]}, r"`strengths=\[0.0\]`.*out of its range"),
    "shrinkage": ({"kind": "nearest_class_mean", "shrinkages": [2.0]}, "between 0 and 1"),
    "size": ({"kind": "mlp", "hidden_size": 0}, "`hidden_size=0`.*above 0"),
    "metric": ({"kind": "knn", "metrics": ["cosin"]}, "metric `cosin`.*cosine, euclidean"),
    "folds": ({"folds": 1}, "`folds=1` holds nothing out.*at least 2"),
    "width": ({"validation": (np.ones((3, 2)), [0, 1, 2])}, "width 2, the others of 5.*Extract both alike"),
    "intercept": ({"kind": "nearest_class_mean", "intercept": False}, "needs a constant term.*logistic"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        fit_probe(*blobs(), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_one_class(kind):
    with pytest.raises(ValueError, match="All 60 labelled rows are of one class.*Give rows of every class"):
        fit_probe(blobs()[0], [1] * 60, kind=kind)


def test_kinds_that_do_not_fit_the_labels():
    with pytest.raises(ValueError, match='real values, and a logistic regression.*`kind="ridge"`'):
        fit_probe(*values())
    with pytest.raises(ValueError, match='needs rows of one class each.*`kind="ridge"`'):
        fit_probe(*values(), kind="nearest_class_mean")
    with pytest.raises(ValueError, match='needs rows of one class each.*`kind="logistic"`'):
        fit_probe(*several(), kind="nearest_class_mean")


def test_validation_with_other_targets():
    features, labels = values()
    with pytest.raises(ValueError, match=r"validation have \(1,\) labels each, the others \(2,\).*same data set"):
        fit_probe(features, labels, kind="ridge", validation=(features, labels[:, 0]))


def test_without_scikit_learn(monkeypatch):
    original = builtins.__import__

    def importing(name, *args):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ImportError, match="scikit-learn, which is not installed.*pip install"):
        fit_probe(*blobs())
