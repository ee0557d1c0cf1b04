"""Every method on known Gaussians, and what must hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import spearmanr

import hf_transfer
from hf_transfer.features.reweighting import METHODS, DomainClassifier, importance_weights


OPTIONS = {"nearest_neighbour": {"k": 20}}
ERROR = {"domain_classifier": 0.2, "kmm": 0.35, "kliep": 0.3, "ulsif": 0.35, "nearest_neighbour": 0.4}


def weights_by(method, source, target, **options):
    return importance_weights(source, target, method=method, **{**OPTIONS.get(method, {}), **options})


def gaussians(source_rows, target_rows, shift=0.8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(0, 1, (source_rows, 1)), generator.normal(shift, 1, (target_rows, 1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [(500, 500), (500, 120)])
def test_ratio_of_known_gaussians(method, rows):
    source, target = gaussians(*rows)
    true = np.exp(0.8 * source[:, 0] - 0.32)
    true /= true.mean()
    weights = weights_by(method, source, target, clip=None)
    assert weights.dtype == np.float64 and weights.shape == (500,) and weights.mean() == pytest.approx(1)
    assert (weights >= 0).all()
    assert spearmanr(weights, true)[0] > (0.85 if method == "nearest_neighbour" else 0.97)
    assert np.abs(weights - true).mean() < ERROR[method]
    # the inverted ratio and no weights at all are further away, and the weighted mean is the target's
    assert np.abs(weights - true).mean() < np.abs(1 - true).mean() / 1.5
    assert (weights * source[:, 0]).mean() == pytest.approx(0.8, abs=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_equal_distributions_give_about_one(method):
    weights = weights_by(method, *gaussians(300, 300, shift=0.0), **({"k": 40} if "near" in method else {}))
    assert np.abs(weights - 1).mean() < 0.3


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_order_do_not_matter(method):
    generator = np.random.default_rng(0)
    source, target = generator.normal(0, 1, (80, 2)), generator.normal(0.5, 1, (60, 2))
    plain = weights_by(method, source, target)
    scaled = weights_by(method, source * [1e3, 1e-3] - 7, target * [1e3, 1e-3] - 7)
    np.testing.assert_allclose(scaled, plain, rtol=1e-2, atol=1e-3)
    assert np.array_equal(weights_by(method, source, target), plain)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.ones((8, 3)), np.ones((5, 3))),
        (np.zeros((1, 2)), np.ones((1, 2))),
        (np.zeros((4, 1)), np.full((4, 1), 1e6)),
        (np.arange(6.0)[:, None], np.full((3, 1), 2.0)),
    ],
    ids=["constant", "one row", "far apart", "one point"],
)
def test_degenerate_domains_are_finite_and_of_mean_one(method, source, target):
    weights = importance_weights(source, target, method=method)
    assert np.isfinite(weights).all() and weights.mean() == pytest.approx(1)


def test_clipping_cuts_the_largest():
    source, target = gaussians(500, 500, shift=2.0)
    free, cut = (importance_weights(source, target, clip=clip) for clip in (None, 0.9))
    assert cut.max() < free.max() / 2 and (cut == cut.max()).sum() == pytest.approx(50, abs=2)


def test_domain_classifier_is_that_of_the_class_and_data_sets_are_read():
    source, target = gaussians(100, 50)
    dataset = Dataset.from_dict({"block.2": source.tolist(), "labels": [0] * 100})
    ratio = DomainClassifier(seed=3, folds=3).fit(source, target).source_ratio
    weights = importance_weights(
        dataset, Dataset.from_dict({"block.2": target.tolist()}), column="block.2", clip=None, seed=3, folds=3
    )
    np.testing.assert_allclose(weights, ratio / ratio.mean())
    assert hf_transfer.importance_weights is importance_weights


def test_what_is_refused():
    rows = np.zeros((4, 2))
    with pytest.raises(ValueError, match="no weighting method `klie`.*Pass one of .*Did you mean `kliep`"):
        importance_weights(rows, rows, method="klie")
    with pytest.raises(ValueError, match="`kmm` has no option k: it would have no effect.*bound"):
        importance_weights(rows, rows, method="kmm", k=3)
    with pytest.raises(ValueError, match="`domain_classifier` has no option source"):
        importance_weights(rows, rows, sources=1)
