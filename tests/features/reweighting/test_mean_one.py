"""Weights of mean 1, what clipping does, and the warnings."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from transformers.utils import logging as transformers_logging

from hf_transfer.features.reweighting.mean_one import as_weights, effective_sample_size, report


@pytest.fixture
def warned(caplog):
    transformers_logging.enable_propagation()
    caplog.set_level(logging.INFO, "hf_transfer")
    yield caplog
    transformers_logging.disable_propagation()


def test_mean_one_by_hand():
    np.testing.assert_allclose(as_weights(np.array([1.0, 2.0, 6.0])), [1 / 3, 2 / 3, 2])
    np.testing.assert_allclose(as_weights(np.array([1e-320, 1e308, 1e308])).mean(), 1)
    assert as_weights(np.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    assert as_weights(np.array([3], np.float32)).dtype == np.float64


def test_clipped_at_a_quantile_before_the_mean():
    ratio = np.arange(1.0, 101.0)
    weights = as_weights(ratio, clip=0.9)
    cut = np.quantile(ratio, 0.9)
    np.testing.assert_allclose(weights, np.minimum(ratio, cut) / np.minimum(ratio, cut).mean())
    np.testing.assert_array_equal(as_weights(ratio, clip=1.0), as_weights(ratio))


@pytest.mark.parametrize("clip", [0.0, -0.5, 1.5])
def test_clip_out_of_range_is_refused(clip):
    with pytest.raises(ValueError, match=f"`clip={clip}` is no quantile.*keeps its weight.*such as 0.99"):
        as_weights(np.ones(2), clip=clip)


def test_effective_sample_size_by_hand():
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([4.0, 0, 0, 0])) == pytest.approx(1)
    assert effective_sample_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    assert effective_sample_size(np.zeros(3)) == 0


def test_what_is_logged(warned):
    logger = logging.getLogger("hf_transfer.features.reweighting.mean_one")
    logger.addHandler(warned.handler)
    try:
        report(np.ones(50), "kmm")
        assert not [record for record in warned.records if record.levelno >= logging.WARNING]
        few = np.zeros(100)
        few[:5] = 20
        assert report(few, "kmm") == pytest.approx(5)
        assert "effective sample size of 5.0 of 100 rows" in warned.records[-1].getMessage()
        heavy = np.full(100, 0.3)
        heavy[0] = 70.3
        # a single row with 70% of the weight is also a small effective sample size
        assert report(heavy, "kmm") < 10
        tail = np.ones(12)
        tail[0] = 12.0
        report(tail, "kmm")
        assert "1 of 12 rows carry 52% of the weight" in warned.records[-1].getMessage()
    finally:
        logger.removeHandler(warned.handler)
