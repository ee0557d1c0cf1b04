from __future__ import annotations

import sys

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import binom

from hf_transfer.diagnostics import a_distance as module
from hf_transfer.diagnostics.a_distance import ADistance, proxy_a_distance


def normal(rows, width, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(rows, width)) + shift


def test_separable_domains_are_at_exactly_two():
    found = proxy_a_distance(normal(40, 3, 0), normal(60, 3, 1, shift=20))
    assert (found.distance, found.raw, found.error) == (2.0, 2.0, 0.0)
    assert found.train_rows == found.held_out_rows == 20  # the larger domain is cut to the smaller
    # no error among 40 rows: the exact upper end solves (1 - p)^40 = 0.025
    assert found.interval == (pytest.approx(2 * (1 - 2 * (1 - 0.025 ** (1 / 40)))), 2.0)


@pytest.mark.parametrize("width", [2, 400])
def test_domains_of_one_distribution_are_at_about_zero(width):
    distances = [proxy_a_distance(normal(120, width, s), normal(90, width, 50 + s), seed=s) for s in range(6)]
    assert np.mean([found.distance for found in distances]) < 0.25
    # around 0 on both sides: features that are as wide as there are rows fit the training part perfectly
    assert abs(np.mean([found.raw for found in distances])) < 0.2


def test_a_fit_that_sees_the_held_out_rows_is_caught(monkeypatch):
    """The planted defect: with more features than rows any labels can be fitted, so the error on seen rows is 0."""
    source, target = normal(60, 500, 0), normal(60, 500, 1)
    assert proxy_a_distance(source, target).distance < 0.5
    everything = np.arange(60)
    monkeypatch.setattr(module, "split_examples", lambda *options: (everything, everything))
    assert proxy_a_distance(source, target).distance == 2.0


def test_it_is_never_outside_its_range_whatever_the_rows():
    for seed in range(15):
        generator = np.random.default_rng(seed)
        rows, width = generator.integers(4, 14, 2), int(generator.integers(1, 5))
        shift = generator.choice([0.0, 0.3, 5.0])
        domains = normal(rows[0], width, seed), normal(rows[1], width, seed + 99, shift)
        found = proxy_a_distance(*domains, seed=seed, strengths=(0.01, 1.0))
        assert 0 <= found.interval[0] <= found.distance <= found.interval[1] <= 2
        assert found.raw == 2 * (1 - 2 * found.error)


def test_worse_than_chance_is_clamped():
    found = [proxy_a_distance(normal(12, 2, s), normal(12, 2, s + 40), strengths=(1.0,)) for s in range(12)]
    below = [distance for distance in found if distance.raw < 0]
    assert below and all(distance.distance == 0.0 for distance in below)


def test_identical_and_constant_features_are_at_zero():
    same = normal(50, 4, 0)
    assert proxy_a_distance(same, same).distance < 0.6
    flat = np.ones((20, 3), np.float32)
    found = proxy_a_distance(flat, flat)
    assert (found.distance, found.error) == (0.0, 0.5)
    assert proxy_a_distance(flat, flat * 3).distance == 2.0


def test_the_scale_and_shift_of_features_do_not_matter():
    source, target = normal(80, 5, 0), normal(80, 5, 1, shift=0.7)
    plain = proxy_a_distance(source, target)
    assert 0.2 < plain.distance < 1.9
    moved = proxy_a_distance(source * 1e3 + 50, target * 1e3 + 50)
    assert moved.distance == pytest.approx(plain.distance, abs=0.06)


def test_the_interval_holds_the_error_of_a_binomial():
    found = proxy_a_distance(normal(100, 2, 0), normal(100, 2, 1, shift=1.0), confidence=0.9)
    wrong, rows = round(found.error * 100), 100
    low, high = ((2 - distance) / 4 for distance in reversed(found.interval))
    assert binom.sf(wrong - 1, rows, low) == pytest.approx(0.05, abs=1e-6)
    assert binom.cdf(wrong, rows, high) == pytest.approx(0.05, abs=1e-6)


