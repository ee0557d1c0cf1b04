"""Ridge regression against normal equations and fits that leave each row out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV

from hf_transfer.features.probes.ridge import RIDGE_STRENGTHS, fit_ridge
from tests.features.probes.data import blobs, several, training_of, values


def normal_equations(inputs, targets, strength, intercept):
    """Solved with a column of ones that is not penalised."""
    penalty = np.eye(inputs.shape[1]) / strength
    if intercept:
        inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)
        penalty = np.pad(penalty, (0, 1))
    solution = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets).T
    return (solution[:, :-1], solution[:, -1]) if intercept else (solution, np.zeros(len(solution)))


DATA = {
    "values": values,
    "classes": blobs,
    "several": several,
    "fewer rows than features": lambda: values(rows=8, width=20),
    "fewer rows than features, classes": lambda: blobs(rows=9, width=20),
}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_normal_equations(name, intercept):
    training = training_of(*DATA[name](), intercept=intercept)
    arrays = fit_ridge(training, [0.2]).arrays
    weight, bias = normal_equations(training.inputs.astype(float), training.table(), 0.2, intercept)
    np.testing.assert_allclose(arrays["weight"], weight, atol=1e-8)
    np.testing.assert_allclose(arrays["bias"], bias, atol=1e-8)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_scores_are_those_of_fits_without_each_row(name, intercept):
    training = training_of(*DATA[name](), intercept=intercept)
    fitted = fit_ridge(training, [0.01, 1.0])
    inputs, table = training.inputs.astype(float), training.table()
    for strength, score in fitted.scores.items():
        guesses = np.empty_like(table)
        for row in range(len(inputs)):
            others = np.arange(len(inputs)) != row
            weight, bias = normal_equations(inputs[others], table[others], strength, intercept)
            guesses[row] = weight @ inputs[row] + bias
        if training.labels == "classes":
            expected = np.mean(guesses.argmax(1) == training.targets)
        elif training.labels == "values":
            expected = -np.mean((guesses - table) ** 2)
        else:
            right = ((guesses > 0) & (table > 0)).sum()
            expected = 2 * right / ((guesses > 0).sum() + (table > 0).sum())
        assert score == pytest.approx(expected, rel=1e-6)


def test_the_choice_is_that_of_scikit_learn():
    training = training_of(*values(rows=30, width=12, targets=1))
    fitted = fit_ridge(training, RIDGE_STRENGTHS)
    search = RidgeCV(alphas=[1 / strength for strength in RIDGE_STRENGTHS])
    search.fit(training.inputs.astype(float), training.targets[:, 0])
    assert 1 / fitted.strength == pytest.approx(search.alpha_)
    assert fitted.scores[fitted.strength] == pytest.approx(search.best_score_)


@pytest.mark.parametrize("options", [{"folds": 3}, {"groups": np.repeat(np.arange(20), 3)}], ids=["folds", "groups"])
def test_scores_of_folds(options):
    training = training_of(*blobs(), **options)
    scores = fit_ridge(training, [0.01, 1.0]).scores
    inputs, table = training.inputs.astype(float), training.table()
    for strength, score in scores.items():
        found = []
        for train, held in training.splits():
            weight, bias = normal_equations(inputs[train], table[train], strength, True)
            found.append(np.mean((inputs[held] @ weight.T + bias).argmax(1) == training.targets[held]))
        assert score == pytest.approx(np.mean(found))


def test_scores_of_given_rows():
    training = training_of(*blobs(), validation=blobs(30, seed=5))
    fitted = fit_ridge(training, [0.01, 1.0])
    inputs, table = training.inputs.astype(float), training.table()
    for strength, score in fitted.scores.items():
        weight, bias = normal_equations(inputs[:60], table[:60], strength, True)
        assert score == pytest.approx(np.mean((inputs[60:] @ weight.T + bias).argmax(1) == training.targets[60:]))
    weight, _ = normal_equations(inputs[:60], table[:60], fitted.strength, True)
    np.testing.assert_allclose(fitted.arrays["weight"], weight, atol=1e-8)


def test_equal_features_share_a_weight():
    features, targets = values()
    features[:, 1] = features[:, 0]
    weight = fit_ridge(training_of(features, targets), [1.0]).arrays["weight"]
    np.testing.assert_allclose(weight[:, 0], weight[:, 1], atol=1e-9)


def test_a_feature_that_does_not_vary_has_no_weight():
    features, targets = values()
    features[:, 2] = 7
    assert np.abs(fit_ridge(training_of(features, targets), [1.0]).arrays["weight"][:, 2]).max() < 1e-9
