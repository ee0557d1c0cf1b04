"""Transductive methods against loops written from the papers' equations, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.functional.few_shot import class_means, nearest_mean, prototypes, simpleshot
from hf_transfer.functional.transductive import bd_cspn, laplacian_shot, rectified_means, tim
from tests.functional.test_few_shot import WAYS, made, mean_of, unit


def cosine(one, other):
    return unit(one) @ unit(other)


def soft(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def rectified(support, labels, query, sharpness=10.0):
    """Means and moved queries of one episode, row by row."""
    means = [mean_of(support, labels, number) for number in range(WAYS)]
    moved = [row + support.mean(0) - query.mean(0) for row in query]
    members = [[row for row, label in zip(support, labels, strict=True) if label == number] for number in range(WAYS)]
    for row in moved:
        members[int(np.argmax([cosine(row, mean) for mean in means]))].append(row)
    new = []
    for number in range(WAYS):
        powers = [np.exp(sharpness * cosine(row, means[number])) for row in members[number]]
        new.append(sum(power * row for power, row in zip(powers, members[number], strict=True)) / sum(powers))
    return np.array(new), np.array(moved)


def each_episode(rule, support, labels, query):
    parts = zip(support.numpy(), labels.numpy(), query.numpy(), strict=True)
    return torch.tensor(np.array([rule(*part) for part in parts]))


@pytest.mark.parametrize("sharpness", [10.0, 2.0])
def test_rectified_means_are_those_of_a_loop(sharpness):
    support, labels, query, _ = made(spread=2.0)
    means, moved = rectified_means(support, labels, query, WAYS, sharpness=sharpness)
    parts = zip(support.numpy(), labels.numpy(), query.numpy(), strict=True)
    expected = [rectified(*part, sharpness) for part in parts]
    torch.testing.assert_close(means, torch.tensor(np.array([part[0] for part in expected])))
    torch.testing.assert_close(moved, torch.tensor(np.array([part[1] for part in expected])))


def test_bd_cspn_is_the_cosine_to_rectified_means_of_directions():
    support, labels, query, _ = made(spread=2.0)

    def rule(rows, classes, queries):
        rows, queries = np.array([unit(row) for row in rows]), np.array([unit(row) for row in queries])
        means, moved = rectified(rows, classes, queries)
        return [[10 * cosine(row, mean) for mean in means] for row in moved]

    torch.testing.assert_close(bd_cspn(support, labels, query, WAYS), each_episode(rule, support, labels, query))


def test_queries_that_are_shifted_are_moved_back():
    """All queries in another light: the difference of the means takes it away."""
    support, labels, _, _ = made(30, width=30, spread=0.5)
    directions = torch.nn.functional.normalize
    support = directions(support, dim=-1)
    means = class_means(support, labels, WAYS)
    query = support + 3 * (means[:, :1] - means.mean(1, keepdim=True))  # towards class 0
    right = {
        method: (method(support, labels, query, WAYS).argmax(-1) == labels).double().mean().item()
        for method in (nearest_mean, bd_cspn)
    }
    assert right[nearest_mean] < 0.5 < 0.8 < right[bd_cspn], right


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("with_base", [True, False])
def test_laplacian_shot_is_the_papers_update(rectify, with_base):
    support, labels, query, _ = made(spread=2.0)
    base = torch.linspace(-1, 1, support.shape[-1], dtype=torch.float64) if with_base else None

    def rule(rows, classes, queries):
        centre = np.mean([mean_of(rows, classes, c) for c in range(WAYS)], axis=0) if base is None else base.numpy()
        rows, queries = (np.array([unit(row - centre) for row in part]) for part in (rows, queries))
        means = np.array([mean_of(rows, classes, number) for number in range(WAYS)])
        if rectify:
            means, queries = rectified(rows, classes, queries)
        count = len(queries)
        unary = np.array([[((row - mean) ** 2).sum() for mean in means] for row in queries])
        affinity = np.zeros((count, count))
        for q in range(count):
            distances = [((queries[q] - queries[r]) ** 2).sum() if r != q else np.inf for r in range(count)]
            affinity[q, np.argsort(distances)[:2]] = 1
        assigned = np.array([soft(-row) for row in unary])
        for _ in range(4):
            sums = [sum(affinity[q, r] * assigned[r] for r in range(count)) for q in range(count)]
            logits = np.array([-unary[q] + 0.7 * sums[q] for q in range(count)])
            assigned = np.array([soft(row) for row in logits])
        return logits

    options = {"base_mean": base, "neighbours": 2, "strength": 0.7, "iterations": 4, "rectify": rectify}
    found = laplacian_shot(support, labels, query, WAYS, **options)
    torch.testing.assert_close(found, each_episode(rule, support, labels, query))


def test_laplacian_shot_without_its_term_is_simpleshot():
    support, labels, query, _ = made()
    found = laplacian_shot(support, labels, query, WAYS, strength=0.0, rectify=False)
    torch.testing.assert_close(found, simpleshot(support, labels, query, WAYS))


def test_neighbours_carry_a_query_along():
    """A query between two means goes with its neighbours."""
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    labels, base = torch.tensor([[0, 1]]), torch.zeros(2)
    angles = torch.tensor([50, 44, 42, 40, 85]) * torch.pi / 180
    query = torch.stack([angles.cos(), angles.sin()], -1)[None]
    options = {"base_mean": base, "rectify": False, "neighbours": 2}
    alone = laplacian_shot(support, labels, query, 2, strength=0.0, **options)
    joined = laplacian_shot(support, labels, query, 2, strength=1.0, **options)
    assert alone.argmax(-1)[0].tolist() == [1, 0, 0, 0, 1]
    assert joined.argmax(-1)[0].tolist() == [0, 0, 0, 0, 1]


def tim_by_hand(support, labels, query, rounds, temperature=15.0, on_support=0.1, on_entropy=0.1):
    """Propositions of the paper with explicit class vectors; logits of the queries."""
    support, query = np.array([unit(row) for row in support]), np.array([unit(row) for row in query])
    vectors = np.array([mean_of(support, labels, number) for number in range(WAYS)])

    def probabilities(row):
        return soft(np.array([-temperature / 2 * ((w - row) ** 2).sum() for w in vectors]))

    shots, count = len(support), len(query)
    for _ in range(rounds):
        of_support = np.array([probabilities(row) for row in support])
        of_query = np.array([probabilities(row) for row in query])
        columns = [sum(of_query[i, k] ** (1 + on_entropy) for i in range(count)) for k in range(WAYS)]
        target = np.array(
            [[of_query[i, k] ** (1 + on_entropy) / columns[k] ** 0.5 for k in range(WAYS)] for i in range(count)]
        )
        target /= target.sum(1, keepdims=True)
        new = []
        for k in range(WAYS):
            top, bottom = np.zeros(support.shape[1]), 0.0
            for i in range(shots):
                own, weight = float(labels[i] == k), on_support / (1 + on_entropy)
                top += weight * (own * support[i] + of_support[i, k] * (vectors[k] - support[i]))
                bottom += weight * own
            for i in range(count):
                weight = shots / count
                top += weight * (target[i, k] * query[i] + of_query[i, k] * (vectors[k] - query[i]))
                bottom += weight * target[i, k]
            new.append(top / bottom)
        vectors = np.array(new)
    return [[-temperature / 2 * ((w - row) ** 2).sum() for w in vectors] for row in query]


@pytest.mark.parametrize("rounds", [0, 1, 8])
def test_tim_is_the_papers_alternation(rounds):
    support, labels, query, _ = made(3, spread=2.0)
    expected = each_episode(lambda *part: tim_by_hand(*part, rounds), support, labels, query)
    torch.testing.assert_close(tim(support, labels, query, WAYS, iterations=rounds), expected)


def test_tim_lowers_its_objective():
    """What the class vectors have to do with the queries: less their entropy, more that of their mean."""
    support, labels, query, _ = made(20, 15, width=20, spread=3.0)

    def objective(rounds):
        chances = tim(support, labels, query, WAYS, iterations=rounds).softmax(-1)
        mean = chances.mean(1)
        return ((mean * mean.log()).sum(-1) - 0.1 * (chances * chances.log()).sum((1, 2)) / 15).mean().item()

    values = [objective(rounds) for rounds in (0, 5, 150)]
    assert values[0] > values[1] > values[2]


def test_tim_without_rounds_is_the_nearest_mean_of_directions():
    support, labels, query, _ = made()
    directions = torch.nn.functional.normalize
    expected = 7.5 * prototypes(directions(support, dim=-1), labels, directions(query, dim=-1), WAYS)
    torch.testing.assert_close(tim(support, labels, query, WAYS, iterations=0), expected)


def test_transductive_methods_gain_where_queries_form_clusters():
    """One shot far from the middle of its class, many queries around it."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(40, 5, 60, generator=generator)
    support = centres + 1.5 * torch.randn(40, 5, 60, generator=generator)
    truth = torch.arange(5).repeat_interleave(15).repeat(40, 1)
    query = centres.repeat_interleave(15, 1) + 0.7 * torch.randn(40, 75, 60, generator=generator)
    labels = torch.arange(5).repeat(40, 1)
    right = {
        method.__name__: (method(support, labels, query, 5).argmax(-1) == truth).float().mean().item()
        for method in (nearest_mean, bd_cspn, laplacian_shot, tim)
    }
    assert all(right[name] > right["nearest_mean"] + 0.01 for name in ("bd_cspn", "laplacian_shot", "tim")), right


