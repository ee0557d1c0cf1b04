"""LEEP, NCE and NLEEP against tables by hand, loops from the papers, and what must not change them."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest

from hf_transfer.functional import label_transfer as module
from hf_transfer.functional.label_transfer import leep, nce, nleep


def leep_by_loops(probabilities, labels):
    """Steps 1 to 3 of section 2 of the paper, with dictionaries."""
    rows, sources = len(labels), range(len(probabilities[0]))
    joint = {(y, z): 0.0 for y in set(labels) for z in sources}
    for row, y in zip(probabilities, labels, strict=True):
        for z in sources:
            joint[y, z] += row[z] / rows
    marginal = {z: sum(joint[y, z] for y in set(labels)) for z in sources}
    total = 0.0
    for row, y in zip(probabilities, labels, strict=True):
        total += math.log(sum(joint[y, z] / marginal[z] * row[z] for z in sources if marginal[z] > 0))
    return total / rows


def nce_by_loops(sources, labels):
    rows, total = len(labels), 0.0
    for z in set(sources):
        inside = [y for y, source in zip(labels, sources, strict=True) if source == z]
        for y in set(inside):
            total += len(inside) / rows * (inside.count(y) / len(inside)) * math.log(inside.count(y) / len(inside))
    return total


def entropy(labels):
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def random_rows(rows=40, sources=6, classes=4, seed=0, sharpness=2.0):
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(rows, sources))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, generator.integers(classes, size=rows)


def clustered(rows=300, width=12, classes=3, seed=0, distance=6.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=rows)
    return distance * generator.normal(size=(classes, width))[labels] + generator.normal(size=(rows, width)), labels


@pytest.mark.parametrize("seed", range(4))
def test_leep_is_that_of_a_loop(seed):
    probabilities, labels = random_rows(seed=seed)
    assert leep(probabilities, labels) == pytest.approx(leep_by_loops(probabilities.tolist(), labels.tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_nce_is_that_of_a_loop(seed):
    generator = np.random.default_rng(seed)
    sources, labels = generator.integers(7, size=50), generator.integers(3, size=50)
    assert nce(sources, labels) == pytest.approx(nce_by_loops(sources.tolist(), labels.tolist()), abs=1e-14)


def test_leep_of_a_table_by_hand_has_the_logarithm():
    """Three rows, two source classes: P(0|a) = 0.9/1.5, P(1|a) = 0.6/1.5, P(0|b) = 0.1/1.5, P(1|b) = 1.4/1.5."""
    likelihoods = [0.6 * 0.9 + 0.1 / 1.5 * 0.1, 0.4 * 0.4 + 1.4 / 1.5 * 0.6, 0.4 * 0.2 + 1.4 / 1.5 * 0.8]
    found = leep([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 1, 1])
    assert found == pytest.approx(sum(map(math.log, likelihoods)) / 3, abs=1e-14)
    assert math.log(sum(likelihoods) / 3) > found + 0.01  # the log of the mean is another number


def test_nce_of_a_table_by_hand_is_of_the_target_given_the_source():
    """Source a holds targets 0, 0, 1, 2; source b holds 1, 1."""
    sources, labels = [0, 0, 0, 0, 1, 1], [0, 0, 1, 2, 1, 1]
    given_source = 4 / 6 * (0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    given_target = 3 / 6 * (1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert nce(sources, labels) == pytest.approx(given_source)
    assert nce(labels, sources) == pytest.approx(given_target)
    assert abs(given_source - given_target) > 0.3


def test_leep_of_certain_sources_is_nce():
    generator = np.random.default_rng(0)
    sources, labels = generator.integers(5, size=60), generator.integers(3, size=60)
    assert leep(np.eye(9)[sources], labels) == pytest.approx(nce(sources, labels))  # four sources without a row


def test_one_target_class_leaves_nothing_open():
    probabilities, _ = random_rows()
    same = np.full(len(probabilities), 7)
    assert leep(probabilities, same) == 0.0
    assert nce(probabilities.argmax(1), same) == 0.0
    assert nleep(*[clustered()[0], np.zeros(300, int)]) == pytest.approx(0.0, abs=1e-12)


def test_one_source_class_tells_nothing():
    _, labels = random_rows()
    lowest = pytest.approx(-entropy(labels))
    assert leep(np.ones((40, 1)), labels) == lowest
    assert leep(np.full((40, 5), 0.2), labels) == lowest
    assert nce(np.zeros(40, int), labels) == lowest
    assert nleep(np.ones((40, 3)), labels) == lowest
    assert nleep(np.full((40, 3), 0.1) * 3, labels) == lowest  # a constant that is no binary fraction


def test_scores_lie_between_minus_the_entropy_and_zero():
    for seed in range(20):
        probabilities, labels = random_rows(rows=12 + seed, seed=seed, sharpness=0.5 * seed)
        for found in (leep(probabilities, labels), nce(probabilities.argmax(1), labels)):
            assert -entropy(labels) - 1e-12 <= found <= 0


def test_names_of_classes_do_not_matter():
    probabilities, labels = random_rows()
    names = np.array([-3, 900, 17, 0])
    assert leep(probabilities, names[labels]) == pytest.approx(leep(probabilities, labels), abs=1e-14)
    assert leep(probabilities[:, ::-1], labels) == pytest.approx(leep(probabilities, labels), abs=1e-14)
    sources = probabilities.argmax(1)
    assert nce(100 - sources, names[labels]) == pytest.approx(nce(sources, labels), abs=1e-14)


def test_probabilities_of_zero_and_of_half_precision_are_fine():
    assert leep([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 1, 1]) == pytest.approx(-2 / 3 * math.log(2))
    assert leep([[1.0, 0.0], [1e-300, 1.0]], [0, 1]) == pytest.approx(0.0, abs=1e-12)
    probabilities, labels = random_rows()
    assert leep(probabilities.astype(np.float16), labels) == pytest.approx(leep(probabilities, labels), abs=1e-3)


def test_permuted_labels_score_lower():
    features, labels = clustered()
    distances = ((features[:, None] - features[[np.flatnonzero(labels == c)[0] for c in range(3)]]) ** 2).sum(-1)
    probabilities = np.exp(-(distances - distances.min(1, keepdims=True)) / 50)
    probabilities /= probabilities.sum(1, keepdims=True)
    for seed in range(5):
        permuted = np.random.default_rng(seed).permutation(labels)
        assert leep(probabilities, permuted) < leep(probabilities, labels) - 0.3
        assert nce(probabilities.argmax(1), permuted) < nce(probabilities.argmax(1), labels) - 0.3
        assert nleep(features, permuted) < nleep(features, labels) - 0.3


def test_nleep_rises_with_the_distance_of_the_classes():
    found = [nleep(*clustered(distance=distance)) for distance in (0.0, 0.7, 1.5, 6.0)]
    assert found == sorted(found) and found[-1] > -0.05 and found[0] < -0.7


def test_nleep_is_leep_of_the_mixture_on_the_leading_components():
    """The oracle takes components by an SVD, and posteriors from the fitted mixture's own parameters."""
    from sklearn.mixture import GaussianMixture

    features, labels = clustered(rows=200, width=9)
    centred = features - features.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    count = next(k for k in range(1, 10) if (values[:k] ** 2).sum() / (values**2).sum() >= 0.8)
    found = module._main_components(features)
    assert found.shape == (200, count) and 1 < count < 9
    expected = left[:, :count] * values[:count]
    ratio = np.abs(found) / np.abs(expected)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-6)  # one scale for all, signs aside
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture = GaussianMixture(15, covariance_type="diag", max_iter=20, random_state=3).fit(found)
    posteriors = []
    for row in found:
        logs = [
            math.log(weight)
            - 0.5 * sum(math.log(v) + (x - m) ** 2 / v for x, m, v in zip(row, mean, var, strict=True))
            for weight, mean, var in zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
        ]
        powers = [math.exp(log - max(logs)) for log in logs]
        posteriors.append([power / sum(powers) for power in powers])
    assert nleep(features, labels, seed=3) == pytest.approx(leep_by_loops(posteriors, labels.tolist()), abs=1e-9)


