"""TrAdaBoost: three rounds by hand, and what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from datasets import Dataset
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from hf_transfer.features.reweighting import tradaboost


class Scripted(ClassifierMixin, BaseEstimator):
    """Answers what it is told, round by round, and keeps the weights it was given."""

    answers: list = []
    given: list = []

    def fit(self, inputs, labels, sample_weight=None):
        Scripted.given.append(sample_weight / sample_weight.sum())
        self.round = len(Scripted.given) - 1
        return self

    def predict(self, inputs):
        return np.array([Scripted.answers[self.round][int(row[0])] for row in inputs])


def scripted(answers):
    Scripted.answers, Scripted.given = answers, []
    return Scripted()


def test_three_rounds_by_hand():
    """Four source rows 0 to 3, four target rows 4 to 7, all of class 0; each round is told whom to get wrong."""
    rows = np.arange(8.0)[:, None]
    labels = [0, 0, 0, 1, 0, 0, 0, 1]
    wrong = [{0, 4}, {0, 1, 5}, {2, 4}]
    answers = [[1 - label if i in errs else label for i, label in enumerate(labels)] for errs in wrong]
    boosted = tradaboost(rows[:4], rows[4:], labels[:4], labels[4:], rounds=3, estimator=scripted(answers))
    shrink = 1 / (1 + math.sqrt(2 * math.log(4) / 3))
    weights, errors, betas = [1.0] * 8, [], []
    for number, errs in enumerate(wrong):
        total = sum(weights)
        np.testing.assert_allclose(Scripted.given[number], [w / total for w in weights])
        error = sum(weights[i] for i in errs if i >= 4) / sum(weights[4:])
        beta = error / (1 - error)
        for i in errs:
            weights[i] *= shrink if i < 4 else 1 / beta
        errors.append(error)
        betas.append(beta)
    np.testing.assert_allclose(boosted.errors, errors)
    np.testing.assert_allclose(boosted.betas, betas)
    np.testing.assert_allclose(boosted.source_weights, np.array(weights[:4]) / np.mean(weights[:4]))
    np.testing.assert_allclose(boosted.target_weights, np.array(weights[4:]) / np.mean(weights[4:]))
    # rounds 2 and 3 vote; where they differ, the smaller error wins
    for i in range(8):
        votes = [0.0, 0.0]
        for number in (1, 2):
            votes[answers[number][i]] += math.log(1 / betas[number])
        assert boosted.predict(rows)[i] == int(votes[1] > votes[0])


def test_source_rows_that_mislead_lose_their_weight():
    generator = np.random.default_rng(0)
    source, target, test = (generator.normal(size=(rows, 2)) for rows in (120, 20, 200))
    labels, target_labels, truth = ((rows[:, 0] > 0).astype(int) for rows in (source, target, test))
    labels[:60] = source[:60, 1] > 0  # half of the source answers another question
    boosted = tradaboost(source, target, labels, target_labels, rounds=20)
    misled = labels != (source[:, 0] > 0)
    assert boosted.source_weights.mean() == pytest.approx(1)
    assert boosted.source_weights[misled].mean() < boosted.source_weights[~misled].mean() / 5
    assert (boosted.predict(test) == truth).mean() > 0.9


def test_more_than_two_classes_and_another_estimator():
    generator = np.random.default_rng(0)
    labels, target_labels = np.arange(90) % 3, np.arange(30) % 3
    source = np.eye(3)[labels] + 0.3 * generator.normal(size=(90, 3))
    target = np.eye(3)[target_labels] + 0.3 * generator.normal(size=(30, 3))
    labels[:20] = (labels[:20] + 1) % 3
    boosted = tradaboost(source, target, labels, target_labels, estimator=DecisionTreeClassifier(max_depth=2))
    assert boosted.source_weights[:20].mean() < 0.5 * boosted.source_weights[20:].mean()
    assert (boosted.predict(target) == target_labels).mean() > 0.85
    for error, beta in zip(boosted.errors, boosted.betas, strict=True):
        assert beta == pytest.approx(max(error, 1e-10) / (2 * (1 - error)))


def test_rounds_without_an_error_go_on_and_a_round_no_better_than_chance_ends():
    rows, labels = np.arange(4.0)[:, None], [0, 1, 0, 1]
    perfect = tradaboost(rows[:2], rows[2:], labels[:2], labels[2:], rounds=4, estimator=scripted([labels] * 4))
    assert perfect.errors == (0.0,) * 4 and perfect.predict(rows).tolist() == labels
    flipped = [1, 0, 1, 0]
    once = tradaboost(
        rows[:2], rows[2:], labels[:2], labels[2:], rounds=4, estimator=scripted([labels, flipped, labels])
    )
    assert once.errors == (0.0,)
    never = tradaboost(rows[:2], rows[2:], labels[:2], labels[2:], rounds=4, estimator=scripted([flipped]))
    assert never.errors == (1.0,) and never.source_weights.tolist() == [1, 1]
    assert np.isfinite(never.predict(rows)).all()


def test_data_sets_and_rows_without_a_label():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(30, 2))
    labels = (features[:, 0] > 0).astype(int)
    labels[[3, 7]] = -100
    source = Dataset.from_dict({"features": features.tolist(), "labels": labels.tolist()})
    boosted = tradaboost(source, source.select(range(10)), rounds=2)
    assert boosted.source_weights.shape == (30,) and boosted.source_weights[[3, 7]].tolist() == [1, 1]
    assert boosted.target_weights.shape == (10,) and boosted.predict(source).shape == (30,)


def test_what_is_refused():
    rows = np.zeros((4, 1))
    with pytest.raises(ValueError, match="`rounds=0`: no classifier would be fitted. Give 1 or more"):
        tradaboost(rows, rows, [0, 1, 0, 1], [0, 1, 0, 1], rounds=0)
    with pytest.raises(ValueError, match="All labelled rows are of class 1.*nothing to boost.*every class"):
        tradaboost(rows, rows, [1] * 4, [1] * 4)
    with pytest.raises(ValueError, match="task `regression`.*one class. Give class numbers"):
        tradaboost(rows, rows, [0.5] * 4, [0.5] * 4)
    with pytest.raises(TypeError, match="KNeighborsClassifier takes no `sample_weight`.*same classifier.*Decision"):
        tradaboost(rows, rows, [0, 1] * 2, [0, 1] * 2, estimator=KNeighborsClassifier())