def test_tokens_of_an_example_are_on_one_side():
    """Each example has a direction of its own: a split of tokens would recognise examples, not domains."""
    generator = np.random.default_rng(0)

    def tokens(count):
        return [generator.normal(size=(1, 200)) + 0.01 * generator.normal(size=(8, 200)) for _ in range(count)]

    source, target = tokens(24), tokens(24)
    assert proxy_a_distance(np.concatenate(source), np.concatenate(target), strengths=(1.0,)).distance > 1.5
    kept = [proxy_a_distance(source, target, strengths=(1.0,), seed=seed) for seed in range(5)]
    assert np.mean([found.raw for found in kept]) < 0.8
    # by the 12 held-out examples of each domain: their 96 tokens would make a third of that
    assert max(found.interval[1] - found.interval[0] for found in kept) > 0.6


def test_data_sets_of_features_are_read_and_their_labels_are_not():
    source, target = normal(20, 3, 0), normal(20, 3, 1, shift=9)
    table = Dataset.from_dict({"block.1": source.tolist(), "labels": [0] * 20})
    other = Dataset.from_dict({"block.1": target.tolist(), "labels": [None] * 20})
    assert proxy_a_distance(table, other, column="block.1").distance == 2.0


def test_rows_above_the_limit_are_drawn():
    found = proxy_a_distance(normal(100, 2, 0), normal(200, 2, 1), max_rows=30)
    assert found.train_rows == found.held_out_rows == 15
    assert proxy_a_distance(normal(40, 2, 0), normal(40, 2, 1), held_out=0.25).held_out_rows == 10


def test_the_same_seed_gives_the_same_and_leaves_the_callers_random_numbers():
    source, target = normal(40, 3, 0), normal(40, 3, 1, shift=0.5)
    np.random.seed(3)
    first = proxy_a_distance(source, target, seed=4)
    drawn = np.random.rand()
    np.random.seed(3)
    assert drawn == np.random.rand()
    assert proxy_a_distance(source, target, seed=4) == first
    assert any(proxy_a_distance(source, target, seed=seed) != first for seed in range(4))
    assert float(first) == first.distance


def test_it_prints_as_a_sentence():
    text = str(ADistance(0.5, (0.25, 0.75), 0.375, 0.5, 10, 12, 1.0, 0.9))
    assert text.startswith("proxy A-distance 0.500 (90% interval 0.250 to 0.750;") and "37.5% of 2 x 12" in text


def test_bad_input_is_refused():
    rows = normal(10, 3, 0)
    with pytest.raises(ValueError, match=r"width 3, the target of width 2.*one model and the same taps"):
        proxy_a_distance(rows, rows[:, :2])
    with pytest.raises(ValueError, match=r"target has 3 examples.*at least 4.*Give more rows"):
        proxy_a_distance(rows, rows[:3])
    with pytest.raises(ValueError, match=r"2 rows of the source hold numbers that are not finite.*float32"):
        proxy_a_distance(np.where(np.arange(10)[:, None] < 2, np.nan, rows), rows)
    with pytest.raises(ValueError, match=r"`held_out=1.0` is outside \(0, 1\).*such as 0.5"):
        proxy_a_distance(rows, rows, held_out=1.0)
    with pytest.raises(ValueError, match=r"`confidence=0` is outside.*0.95"):
        proxy_a_distance(rows, rows, confidence=0)
    with pytest.raises(ValueError, match=r"`strengths=\(\)`.*\(0.01, 1.0\)"):
        proxy_a_distance(rows, rows, strengths=())
    with pytest.raises(ValueError, match=r"no column `features`"):
        proxy_a_distance(Dataset.from_dict({"a": [1.0]}), rows)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"pip install \"hf-transfer-learning\[recipes\]\""):
        proxy_a_distance(normal(10, 3, 0), normal(10, 3, 1))
