"""Ratios of a domain classifier against the ratio of known Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from hf_transfer.features.reweighting import DomainClassifier


def gaussians(source_rows, target_rows, shift=1.0, seed=0, width=2):
    """Unit Gaussians, the target shifted in its first coordinate: log ratio = shift x - shift^2 / 2."""
    generator = np.random.default_rng(seed)
    source = generator.normal(0, 1, (source_rows, width))
    target = generator.normal(0, 1, (target_rows, width))
    target[:, 0] += shift
    return source, target


def true_log_ratio(rows, shift=1.0):
    return shift * rows[:, 0] - shift**2 / 2


@pytest.mark.parametrize(("source_rows", "target_rows"), [(1500, 1500), (2000, 250), (250, 2000)])
def test_ratio_of_known_gaussians_whatever_the_number_of_rows(source_rows, target_rows):
    """An inverted ratio has the wrong sign; without n_s / n_t its logarithm is off by 2.08 for 8 to 1."""
    source, target = gaussians(source_rows, target_rows)
    classifier = DomainClassifier().fit(source, target)
    for rows in (source, gaussians(400, 400, seed=9)[0]):
        error = classifier.log_ratio(rows) - true_log_ratio(rows)
        assert abs(error.mean()) < 0.25 and np.abs(error).mean() < 0.3
        assert spearmanr(classifier.ratio(rows), true_log_ratio(rows))[0] > 0.98
    held_out = np.log(classifier.source_ratio) - true_log_ratio(source)
    assert np.abs(held_out).mean() < 0.3
    assert classifier.rows == (source_rows, target_rows)
    # the mean of the ratio over the source is the mass of the target
    assert classifier.source_ratio.mean() == pytest.approx(1, abs=0.25)


def test_source_rows_are_judged_by_classifiers_that_did_not_see_them():
    """More features than rows and no shift: a classifier tells the rows it saw apart, none others."""
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(40, 100)), generator.normal(size=(40, 100))
    classifier = DomainClassifier(strengths=[1.0]).fit(source, target)
    seen, held_out = classifier.log_ratio(source), np.log(classifier.source_ratio)
    assert seen.max() < 0  # all source rows look like source
    assert abs((held_out < 0).mean() - 0.5) < 0.25
    assert classifier.log_loss > math.log(2)


def test_the_strength_is_chosen_by_the_log_loss_of_held_out_rows():
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(60, 40)), generator.normal(size=(60, 40))
    weak = DomainClassifier().fit(source, target)
    free = DomainClassifier(strengths=[100.0]).fit(source, target)
    assert weak.strength <= 0.01 and weak.log_loss < free.log_loss - 0.5
    assert weak.log_loss == pytest.approx(math.log(2), abs=0.05)
    assert np.abs(np.log(weak.source_ratio)).max() < np.abs(np.log(free.source_ratio)).max() / 3
    shifted = DomainClassifier().fit(*gaussians(300, 300, shift=3.0))
    assert shifted.strength >= 1e-2 and shifted.log_loss < 0.3


def test_equal_distributions_give_about_one_and_equal_rows_exactly():
    same = DomainClassifier().fit(*gaussians(800, 400, shift=0.0))
    assert np.abs(same.source_ratio - 1).max() < 0.3
    constant = DomainClassifier().fit(np.ones((30, 3)), np.ones((10, 3)))
    np.testing.assert_allclose(constant.source_ratio, 1, rtol=1e-3)


def test_scale_and_constant_features_do_not_matter():
    source, target = gaussians(300, 200)
    plain = DomainClassifier().fit(source, target).source_ratio
    factors = np.array([1e4, 1e-4])
    scaled = DomainClassifier().fit(source * factors + 5, target * factors + 5).source_ratio
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)
    more = DomainClassifier().fit(*(np.column_stack([rows, np.full(len(rows), 1e8)]) for rows in (source, target)))
    np.testing.assert_allclose(more.source_ratio, plain, rtol=1e-4)


def test_views_of_an_example_are_held_out_together():
    from datasets import Dataset

    def views(rows):
        features = np.repeat(rows, 2, axis=0)
        return Dataset.from_dict(
            {
                "features": features.tolist(),
                "id": np.repeat(np.arange(len(rows)), 2),
                "view": np.tile([0, 1], len(rows)),
            }
        )

    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(30, 60)), generator.normal(size=(30, 60))
    together = DomainClassifier(strengths=[1.0]).fit(views(source), views(target))
    apart = DomainClassifier(strengths=[1.0]).fit(np.repeat(source, 2, 0), np.repeat(target, 2, 0))
    assert together.log_loss > math.log(2) > apart.log_loss  # apart, each row has a twin among those fitted to


@pytest.mark.parametrize("rows", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_few_rows_are_finite(rows):
    classifier = DomainClassifier().fit(*gaussians(*rows))
    assert np.isfinite(classifier.source_ratio).all() and (classifier.source_ratio > 0).all()


def test_separated_domains_do_not_overflow():
    source, target = gaussians(50, 50, shift=1e4)
    classifier = DomainClassifier(strengths=[1e6]).fit(source, target)
    assert np.isfinite(classifier.ratio(target * 1e6)).all() and classifier.source_ratio.max() < 1


def test_same_seed_same_folds():
    pair = gaussians(60, 60)
    first, second, other = (DomainClassifier(seed=seed).fit(*pair).source_ratio for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"`strengths=\(\)` holds none.*no solution.*Give positive numbers"):
        DomainClassifier(strengths=[])
    with pytest.raises(ValueError, match="`strengths=.*not positive"):
        DomainClassifier(strengths=[1.0, 0.0])
    with pytest.raises(ValueError, match="`folds=1` holds nothing out.*saw it.*Give at least 2"):
        DomainClassifier(folds=1)
    with pytest.raises(RuntimeError, match="not fitted.*knows nothing.*Call `fit"):
        DomainClassifier().ratio([[1.0]])
    fitted = DomainClassifier().fit(*gaussians(10, 10))
    with pytest.raises(ValueError, match="width 3, the domain classifier was fitted to width 2.*Extract them"):
        fitted.ratio(np.zeros((4, 3)))
