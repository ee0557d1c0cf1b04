"""LogME against the density of the labels itself, maximised by SciPy, and against the published loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from hf_transfer.functional.evidence import logme
from tests.functional.labelled_features import DEGENERATE, made, rotation, scaled_columns, shuffled


def one_hot(labels):
    return (labels[:, None] == np.unique(labels)).astype(np.float64)


def density(features, target, a, b):
    """log N(y | 0, I / b + F F' / a), by SciPy."""
    covariance = np.eye(len(features)) / b + features @ features.T / a
    return multivariate_normal(np.zeros(len(features)), covariance).logpdf(target)


def maximised(features, targets):
    """Mean over targets of the maximum over log a and log b, from several starts, per row."""
    values, vectors = np.linalg.eigh(features @ features.T)
    values, found = np.maximum(values, 0), []
    for target in targets.T:
        x2 = np.square(vectors.T @ target)

        def cost(logarithms, x2=x2):
            variances = np.exp(-logarithms[1]) + values * np.exp(-logarithms[0])
            return 0.5 * (np.log(2 * np.pi * variances) + x2 / variances).sum()

        starts = [(i, j) for i in (-3, 2, 7) for j in (0, 4)]
        options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
        best = min(
            (minimize(cost, start, method="Nelder-Mead", options=options) for start in starts), key=lambda m: m.fun
        )
        # the formula that was maximised is the density
        assert best.x[1] > 12 or density(features, target, *np.exp(best.x)) == pytest.approx(-best.fun, rel=1e-6)
        found.append(-best.fun / len(features))
    return float(np.mean(found))


def published(features, targets, updates=11, tolerance=1e-3):
    """The loop over classes as published, of full column rank only: elsewhere its evidence is wrong."""
    (rows, width), found = features.shape, []
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    s = singular**2
    for target in targets.T:
        x2 = np.square(left.T @ target)
        rest = np.square(target).sum() - x2.sum()
        a = b = 1.0
        m2 = residual = 0.0
        for _ in range(updates):
            t = a / b
            gamma = (s / (s + t)).sum()
            m2 = (s * x2 / (t + s) ** 2).sum()
            residual = (x2 / (1 + s / t) ** 2).sum() + rest
            a, b = gamma / (m2 + 1e-5), (rows - gamma) / (residual + 1e-5)
            if abs(a / b - t) / t <= tolerance:
                break
        log = width * np.log(a) + rows * np.log(b / (2 * np.pi)) - np.log(a + b * s).sum() - b * residual - a * m2
        found.append(0.5 * log / rows)
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("rows", "width", "apart"),
    [(60, 5, 1.0), (60, 5, 0.0), (40, 39, 0.5), (20, 20, 0.5), (12, 30, 1.0), (15, 60, 0.0), (50, 384, 0.3)],
)
def test_evidence_is_the_maximised_density_of_the_labels(rows, width, apart):
    features, labels = made(rows=rows, width=width, apart=apart)
    assert logme(features, labels) == pytest.approx(maximised(features, one_hot(labels)), abs=1e-6)


@pytest.mark.parametrize("shape", [(25, 4), (10, 25)])
def test_evidence_of_real_targets_is_the_maximised_density(shape):
    generator = np.random.default_rng(4)
    features = generator.standard_normal(shape)
    targets = features @ generator.standard_normal((shape[1], 2)) + 0.5 * generator.standard_normal((shape[0], 2))
    expected = maximised(features, targets)
    assert logme(features, targets, regression=True) == pytest.approx(expected, abs=1e-6)
    one = logme(features, targets[:, 0], regression=True), logme(features, targets[:, 1], regression=True)
    assert np.mean(one) == pytest.approx(expected, abs=1e-6)


def test_evidence_is_that_of_the_rank_where_columns_repeat_each_other():
    features, labels = made(rows=30, width=4)
    repeated = np.column_stack([features, features @ np.random.default_rng(0).standard_normal((4, 6))])
    assert np.linalg.matrix_rank(repeated) == 4
    assert logme(repeated, labels) == pytest.approx(maximised(repeated, one_hot(labels)), abs=1e-6)


def test_published_loop_gives_the_same_once_it_has_converged_on_full_rank():
    features, labels = made(rows=400, width=20, classes=5)
    assert logme(features, labels) == pytest.approx(published(features, one_hot(labels), 500, 1e-12), abs=1e-6)
    assert logme(features, labels) == pytest.approx(published(features, one_hot(labels)), abs=1e-3)