def test_nleep_does_not_depend_on_the_place_size_or_direction_of_features():
    features, labels = clustered(rows=150, width=8, distance=1.0)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    expected = nleep(features, labels)
    for changed in (features + 1e3, features * 1e-6, features * 1e6):
        assert nleep(changed, labels) == pytest.approx(expected, abs=1e-6)
    # components keep their order and size, and their signs mirror the start of the mixture
    assert nleep(features @ rotation, labels) == pytest.approx(expected, abs=0.1)


def test_nleep_is_repeatable_and_leaves_the_generators_alone():
    features, labels = clustered(rows=120, distance=1.0)
    before = np.random.get_state()[1].copy()
    assert nleep(features, labels, seed=1) == nleep(features, labels, seed=1) != nleep(features, labels, seed=2)
    assert (np.random.get_state()[1] == before).all()


def test_nleep_draws_at_most_the_rows_it_may():
    features, labels = clustered(rows=400, distance=1.0)
    chosen = np.sort(np.random.default_rng(5).permutation(400)[:100])
    assert nleep(features, labels, seed=5, max_rows=100) == nleep(features[chosen], labels[chosen], seed=5)
    assert nleep(features, labels, max_rows=400) == nleep(features, labels, max_rows=None)


def test_nleep_takes_fewer_rows_than_dimensions_duplicates_and_rare_classes():
    features, labels = clustered(rows=20, width=300)
    assert -entropy(labels) <= nleep(features, labels) <= 0
    repeated = np.repeat(np.eye(3, 5), 20, axis=0)  # three different rows, fifteen Gaussians asked for
    assert nleep(repeated, np.repeat([0, 1, 2], 20)) == pytest.approx(0.0, abs=1e-6)
    assert nleep(repeated, np.tile([0, 1, 2], 20)) == pytest.approx(-math.log(3), abs=0.01)
    alone = np.where(np.arange(300) == 5, 99, clustered()[1])  # a class of one row, numbers between without any
    assert math.isfinite(nleep(clustered()[0], alone))


