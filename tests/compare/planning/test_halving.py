"""Successive halving: who goes on, against a naive replay; ties, the last one, and what is still open."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from hf_transfer.compare.judging.row_scores import RowScores
from hf_transfer.compare.planning.halving import better_half, mean_scores, survivors, undecided


@pytest.mark.parametrize("count", range(1, 10))
def test_half_of_all_sizes_rounded_up(count):
    names = [f"s{number}" for number in range(count)]
    kept = better_half({name: number for number, name in enumerate(names)}, names)
    assert len(kept) == (count + 1) // 2
    assert kept == names[count // 2 :]  # the best, in the order that was given


def test_the_last_is_never_dropped():
    assert better_half({"only": -5.0}, ["only"]) == ["only"]
    assert survivors({"only": {seed: 0.0 for seed in range(9)}}, ["only"], range(9)) == ["only"]


def test_nobody_is_left_of_nobody():
    assert better_half({}, ["a", "b"]) == []
    assert survivors({}, ["a", "b"], [0]) == []


def test_of_equal_ones_the_cheaper_go_on():
    scores = dict.fromkeys("dcba", 0.5)
    assert better_half(scores, "abcd") == ["a", "b"]
    assert better_half(scores, "dcba") == ["d", "c"]
    assert better_half({**scores, "d": 0.6}, "abcd") == ["a", "d"]


def test_who_has_no_score_is_out():
    assert better_half({"b": 0.1, "c": 0.2}, "abc") == ["c"]
    assert survivors({"a": {1: 0.9}, "b": {0: 0.1, 1: 0.1}}, "ab", [0]) == ["b"]  # `a` failed with the first seed


def test_means_over_the_seeds_there_are():
    scores = {"a": {0: 1.0, 1: 0.0, 2: 9.0}, "b": {1: 0.25}, "c": {}}
    assert mean_scores(scores, [0, 1]) == {"a": 0.5, "b": 0.25}
    assert mean_scores(scores, []) == {}


def test_survivors_against_a_naive_replay():
    draw = random.Random(0)
    for _ in range(300):
        count, rounds = draw.randint(1, 9), draw.randint(0, 4)
        order = [f"s{number}" for number in range(count)]
        scores = {name: {seed: draw.choice([0.1, 0.2, 0.3]) for seed in range(rounds)} for name in order}
        alive = list(order)
        for seeds in range(1, rounds + 1):
            means = [statistics.fmean(scores[name][seed] for seed in range(seeds)) for name in alive]
            ranked = sorted(range(len(alive)), key=lambda place: (-means[place], place))  # noqa: B023
            alive = [alive[place] for place in sorted(ranked[: len(alive) - len(alive) // 2])]
        assert survivors(scores, order, list(range(rounds))) == alive
        assert alive


def test_later_scores_of_dropped_ones_change_nothing():
    scores = {"a": {0: 0.9}, "b": {0: 0.8}, "c": {0: 0.1}, "d": {0: 0.0}}
    first = survivors(scores, "abcd", [0])
    scores["a"][1], scores["b"][1] = 0.5, 0.9
    second = survivors(scores, "abcd", [0, 1])
    scores["c"][1] = scores["d"][1] = 1.0  # with a budget they come last of all
    assert survivors(scores, "abcd", [0]) == first == ["a", "b"]
    assert survivors(scores, "abcd", [0, 1]) == second == ["b"]


def _rows(scores, weights=None):
    scores = np.asarray(scores, dtype=np.float64)
    return RowScores(np.arange(len(scores)), scores, np.ones(len(scores)) if weights is None else np.asarray(weights))


def test_a_clear_difference_is_decided_and_a_small_one_is_open():
    right, wrong = [1.0] * 40, [0.0] * 40
    assert not undecided([_rows(right)], [_rows(wrong[:30] + right[:10])])
    assert not undecided([_rows(wrong[:30] + right[:10])], [_rows(right)])  # also where transfer hurts
    assert undecided([_rows(right[:1] + wrong[1:])], [_rows(wrong[1:] + right[:1])])
    assert undecided([_rows(right)], [_rows(right)])


def test_more_seeds_decide_what_one_leaves_open():
    leader = [1.0, 1.0, 1.0, 0.0] * 5
    scratch = [1.0, 1.0, 0.0, 1.0] * 2 + [0.0, 1.0, 1.0, 0.0] * 3
    assert undecided([_rows(leader)], [_rows(scratch)])
    assert not undecided([_rows(leader)] * 40, [_rows(scratch)] * 40)


def test_the_rule_against_a_naive_loop():
    draw = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        rows, seeds = int(draw.integers(2, 12)), int(draw.integers(1, 4))
        pairs = [
            (_rows(draw.random(rows), w := draw.integers(1, 5, rows)), _rows(draw.random(rows) * draw.random(), w))
            for _ in range(seeds)
        ]
        total = mean = spread = 0.0
        for a, b in pairs:
            for row in range(rows):
                total += a.weights[row]
                mean += a.weights[row] * (a.scores[row] - b.scores[row])
        mean /= total
        for a, b in pairs:
            for row in range(rows):
                spread += (a.weights[row] * (a.scores[row] - b.scores[row] - mean)) ** 2
        expected = abs(mean) <= 2 * spread**0.5 / total
        assert undecided([a for a, _ in pairs], [b for _, b in pairs]) == expected
        seen.add(expected)
    assert seen == {True, False}


def test_without_rows_it_is_open():
    assert undecided([], [])
    assert undecided([_rows([1.0])], [])
    assert undecided([_rows([1.0], [0.0])], [_rows([0.0], [0.0])])  # no token has a label
    assert not undecided([_rows([1.0, 1.0])], [_rows([0.0, 0.0])])
