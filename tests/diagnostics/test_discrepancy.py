from __future__ import annotations

import math

import numpy as np
import pytest

from hf_transfer.diagnostics.discrepancy import MMDTest, kernel_matrix, mmd_test, unbiased_mmd


def normal(rows, width, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(rows, width)) + shift


def naive(source, target, bandwidths):
    """The estimate by loops over pairs, from the paper."""
    pooled = [*source, *target]
    squares = sorted(
        sum((a - b) ** 2 for a, b in zip(pooled[i], pooled[j], strict=True))
        for i in range(len(pooled))
        for j in range(i)
    )
    middle = len(squares) // 2
    median = squares[middle] if len(squares) % 2 else (squares[middle - 1] + squares[middle]) / 2

    def kernel(x, y):
        square = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
        return sum(math.exp(-square / (2 * b * b * median)) for b in bandwidths) / len(bandwidths)

    n, m = len(source), len(target)
    first = sum(kernel(source[i], source[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    second = sum(kernel(target[i], target[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    cross = sum(kernel(x, y) for x in source for y in target) / (n * m)
    return first + second - 2 * cross


@pytest.mark.parametrize(("n", "m"), [(7, 7), (9, 4), (2, 6)])
def test_the_estimate_is_that_of_the_double_loop(n, m):
    source, target = normal(n, 3, 0), normal(m, 3, 1, shift=0.5)
    bandwidths = (0.5, 1.0, 3.0)
    found = mmd_test(source, target, bandwidths=bandwidths, permutations=5)
    assert found.mmd == pytest.approx(naive(source, target, bandwidths), abs=1e-12)


def test_every_permutation_is_that_of_the_double_loop():
    rows = normal(9, 2, 3)
    kernel, _ = kernel_matrix(rows, (1.0,))
    divisions = np.stack([np.random.default_rng(seed).permutation([1.0] * 5 + [0.0] * 4) for seed in range(6)], axis=1)
    for number, value in enumerate(unbiased_mmd(kernel, divisions)):
        chosen = divisions[:, number] == 1
        assert value == pytest.approx(naive(rows[chosen], rows[~chosen], (1.0,)), abs=1e-12)


def test_the_bandwidths_are_told_in_units_of_the_features():
    rows = np.array([[0.0], [3.0], [1.0]])  # distances 3, 1, 2: the median square is 4
    kernel, widths = kernel_matrix(rows, (0.5, 2.0))
    assert widths == (1.0, 4.0)
    assert kernel[0, 1] == pytest.approx((math.exp(-9 / 2) + math.exp(-9 / 32)) / 2)
    assert not kernel.diagonal().any()


def test_the_estimate_is_unbiased():
    values = [mmd_test(normal(8, 3, s), normal(11, 3, s + 500), permutations=1).mmd for s in range(300)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


def test_p_values_under_the_null_are_about_uniform():
    values = np.array(
        [mmd_test(normal(14, 2, s), normal(10, 2, s + 900), permutations=59, seed=s).p_value for s in range(200)]
    )
    for level in (0.1, 0.25, 0.5, 0.75):
        # four standard errors of a share of 200
        assert abs((values <= level).mean() - level) < 4 * math.sqrt(level * (1 - level) / 200)


def test_a_shift_has_a_small_p_value_that_is_never_zero():
    found = mmd_test(normal(40, 4, 0), normal(30, 4, 1, shift=1.0), permutations=199)
    assert found.p_value == 1 / 200 < 0.01
    assert found.mmd > found.quantile > 0
    # a shift of the spread, which no mean tells
    assert mmd_test(normal(60, 4, 0), 2.5 * normal(60, 4, 1), permutations=199).p_value < 0.01


def test_identical_and_constant_rows_do_not_differ():
    same = normal(12, 3, 0)
    assert mmd_test(same, same).p_value > 0.5
    flat = mmd_test(np.ones((5, 3)), np.ones((4, 3)))
    assert (flat.mmd, flat.p_value) == (pytest.approx(0.0, abs=1e-12), 1.0)
    mostly = np.zeros((8, 1))
    mostly[0] = 2.0  # the median distance is 0: the next best is the median of those above
    assert mmd_test(mostly, np.zeros((8, 1)), permutations=3).bandwidths[2] == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e12])
def test_the_units_and_the_place_of_the_features_do_not_matter(scale):
    source, target = normal(9, 3, 0), normal(9, 3, 1, shift=0.4)
    found = mmd_test((source + 1e4) * scale, (target + 1e4) * scale, permutations=9)
    assert found.mmd == pytest.approx(mmd_test(source, target, permutations=9).mmd, rel=1e-5)


def test_rows_above_the_limit_are_drawn_and_the_result_says_so():
    found = mmd_test(normal(50, 2, 0), normal(20, 2, 1), max_rows=30, permutations=19)
    assert (found.source_rows, found.source_total, found.target_rows, found.target_total) == (30, 50, 20, 20)
    assert "30 of 50 source and 20 target rows" in str(found)
    assert mmd_test(normal(50, 2, 0), normal(20, 2, 1), max_rows=None, permutations=3).source_rows == 50


def test_one_token_of_an_example_is_compared():
    """Tokens of one example are alike: counted as rows of their own they would differ in every pair of domains."""
    generator = np.random.default_rng(0)

    def tokens(count):
        return [generator.normal(size=(1, 5)) + 0.01 * generator.normal(size=(20, 5)) for _ in range(count)]

    domains = [(tokens(6), tokens(6)) for _ in range(8)]
    found = [mmd_test(*pair, permutations=99) for pair in domains]
    assert {test.source_rows for test in found} == {6} and found[0].source_total == 120
    assert np.median([test.p_value for test in found]) > 0.1
    as_rows = [mmd_test(np.concatenate(a), np.concatenate(b), permutations=99).p_value for a, b in domains]
    assert max(as_rows) == 0.01


def test_the_same_seed_gives_the_same():
    pair = normal(15, 3, 0), normal(15, 3, 1)
    assert mmd_test(*pair, seed=1) == mmd_test(*pair, seed=1) != mmd_test(*pair, seed=2)


def test_it_prints_and_converts():
    found = MMDTest(0.5, 0.02, 49, 0.1, (1.0,), 3, 4, 3, 9)
    assert float(found) == 0.5
    assert str(found) == (
        "MMD^2 0.50000 (p = 0.02 by 49 permutations, 95% of them below 0.10000; 3 source and 4 of 9 target rows)"
    )


def test_bad_input_is_refused():
    rows = normal(5, 2, 0)
    with pytest.raises(ValueError, match=r"`permutations=0`.*default 999"):
        mmd_test(rows, rows, permutations=0)
    with pytest.raises(ValueError, match=r"`bandwidths=\(1.0, 0.0\)`.*positive numbers"):
        mmd_test(rows, rows, bandwidths=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"source has 1 examples: the MMD test needs at least 2"):
        mmd_test(rows[:1], rows)
    with pytest.raises(ValueError, match="not finite"):
        mmd_test(rows, rows * np.inf)
