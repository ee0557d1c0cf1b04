"""GBC against a loop over pairs, the closed form of two Gaussians, and a numerical integral."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.decomposition import PCA

import hf_transfer.functional.class_overlap as module
from hf_transfer.functional.class_overlap import gbc
from tests.functional.labelled_features import DEGENERATE, made, rotation, scaled_columns, shuffled


def naive(features, labels, components=64, spherical=False):
    """scikit-learn's components, then loops over ordered pairs of classes and over components."""
    number = min(components, *features.shape)
    projected = PCA(number, svd_solver="full").fit_transform(features)
    projected = projected[:, projected.var(0) > 1e-12 * projected.var(0).sum()]
    classes = sorted(set(labels.tolist()))
    width, rows = projected.shape[1], len(projected)
    means = {c: projected[labels == c].mean(0) for c in classes}
    squares = {c: ((projected[labels == c] - means[c]) ** 2).sum(0) for c in classes}
    total = projected.var(0)
    pooled = sum(squares.values()) / (rows - len(classes)) if rows > len(classes) else total
    variances = {}
    for c in classes:
        found = (squares[c] + pooled) / (labels == c).sum()
        found = np.full(width, found.mean()) if spherical else found
        variances[c] = np.maximum(found, 1e-4 * total.mean())
    score = 0.0
    for i in classes:
        for j in classes:
            if i != j:
                distance = 0.0
                for d in range(width):
                    middle = (variances[i][d] + variances[j][d]) / 2
                    distance += (means[i][d] - means[j][d]) ** 2 / middle / 8
                    distance += np.log(middle / np.sqrt(variances[i][d] * variances[j][d])) / 2
                score -= np.exp(-distance)
    return score


@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 5, 3), (12, 30, 4), (31, 4, 2), (200, 90, 5)])
@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
@pytest.mark.parametrize("components", [64, 2])
def test_score_is_that_of_a_loop_over_pairs(rows, width, classes, covariance, components):
    features, labels = made(rows=rows, width=width, classes=classes, apart=0.5)
    expected = naive(features, labels, components, covariance == "spherical")
    found = gbc(features, labels, components=components, covariance=covariance)
    assert found == pytest.approx(expected, rel=1e-7)


def test_coefficient_is_the_integral_of_the_root_of_both_densities():
    generator = np.random.default_rng(0)
    features = np.concatenate([generator.normal(0, 1, 4000), generator.normal(2, 0.5, 4000)])[:, None]
    labels = np.repeat([0, 1], 4000)
    parts = [norm.fit(features[labels == c, 0]) for c in range(2)]
    integral = quad(lambda x: np.sqrt(norm.pdf(x, *parts[0]) * norm.pdf(x, *parts[1])), -10, 10)[0]
    assert gbc(features, labels) == pytest.approx(-2 * integral, rel=1e-3)  # both orders; the pooled row is 1 of 4000


def test_range_is_from_all_pairs_to_none():
    same = np.tile(np.random.default_rng(0).standard_normal((10, 3)), (4, 1))
    assert gbc(same, np.repeat(np.arange(4), 10)) == pytest.approx(-12.0)
    apart, labels = made(apart=0.0)
    far = apart + 1000.0 * labels[:, None]
    assert -1e-6 < gbc(far, labels) <= 0


def test_classes_that_hardly_overlap_can_still_be_ranked():
    features = np.concatenate([np.linspace(-1, 1, 20), np.linspace(-1, 1, 20)])[:, None]
    labels = np.repeat([0, 1], 20)
    scores = [gbc(features + distance * labels[:, None], labels) for distance in (13.0, 15.0)]
    assert -1e-16 < scores[0] < scores[1] < 0  # smaller than what rounding leaves of one


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
@pytest.mark.parametrize(("rows", "width"), [(60, 5), (8, 20)])
def test_shift_scale_rotation_and_order_of_rows_change_nothing(covariance, rows, width):
    features, labels = made(rows=rows, width=width)
    expected, order = gbc(features, labels, covariance=covariance), np.random.default_rng(0).permutation(rows)
    for same in (features + 100, 1e-5 * features, 1e5 * features, features @ rotation(width)):
        assert gbc(same, labels, covariance=covariance) == pytest.approx(expected, rel=1e-6)
    assert gbc(features[order], labels[order], covariance=covariance) == pytest.approx(expected, rel=1e-9)


def test_scales_of_single_columns_do_change_it():
    features, labels = made()
    assert abs(gbc(scaled_columns(features), labels) - gbc(features, labels)) > 1e-2


def test_shuffled_labels_score_lower():
    for rows, width in ((60, 5), (30, 100)):
        features, labels = made(rows=rows, width=width, apart=2.0)
        assert gbc(features, labels) > max(gbc(features, shuffled(labels, seed=s)) for s in range(20))


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_have_scores_within_the_range(case, covariance):
    features, labels = DEGENERATE[case]
    found, number = gbc(features, labels, covariance=covariance), len(np.unique(labels))
    assert -number * (number - 1) - 1e-9 <= found <= 0
    if number == 1:
        assert found == 0
    elif case in ("constant features", "features of zeros"):
        assert found == -number * (number - 1)


def test_variance_of_small_classes_is_estimated_without_bias(monkeypatch):
    # classes of 2 and of 20 rows with the same variance: their mean estimate over many draws is that variance
    generator, found = np.random.default_rng(0), []
    labels = np.repeat(np.arange(12), [2] * 6 + [20] * 6)
    monkeypatch.setattr(module, "_overlap", lambda means, variances: found.append(variances) or 0.0)
    for _ in range(400):
        gbc(generator.standard_normal((len(labels), 1)), labels)
    estimates = np.stack(found)[:, :, 0].mean(axis=0)
    assert estimates[:6].mean() == pytest.approx(1.0, abs=0.05)
    assert estimates[6:].mean() == pytest.approx(1.0, abs=0.03)


def test_pairs_are_taken_some_at_a_time_without_a_difference(monkeypatch):
    features, labels = made(rows=70, width=6, classes=7, apart=0.3)
    expected = gbc(features, labels)
    monkeypatch.setattr(module, "_AT_ONCE", 7 * 6 * 3)  # three classes, three, and one
    assert gbc(features, labels) == pytest.approx(expected, rel=1e-13)


def test_input_is_left_alone():
    features, labels = made()
    before = features.copy()
    features.flags.writeable = False
    assert isinstance(gbc(features, labels), float)
    np.testing.assert_array_equal(features, before)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="`components=0` keeps no component.*64"):
        gbc([[1.0], [2.0]], [0, 1], components=0)
    with pytest.raises(ValueError, match="`covariance='full'` is not known.*'diagonal' or 'spherical'"):
        gbc([[1.0], [2.0]], [0, 1], covariance="full")