def test_tim_comes_to_rest():
    """Rounds beyond the default number change no prediction, and chances little beside what came before."""
    support, labels, query, _ = made(10, 15, width=20, spread=2.0)
    after = [tim(support, labels, query, WAYS, iterations=rounds).softmax(-1) for rounds in (10, 150, 160)]
    assert torch.equal(after[2].argmax(-1), after[1].argmax(-1))
    assert (after[2] - after[1]).abs().max() < 0.01 < 0.05 < (after[1] - after[0]).abs().max()


def test_all_queries_are_neighbours_where_there_are_few():
    support, labels, query, _ = made(queries=3)
    few = laplacian_shot(support, labels, query, WAYS, neighbours=2)
    torch.testing.assert_close(laplacian_shot(support, labels, query, WAYS, neighbours=9), few)


def test_a_query_alone_has_no_neighbours():
    support, labels, query, _ = made(queries=1)
    plain = laplacian_shot(support, labels, query, WAYS, strength=0.0)
    torch.testing.assert_close(laplacian_shot(support, labels, query, WAYS), plain)


def test_sure_rows_pull_a_rectified_mean_more():
    """One support row and one query of its class: the weights are those of their cosines to the mean, e^(10 c)."""
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    query = torch.tensor([[[1.2, 0.6], [-0.2, 0.4]]], dtype=torch.float64)  # the mean of the support: no shift
    means, moved = rectified_means(support, torch.tensor([[0, 1]]), query, 2)
    torch.testing.assert_close(moved, query)
    own, other = np.exp(10.0), np.exp(10 * 1.2 / np.hypot(1.2, 0.6))
    expected = (own * support[0, 0] + other * query[0, 0]) / (own + other)
    torch.testing.assert_close(means[0, 0], expected)


def test_the_order_of_rows_does_not_matter():
    support, labels, query, _ = made(spread=2.0)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randperm(support.shape[1], generator=generator)
    queries = torch.randperm(query.shape[1], generator=generator)
    for method in (bd_cspn, laplacian_shot, tim):
        plain = method(support, labels, query, WAYS)[:, queries]
        torch.testing.assert_close(method(support[:, rows], labels[:, rows], query[:, queries], WAYS), plain)