@pytest.mark.parametrize("rows", [25, 50])
@pytest.mark.parametrize("width", [64, 384, 768])
def test_width_beyond_the_rows_earns_nothing_here_though_it_does_in_the_published_loop(rows, width):
    generator = np.random.default_rng(0)
    features, labels = generator.standard_normal((rows, width)), np.arange(rows) % 2
    shares = np.bincount(labels) / rows
    without_features = -0.5 * (np.log(2 * np.pi * shares) + 1).mean()  # the limit of weights of zero
    assert -1e-6 < logme(features, labels) - without_features < 0.1
    if width >= 384:
        assert published(features, one_hot(labels)) > 5


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (6, 9)])
def test_columns_of_zeros_change_nothing(rows, width):
    features, labels = made(rows=rows, width=width)
    for more in (1, rows, 20 * rows):
        padded = np.column_stack([features, np.zeros((rows, more))])
        assert logme(padded, labels) == pytest.approx(logme(features, labels), abs=1e-7)


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(60, 5), (8, 20)])
def test_scale_and_rotation_of_features_and_order_of_rows_change_nothing(rows, width, regression):
    features, labels = made(rows=rows, width=width)
    targets = labels + 0.25 * features[:, 0] if regression else labels
    expected = logme(features, targets, regression=regression)
    order = np.random.default_rng(0).permutation(rows)
    for same in (1e-4 * features, 1e5 * features, features @ rotation(width)):
        assert logme(same, targets, regression=regression) == pytest.approx(expected, abs=1e-7)
    assert logme(features[order], targets[order], regression=regression) == pytest.approx(expected, abs=1e-7)


def test_shifts_scales_of_columns_and_repeated_rows_do_change_it():
    features, labels = made()
    expected = logme(features, labels)
    assert abs(logme(features + 5, labels) - expected) > 1e-2
    assert abs(logme(scaled_columns(features), labels) - expected) > 1e-3
    assert logme(np.tile(features, (4, 1)), np.tile(labels, 4)) > expected + 1e-2


def test_unit_of_a_target_shifts_the_density_by_its_logarithm():
    features, labels = made()
    targets = features[:, 0] - 0.3 * features[:, 1] + 0.1 * labels
    expected = logme(features, targets, regression=True)
    for unit in (1e-6, 1e6):
        assert logme(features, unit * targets, regression=True) == pytest.approx(expected - np.log(unit), abs=1e-7)


def test_shuffled_labels_score_lower():
    for rows, width in ((60, 5), (30, 100)):
        features, labels = made(rows=rows, width=width, apart=2.0)
        assert logme(features, labels) > max(logme(features, shuffled(labels, seed=s)) for s in range(20)) + 0.1


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_have_finite_scores(case):
    features, labels = DEGENERATE[case]
    assert np.isfinite(logme(features, labels))
    assert np.isfinite(logme(features, labels.astype(float), regression=True))
    assert np.isfinite(logme(features, np.zeros(len(labels)), regression=True))


def test_features_of_zeros_leave_the_noise_alone():
    features, labels = DEGENERATE["features of zeros"]
    # two columns with mean square 1 / 2: b = 2
    assert logme(features, labels) == pytest.approx(0.5 * (np.log(2 / (2 * np.pi)) - 1), abs=1e-9)


def test_perfect_fit_is_capped_far_above_any_other():
    features, labels = DEGENERATE["duplicated rows"]
    assert 2 < logme(features, labels) < 20
    assert logme(features, labels) > logme(features + 0.01 * np.random.default_rng(0).standard_normal((8, 2)), labels)


def test_single_precision_lists_and_read_only_arrays_are_taken_and_left_alone():
    features, labels = made()
    before = features.copy()
    features.flags.writeable = labels.flags.writeable = False
    found = logme(features, labels)
    np.testing.assert_array_equal(features, before)
    assert isinstance(found, float)
    assert logme(features.tolist(), labels.tolist()) == found
    assert logme(features.astype(np.float32), labels) == pytest.approx(found, abs=1e-5)


def test_labels_that_are_no_classes_name_regression():
    with pytest.raises(ValueError, match="regression=True"):
        logme([[1.0], [2.0]], [0.5, 1.5])
    with pytest.raises(ValueError, match="Targets of shape"):
        logme([[1.0], [2.0]], [0.5], regression=True)
