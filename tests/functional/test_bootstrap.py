"""Intervals over rows and seeds: against loops, and how often they hold the truth on simulated tables."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest

from hf_transfer.functional.bootstrap import PRIOR_DEGREES, paired_intervals


TABLES = 100
AT_LEAST = 88  # of 100 at 95%: fewer have a probability of 0.0015


def simulated(generator, diffs, seeds, rows, effect, *, folds=False, accuracy=0.7):
    """
    Correctness of runs that find the same rows hard: scores and weights `(n, K S)`, strategies and seeds of the runs,
    and what every run would get on endless rows.
    """
    strategies = len(diffs)
    number = rows * seeds if folds else rows
    means = accuracy + np.asarray(diffs)[:, None] + effect * generator.standard_normal((strategies, seeds))
    limits = np.vectorize(NormalDist().inv_cdf)(means.clip(0.001, 0.999))
    hard = math.sqrt(0.6) * generator.standard_normal(number)
    own = math.sqrt(0.2) * generator.standard_normal((strategies, 1, number))
    luck = math.sqrt(0.2) * generator.standard_normal((strategies, seeds, number))
    scores = (hard + own + luck < limits[:, :, None]).astype(np.float64).reshape(-1, number).T
    weights = np.ones_like(scores)
    columns = np.tile(np.arange(seeds), strategies)
    if folds:
        weights = (np.arange(number)[:, None] // rows == columns[None, :]).astype(np.float64)
    return scores, weights, np.repeat(np.arange(strategies), seeds).tolist(), columns.tolist(), means


def coverage(diffs, seeds, rows, effect, *, conditional=False, familywise=False, **options):
    """Of 100 tables, how many intervals of every pair hold the true difference, and how many tables all of them."""
    generator = np.random.default_rng(3)
    pairs = list(combinations(range(len(diffs)), 2))
    held = []
    for table in range(TABLES):
        scores, weights, strategies, columns, means = simulated(generator, diffs, seeds, rows, effect, **options)
        expected = means.mean(axis=1) if conditional else np.asarray(diffs)
        truth = np.array([expected[first] - expected[second] for first, second in pairs])
        found = paired_intervals(
            *(scores, weights, strategies, columns, pairs),
            familywise=familywise,
            resamples=250,
            random_state=table,
        )
        held.append((found.low <= truth) & (truth <= found.high))
    return dict(zip(pairs, np.sum(held, axis=0).tolist(), strict=True)), int(np.all(held, axis=1).sum())


@pytest.mark.parametrize("rows", [100, 400])
@pytest.mark.parametrize(("seeds", "effect"), [(1, 0.0), (1, 0.03), (3, 0.0), (3, 0.03), (5, 0.0), (5, 0.03)], ids=str)
def test_intervals_hold_the_truth_at_their_rate(rows, seeds, effect):
    # with one seed the truth is that of the trained models: nothing is claimed of other seeds
    found, _ = coverage([0.0, 0.0, 0.05], seeds, rows, effect, conditional=seeds == 1)
    tie, gain = found[0, 1], found[0, 2]
    assert tie >= AT_LEAST
    assert gain >= AT_LEAST
    # three pairs of 100 tables; the pairs are dependent, so this is wider than a binomial's
    assert 0.92 <= sum(found.values()) / (len(found) * TABLES) <= 0.985


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_folds_hold_the_truth_at_their_rate(effect):
    found, _ = coverage([0.0, 0.0, 0.05], 5, 80, effect, folds=True)
    assert min(found[0, 1], found[0, 2]) >= AT_LEAST


def test_one_seed_says_nothing_of_others():
    found, _ = coverage([0.0, 0.0], 1, 300, 0.06)
    assert found[0, 1] < 70  # the docstring says what is covered instead


@pytest.mark.parametrize(("seeds", "effect"), [(1, 0.0), (3, 0.03)])
def test_all_pairs_hold_together(seeds, effect):
    found, together = coverage([0.0] * 6, seeds, 100, effect, familywise=True)
    assert AT_LEAST <= together <= 99
    assert min(found.values()) > together
    # each for itself they do not: this is why they are corrected
    _, uncorrected = coverage([0.0] * 6, seeds, 100, effect)
    assert uncorrected < 80


def naive(scores, weights, strategies, seeds, pairs):
    """Squared errors and degrees of freedom of pairs by loops, from the formulas of the docstring."""
    rows, runs = scores.shape
    place = {(strategies[run], seeds[run]): run for run in range(runs)}

    def mean(run):
        return sum(weights[i, run] * scores[i, run] for i in range(rows)) / sum(weights[:, run])

    def part(i, run):
        count = sum(weight > 0 for weight in weights[:, run])
        raw = weights[i, run] * (scores[i, run] - mean(run)) / sum(weights[:, run])
        return raw * math.sqrt(count / (count - 1))

    def both(i, s, first, second):
        return part(i, place[first, s]) - part(i, place[second, s])

    pieces = []
    for first, second in pairs:
        common = [s for s in sorted(set(seeds)) if (first, s) in place and (second, s) in place]
        size = len(common)
        delta = [mean(place[first, s]) - mean(place[second, s]) for s in common]
        center = sum(delta) / size
        of_rows = sum((sum(both(i, s, first, second) for s in common) / size) ** 2 for i in range(rows))
        spread = sum((d - center) ** 2 for d in delta) / (size - 1)
        noise = 0.0
        for i in range(rows):
            parts = [both(i, s, first, second) for s in common]
            noise += sum((p - sum(parts) / size) ** 2 for p in parts) / (size - 1)
        pieces.append((center, of_rows, spread, noise, size))
    pooled = sum(piece[2] for piece in pieces) / len(pieces)
    pooled_noise = sum(piece[3] for piece in pieces) / len(pieces)
    return [
        (piece, _combined(piece, pooled, pooled_noise, prior=PRIOR_DEGREES, rows=int((weights > 0).any(1).sum())))
        for piece in pieces
    ]


def _combined(piece, pooled, pooled_noise, *, prior, rows):
    center, of_rows, spread, noise, size = piece
    freedom = size - 1 + prior
    of_seeds = ((size - 1) * spread + prior * pooled) / freedom / size
    by_rows = ((size - 1) * noise + prior * pooled_noise) / freedom / size
    variance = of_rows + max(0.0, of_seeds - by_rows)
    degrees = variance**2 / (of_seeds**2 / freedom + of_rows**2 / (rows - 1))
    return center, variance, max(degrees, min(freedom, rows - 1))


@pytest.mark.parametrize("folds", [False, True])
def test_errors_against_loops(folds):
    generator = np.random.default_rng(1)
    scores, weights, strategies, seeds, _ = simulated(generator, [0, 0, 0.1, 0.2], 3, 15, 0.1, folds=folds)
    scores = scores + 0.1 * generator.standard_normal(scores.shape)
    weights = weights * generator.integers(1, 5, (len(weights), 1))  # as of tokens
    pairs = list(combinations(range(4), 2))
    found = paired_intervals(scores, weights, strategies, seeds, pairs, resamples=10)
    expected = naive(scores, weights, strategies, seeds, pairs)
    for pair, (_, (center, variance, degrees)) in enumerate(expected):
        assert found.mean[pair] == pytest.approx(center, abs=1e-12)
        assert found.error[pair] ** 2 == pytest.approx(variance, rel=1e-9)
        assert found.degrees[pair] == pytest.approx(degrees, rel=1e-9)


def test_one_seed_is_the_paired_t_interval_of_the_rows():
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((25, 2))
    found = paired_intervals(scores, np.ones((25, 2)), [0, 1], [0, 0], [(0, 1)], resamples=40_000)
    apart = scores[:, 0] - scores[:, 1]
    half = 2.0639 * apart.std(ddof=1) / 5  # 97.5% quantile of Student's t with 24 degrees of freedom
    assert found.mean[0] == pytest.approx(apart.mean())
    assert found.degrees[0] == pytest.approx(24)
    assert (found.high - found.low)[0] / 2 == pytest.approx(half, rel=0.04)


def test_seeds_alone_are_the_t_interval_of_the_seeds():
    # scores that do not depend on the row: all spread is between seeds
    values = np.array([0.1, 0.5, 0.3, 0.0, 0.0, 0.0])
    found = paired_intervals(
        *(np.tile(values, (50, 1)), np.ones((50, 6)), [0] * 3 + [1] * 3, [0, 1, 2] * 2, [(0, 1)]),
        resamples=100_000,
    )
    assert found.degrees[0] == pytest.approx(2)
    half = 4.3027 * 0.2 / math.sqrt(3)
    assert (found.high - found.low)[0] / 2 == pytest.approx(half, rel=0.03)


def test_seeds_are_pooled_over_pairs():
    generator = np.random.default_rng(0)
    runs = generator.standard_normal((5, 2)).ravel()
    names, seeds = np.repeat(np.arange(5), 2).tolist(), [0, 1] * 5
    pairs = list(combinations(range(5), 2))
    found = paired_intervals(np.tile(runs, (30, 1)), np.ones((30, 10)), names, seeds, pairs)
    deltas = [(runs[2 * i] - runs[2 * j]) - (runs[2 * i + 1] - runs[2 * j + 1]) for i, j in pairs]
    spreads = np.square(deltas) / 2
    # one degree of freedom of its own, and three that the other strategies have (four would be the most)
    np.testing.assert_allclose(found.error**2, (spreads + 3 * spreads.mean()) / 4 / 2)
    np.testing.assert_allclose(found.degrees, 4)


def test_a_pair_with_one_seed_takes_the_spread_of_the_others():
    generator = np.random.default_rng(0)
    runs = generator.standard_normal(7)
    names, seeds = [0, 0, 1, 1, 2, 2, 3], [0, 1, 0, 1, 0, 1, 0]
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3)]
    found = paired_intervals(np.tile(runs, (30, 1)), np.ones((30, 7)), names, seeds, pairs)
    assert found.seeds.tolist() == [2, 2, 2, 1]
    assert found.mean[3] == pytest.approx(runs[0] - runs[6])  # on the common seed
    pooled = np.mean(
        [((runs[a] - runs[b]) - (runs[a + 1] - runs[b + 1])) ** 2 / 2 for a, b in [(0, 2), (0, 4), (2, 4)]]
    )
    assert found.error[3] == pytest.approx(math.sqrt(pooled))


def test_same_seed_same_interval_and_rows_without_weight_count_for_none():
    generator = np.random.default_rng(0)
    scores, weights, names, seeds, _ = simulated(generator, [0, 0.1], 3, 40, 0.05)
    scores = scores + generator.uniform(0, 0.2, scores.shape)  # of shares of rows there are few, which draws repeat
    first = paired_intervals(scores, weights, names, seeds, [(0, 1)])
    again = paired_intervals(scores, weights, names, seeds, [(0, 1)])
    other = paired_intervals(scores, weights, names, seeds, [(0, 1)], random_state=1)
    assert first.low == again.low and first.low != other.low
    assert other.low[0] == pytest.approx(first.low[0], abs=0.03)
    more = np.vstack([scores, np.full((7, 6), np.nan)]), np.vstack([weights, np.zeros((7, 6))])
    assert paired_intervals(*more, names, seeds, [(0, 1)]).error[0] == pytest.approx(first.error[0])


def test_wider_confidence_and_more_pairs_are_wider():
    scores, weights, names, seeds, _ = simulated(np.random.default_rng(0), [0, 0, 0, 0], 3, 60, 0.02)
    pairs = list(combinations(range(4), 2))
    alone = paired_intervals(scores, weights, names, seeds, pairs, familywise=False)
    together = paired_intervals(scores, weights, names, seeds, pairs)
    surer = paired_intervals(scores, weights, names, seeds, pairs, confidence=0.99)
    assert (alone.low > together.low).all() and (together.low > surer.low).all()
    np.testing.assert_allclose(alone.error, together.error)
    two = paired_intervals(scores, weights, names, seeds, pairs, family=[0, 4])
    assert (two.low > together.low).all() and two.low[0] < alone.low[0]
    np.testing.assert_allclose(two.error, together.error)  # of the spread of all pairs


def test_means_and_rows_that_do_not_differ():
    ones = np.ones((12, 2))
    found = paired_intervals(ones, ones, [0, 1], [0, 0], [(0, 1), (0, None)])
    assert found.low.tolist() == found.high.tolist() == found.mean.tolist() == [0, 1]
    assert np.isfinite(found.degrees).all()
    one = paired_intervals(ones[:1], ones[:1], [0, 1], [0, 0], [(0, 1)])
    assert one.low.tolist() == one.high.tolist() == [0]


def test_thousand_small_tables_are_finite():
    generator = np.random.default_rng(0)
    for _ in range(1000):
        rows, strategies, seeds = generator.integers(1, 6), generator.integers(2, 4), generator.integers(1, 4)
        scores = generator.integers(0, 2, (rows, strategies * seeds)).astype(float) * generator.choice([1.0, 1e6, 0.0])
        names, columns = np.repeat(np.arange(strategies), seeds), np.tile(np.arange(seeds), strategies)
        pairs = [*combinations(range(strategies), 2), (0, None)]
        found = paired_intervals(scores, np.ones_like(scores), names.tolist(), columns.tolist(), pairs, resamples=5)
        assert all(np.isfinite(values).all() for values in vars(found).values())
        assert (found.low <= found.mean).all() and (found.mean <= found.high).all()


def test_what_cannot_be_compared_is_refused():
    ones = np.ones((3, 2))
    with pytest.raises(ValueError, match="`confidence=1.0` is outside"):
        paired_intervals(ones, ones, [0, 1], [0, 0], [(0, 1)], confidence=1.0)
    with pytest.raises(ValueError, match="no seed in common: there is nothing to pair"):
        paired_intervals(ones, ones, [0, 1], [0, 1], [(0, 1)])
    with pytest.raises(ValueError, match="run without a row that counts"):
        paired_intervals(ones, ones * [1, 0], [0, 1], [0, 0], [(0, 1)])
    with pytest.raises(ValueError, match="scores are not finite"):
        paired_intervals(ones * np.nan, ones, [0, 1], [0, 0], [(0, 1)])