def test_few_rows_do_not_get_a_gaussian_each():
    """With as many Gaussians as rows any labels would be told perfectly."""
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(60, 30)), np.arange(60) % 10
    assert module._posteriors(module._main_components(features), 10, 0).shape == (60, 12)
    assert nleep(features, labels) < -0.5


def test_swapped_arguments_are_refused():
    probabilities, labels = random_rows()
    with pytest.raises(ValueError, match=r"swapped.*something else.*Call `leep\(source_probabilities, labels\)`"):
        leep(labels, probabilities)
    with pytest.raises(ValueError, match=r"swapped.*Call `nleep\(features, labels\)`"):
        nleep(labels, probabilities)


def test_what_is_no_probability_is_refused():
    probabilities, labels = random_rows()
    with pytest.raises(ValueError, match=r"they are no probabilities.*softmax of the logits"):
        leep(10 * probabilities, labels)
    with pytest.raises(ValueError, match=r"lie in \[-1.*they are no probabilities"):
        leep([[2.0, -1.0]], [0])
    with pytest.raises(ValueError, match="they are no probabilities"):
        leep([[np.nan, 1.0]], [0])
    with pytest.raises(ValueError, match=r"has shape \(40,\).*one source class a row call `nce`"):
        leep(labels, labels)


def test_labels_of_another_kind_or_number_are_refused():
    probabilities, labels = random_rows()
    with pytest.raises(ValueError, match=r"shape \(39,\) were given for 40 rows.*row i of both"):
        leep(probabilities, labels[1:])
    with pytest.raises(ValueError, match=r"no integers.*every value would be a class.*regression=True"):
        leep(probabilities, labels + 0.5)
    with pytest.raises(ValueError, match=r"`source_labels` has shape \(40, 6\).*call `leep`"):
        nce(probabilities, labels)
    with pytest.raises(ValueError, match=r"shape \(39,\) were given for 40 rows"):
        nce(labels, labels[1:])
    with pytest.raises(ValueError, match=r"not finite"):
        nleep(np.where(probabilities > 0.5, np.nan, probabilities), labels)
    with pytest.raises(ValueError, match=r"`source_labels` has shape \(0,\)"):
        nce([], [])


def test_nleep_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(ImportError, match=r"NLEEP needs scikit-learn.*pip install"):
        nleep(*clustered(rows=20))
