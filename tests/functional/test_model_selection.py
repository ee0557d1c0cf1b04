"""Each formula against naive loops in float64, values worked out by hand, and what a wrong sign would change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_transfer.functional.model_selection import (
    deep_embedded_validation,
    importance_weighted_validation,
    information_maximization,
    log_softmax,
    mixed_logit_agreement,
    mixing_partners,
    negative_entropy,
    probe_consistency,
    soft_neighborhood_density,
)


def softmax(row) -> list[float]:
    largest = max(row)
    powers = [math.exp(value - largest) for value in row]
    return [power / sum(powers) for power in powers]


def entropy(probabilities) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def logits(rows=12, classes=4, seed=0, scale=3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(rows, classes))


def naive_dev(errors, weights) -> float:
    count = len(errors)
    weighted = [w * e for w, e in zip(weights, errors, strict=True)]
    mean_weighted, mean = sum(weighted) / count, sum(weights) / count
    covariance = sum((a - mean_weighted) * (w - mean) for a, w in zip(weighted, weights, strict=True)) / (count - 1)
    variance = sum((w - mean) ** 2 for w in weights) / (count - 1)
    eta = -covariance / variance
    return -(mean_weighted + eta * mean - eta)


def naive_snd(values, temperature=0.05) -> float:
    rows = [softmax(row) for row in values]
    total = 0.0
    for i, one in enumerate(rows):
        similarities = []
        for j, other in enumerate(rows):
            if i != j:
                cosine = sum(a * b for a, b in zip(one, other, strict=True))
                cosine /= math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
                similarities.append(cosine / temperature)
        total += entropy(softmax(similarities))
    return total / len(rows)


# importance weights


def test_importance_weighted_error_by_hand():
    # (0.5 * 1 + 2 * 0 + 1 * 1) / 3
    assert importance_weighted_validation([1, 0, 1], [0.5, 2.0, 1.0]) == pytest.approx(-0.5)
    assert importance_weighted_validation([0, 0], [3.0, 4.0]) == 0


def test_fewer_errors_where_the_target_is_are_better():
    weights = [0.1, 1.9]
    assert importance_weighted_validation([1, 0], weights) > importance_weighted_validation([0, 1], weights)
    assert deep_embedded_validation([1, 0, 1, 0], [0.1, 1.9, 0.2, 1.8]) > deep_embedded_validation(
        [0, 1, 0, 1], [0.1, 1.9, 0.2, 1.8]
    )


def test_dev_by_hand():
    # w e = 0, 0, 1.5, 2: mean 0.875; covariance with w 0.46875, variance 0.3125: eta = -1.5; mean of w 1.25
    assert deep_embedded_validation([0, 0, 1, 1], [0.5, 1.0, 1.5, 2.0]) == pytest.approx(-(0.875 - 1.5 * 0.25))


@pytest.mark.parametrize("seed", range(5))
def test_dev_is_the_naive_formula(seed):
    generator = np.random.default_rng(seed)
    errors, weights = generator.integers(0, 2, 20).astype(float), generator.gamma(1.0, size=20)
    assert deep_embedded_validation(errors, weights) == pytest.approx(naive_dev(errors.tolist(), weights.tolist()))


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3] * 3, [2.0]])
def test_weights_that_do_not_vary_control_nothing(weights):
    errors = [1.0, 0.0, 1.0][: len(weights)]
    assert deep_embedded_validation(errors, weights) == pytest.approx(importance_weighted_validation(errors, weights))


def test_weights_whose_squares_overflow_give_a_number():
    assert math.isfinite(deep_embedded_validation([1, 0, 1], [1e300, 1e-300, 1e200]))
    assert deep_embedded_validation([1, 0], [0.0, 0.0]) == 0


def test_the_control_variate_keeps_the_expectation_and_lowers_the_variance():
    """Source N(0, 1), target N(1/2, 1), an error where x > 0: on the target with probability Phi(1/2)."""
    generator = np.random.default_rng(0)
    plain, controlled = [], []
    for _ in range(1500):
        x = generator.normal(size=300)
        weights = np.exp(0.5 * x - 0.125)
        errors = (x > 0).astype(float)
        plain.append(importance_weighted_validation(errors, weights))
        controlled.append(deep_embedded_validation(errors, weights))
    truth = -(1 + math.erf(0.5 / math.sqrt(2))) / 2
    assert np.mean(plain) == pytest.approx(truth, abs=0.004)
    assert np.mean(controlled) == pytest.approx(truth, abs=0.004)
    assert np.var(controlled) < 0.5 * np.var(plain)
    # the other sign of eta would raise it
    flipped = [2 * p - c for p, c in zip(plain, controlled, strict=True)]
    assert np.var(flipped) > 1.5 * np.var(plain)


@pytest.mark.parametrize("function", [importance_weighted_validation, deep_embedded_validation])
@pytest.mark.parametrize(("errors", "weights"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_rows_that_do_not_fit_are_refused(function, errors, weights):
    with pytest.raises(ValueError, match="each source row has one of each. Give two arrays"):
        function(errors, weights)


# predictions


def test_log_softmax_of_huge_logits_is_exact():
    np.testing.assert_allclose(np.exp(log_softmax(logits())), [softmax(row) for row in logits()], rtol=1e-12)
    assert log_softmax([[1e4, -1e4]]).tolist() == [[0.0, -2e4]]


def test_entropy_is_the_naive_one():
    expected = np.mean([entropy(softmax(row)) for row in logits()])
    assert negative_entropy(logits()) == pytest.approx(-expected)
    assert negative_entropy([[0.0] * 8]) == pytest.approx(-math.log(8))
    assert negative_entropy([[1e4, 0.0]]) == 0
    assert negative_entropy(logits(scale=5)) > negative_entropy(logits(scale=1))  # surer is higher


def test_information_maximization_is_the_naive_one():
    rows = [softmax(row) for row in logits()]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    expected = entropy(mean) - sum(map(entropy, rows)) / len(rows)
    assert information_maximization(logits()) == pytest.approx(expected)


def test_information_maximization_tells_collapse_from_certainty():
    assert information_maximization([[50.0, 0.0], [50.0, 0.0]]) == pytest.approx(0.0, abs=1e-12)
    assert information_maximization([[0.0, 0.0], [0.0, 0.0]]) == pytest.approx(0.0, abs=1e-12)
    assert information_maximization([[50.0, 0.0], [0.0, 50.0]]) == pytest.approx(math.log(2))
    assert information_maximization([[1.0, 3.0]]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("function", [negative_entropy, information_maximization, soft_neighborhood_density])
def test_logits_without_rows_or_classes_are_refused(function):
    for empty in (np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3)):
        with pytest.raises(ValueError, match="there is no prediction to look at. Give a row for each"):
            function(empty)


# soft neighbourhood density


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_snd_is_the_naive_double_loop(temperature):
    found = soft_neighborhood_density(logits(), temperature=temperature)
    assert found == pytest.approx(naive_snd(logits().tolist(), temperature))


def test_snd_in_blocks_is_the_naive_double_loop(monkeypatch):
    whole = soft_neighborhood_density(logits(23))
    monkeypatch.setattr("hf_transfer.functional.model_selection._BLOCK", 5)
    assert soft_neighborhood_density(logits(23)) == pytest.approx(whole, rel=1e-12)


def test_snd_of_equal_rows_is_log_of_the_others():
    for rows in (2, 3, 17):
        assert soft_neighborhood_density([[2.0, -1.0, 0.5]] * rows) == pytest.approx(math.log(rows - 1))


def test_snd_of_tight_clusters_counts_the_rows_of_a_cluster():
    tight = [[40.0, 0.0]] * 5 + [[0.0, 40.0]] * 5  # across clusters the cosine is 0: e^-20 of the weight
    assert soft_neighborhood_density(tight) == pytest.approx(math.log(4), abs=1e-5)
    split = [[40.0, 0.0, 0.0]] * 5 + [[0.0, 40.0, 0.0]] * 3 + [[0.0, 0.0, 40.0]] * 2
    assert soft_neighborhood_density(split) < soft_neighborhood_density(tight)


def test_snd_without_neighbours_is_zero_and_the_row_itself_is_none():
    assert soft_neighborhood_density([[1.0, 2.0]]) == 0
    # two rows are each other's only neighbour; with the row itself among them it would be above 0
    assert soft_neighborhood_density([[5.0, 0.0], [0.0, 5.0]]) == 0


def test_snd_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match="`temperature=0.0` is not positive.*such as 0.05"):
        soft_neighborhood_density([[1.0, 2.0]], temperature=0.0)


# mixtures


def test_partners_are_others_of_the_same_and_of_another_class():
    classes = np.array([0, 1, 0, 2, 1, 0, 0])
    seen = set()
    for seed in range(40):
        same, other = mixing_partners(classes, np.random.default_rng(seed))
        for row, own in enumerate(classes):
            if own == 2:
                assert same[row] == -1
            else:
                assert same[row] != row and classes[same[row]] == own
            assert classes[other[row]] != own
        seen |= {(0, int(same[0])), (1, int(other[0]))}
    assert seen == {(0, 2), (0, 5), (0, 6), (1, 1), (1, 3), (1, 4)}


def test_one_class_has_no_partner_of_another():
    same, other = mixing_partners([3, 3], np.random.default_rng(0))
    assert same.tolist() == [1, 0] and other.tolist() == [-1, -1]
    assert mixed_logit_agreement([[0.0, 1.0], [0.0, 2.0]], other) == 0
    assert [part.tolist() for part in mixing_partners([0], np.random.default_rng(0))] == [[-1], [-1]]


def test_mixtures_by_hand():
    rows = [[2.0, 0.0], [0.0, 3.0], [0.0, 0.1]]
    # 0.55 * 2 < 0.45 * 3; 0.55 * 3 > 0.45 * 2; 0.55 * 0.1 < 0.45 * 2
    assert mixed_logit_agreement(rows, [1, 0, 0]) == pytest.approx(1 / 3)
    assert mixed_logit_agreement(rows, [1, 0, -1]) == pytest.approx(1 / 2)
    assert mixed_logit_agreement(rows, [1, 0, 0], share=0.99) == 1.0


def test_mixtures_of_one_class_are_of_that_class_before_a_linear_head():
    values = logits(200)
    same, other = mixing_partners(values.argmax(1), np.random.default_rng(0))
    assert mixed_logit_agreement(values, same) == 1.0
    assert 0.3 < mixed_logit_agreement(values, other) < 0.95


def test_predictions_with_a_margin_agree_more():
    near, far = logits(300, 2, scale=0.1), logits(300, 2, scale=0.1)
    far += 2 * (2 * np.eye(2)[far.argmax(1)] - 1)
    other = mixing_partners(near.argmax(1), np.random.default_rng(0))[1]
    assert mixed_logit_agreement(far, other) > 0.99 > mixed_logit_agreement(near, other) + 0.2


# reverse validation


def blobs(centres, rows=40, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % len(centres)
    return np.asarray(centres, float)[labels] + 0.3 * generator.normal(size=(rows, len(centres[0]))), labels


def test_what_is_learned_from_right_classes_is_right_on_the_source():
    target, classes = blobs([[0, 0], [3, 3]])
    source, labels = blobs([[0.2, 0.1], [2.8, 3.1]], seed=1)
    assert probe_consistency(target, classes, source, labels) == 1.0
    assert probe_consistency(target, 1 - classes, source, labels) == 0.0
    half = np.where(np.arange(40) < 20, classes, 1 - classes)
    assert probe_consistency(target, half, source, labels) < 1.0


def test_classes_that_never_occur_on_the_target_are_errors():
    target, classes = blobs([[0, 0], [3, 3]])
    source, labels = blobs([[0, 0], [3, 3], [0, 3]], rows=30, seed=1)
    assert probe_consistency(target, classes, source, labels) == pytest.approx(2 / 3)


def test_a_collapsed_target_answers_its_one_class():
    source, labels = blobs([[0, 0], [3, 3], [6, 0]], rows=30)
    assert probe_consistency(source, np.full(30, 2), source, labels) == pytest.approx(1 / 3)
    assert probe_consistency([[1.0]], [0], [[1.0]], [1]) == 0.0


def test_features_that_do_not_vary_give_a_number():
    found = probe_consistency(np.ones((6, 2)), [0, 1, 0, 0, 0, 1], np.ones((3, 2)), [0, 0, 1])
    assert found == pytest.approx(2 / 3)
