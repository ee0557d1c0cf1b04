"""Nearest means against loops over episodes, classes and rows in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.functional.few_shot import (
    centred,
    class_means,
    nearest_mean,
    one_hot,
    prototypes,
    simpleshot,
    squared_distances,
)
from hf_transfer.functional.few_shot_logistic import logistic
from hf_transfer.functional.transductive import bd_cspn, laplacian_shot, tim


METHODS = [nearest_mean, prototypes, simpleshot, logistic, bd_cspn, laplacian_shot, tim]
WAYS, SHOTS, WIDTH = 3, 4, 6


def made(episodes=5, queries=7, *, width=WIDTH, seed=0, spread=1.0):
    """Random episodes in float64, support rows in random order: features, labels, queries and their classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(episodes, WAYS, width, generator=generator, dtype=torch.float64) + 1
    labels = torch.stack(
        [torch.randperm(WAYS * SHOTS, generator=generator) // SHOTS for _ in range(episodes)]
    )  # not class-major
    truth = torch.randint(WAYS, (episodes, queries), generator=generator)

    def around(numbers):
        picked = centres.gather(1, numbers.unsqueeze(-1).expand(-1, -1, width))
        return picked + spread * torch.randn(picked.shape, generator=generator, dtype=torch.float64)

    return around(labels), labels, around(truth), truth


def by_hand(rule, support, labels, query):
    """`rule(support (S, D), labels (S,), query (D,), class)` for every episode, query and class."""
    support, labels, query = support.numpy(), labels.numpy(), query.numpy()
    return torch.tensor(
        np.array(
            [
                [[rule(support[e], labels[e], row, c) for c in range(WAYS)] for row in query[e]]
                for e in range(len(support))
            ]
        )
    )


def mean_of(rows, labels, number):
    total, count = np.zeros(rows.shape[1]), 0
    for row, label in zip(rows, labels, strict=True):
        if label == number:
            total, count = total + row, count + 1
    return total / count


def unit(row):
    return row / np.sqrt((row**2).sum())


def test_class_means_are_those_of_a_loop_in_any_order_of_the_labels():
    support, labels, *_ = made()
    found = class_means(support, labels, WAYS)
    for episode in range(len(support)):
        for number in range(WAYS):
            expected = mean_of(support[episode].numpy(), labels[episode].numpy(), number)
            np.testing.assert_allclose(found[episode, number].numpy(), expected, atol=1e-12)


def test_class_without_support_has_the_mean_zero():
    found = class_means(torch.ones(1, 2, 3), torch.tensor([[0, 0]]), 2)
    assert torch.equal(found[0], torch.tensor([[1.0] * 3, [0.0] * 3]))


def test_one_hot_has_the_type_of_the_features():
    found = one_hot(torch.tensor([[0, 2]]), 3, like=torch.zeros(1, dtype=torch.float64))
    assert found.dtype == torch.float64 and found.tolist() == [[[1, 0, 0], [0, 0, 1]]]


def test_prototypes_are_minus_squared_distances():
    support, labels, query, _ = made()
    expected = by_hand(lambda s, y, x, c: -((x - mean_of(s, y, c)) ** 2).sum(), support, labels, query)
    torch.testing.assert_close(prototypes(support, labels, query, WAYS), expected)


def test_nearest_mean_is_the_cosine_to_the_mean_of_directions():
    support, labels, query, _ = made()

    def rule(rows, classes, row, number):
        directions = np.array([unit(each) for each in rows])
        return unit(row) @ unit(mean_of(directions, classes, number))

    torch.testing.assert_close(nearest_mean(support, labels, query, WAYS), by_hand(rule, support, labels, query))


def test_nearest_mean_does_not_look_at_lengths():
    support, labels, query, _ = made()
    longer = support * torch.linspace(0.1, 9, support.shape[1], dtype=support.dtype)[None, :, None]
    torch.testing.assert_close(
        nearest_mean(longer, labels, 5 * query, WAYS), nearest_mean(support, labels, query, WAYS)
    )


@pytest.mark.parametrize("with_base", [True, False])
def test_simpleshot_centres_normalises_and_takes_euclidean_distances(with_base):
    support, labels, query, _ = made()
    base = torch.linspace(-1, 1, WIDTH, dtype=torch.float64) if with_base else None

    def rule(rows, classes, row, number):
        centre = np.mean([mean_of(rows, classes, c) for c in range(WAYS)], axis=0) if base is None else base.numpy()
        scaled = np.array([unit(each - centre) for each in rows])
        return -((unit(row - centre) - mean_of(scaled, classes, number)) ** 2).sum()

    found = simpleshot(support, labels, query, WAYS, base_mean=base)
    torch.testing.assert_close(found, by_hand(rule, support, labels, query))


def test_the_base_mean_matters():
    """All features share a long part: only less that part do their directions differ."""
    generator = torch.Generator().manual_seed(0)
    common = torch.full((8,), 100.0)
    centres = torch.randn(1, 2, 8, generator=generator)
    query = centres.repeat(1, 20, 1) + 0.3 * torch.randn(1, 40, 8, generator=generator)
    labels = torch.tensor([[0, 1]])
    truth = torch.tensor([0, 1]).repeat(20)
    centred_one = simpleshot(centres + common, labels, query + common, 2, base_mean=common)
    assert (centred_one[0].argmax(-1) == truth).float().mean() > 0.9
    angles = nearest_mean(centres + common, labels, query + common, 2)
    assert (angles.amax(-1) - angles.amin(-1)).max() < 0.01 < (centred_one.amax(-1) - centred_one.amin(-1)).min()


def test_distances_keep_their_digits_far_from_the_origin():
    """A difference of 1 beside a common 1e4, whose square has no room for it in float32."""
    means = 1e4 + torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    query = 1e4 + torch.tensor([[[0.25, 0.0], [0.75, 0.0]]])
    assert squared_distances(query, means).argmin(-1).tolist() == [[0, 1]]
    assert (squared_distances(query, means) >= 0).all()


def test_centred_rows_have_length_one():
    support, labels, query, _ = made()
    for part in centred(support, labels, query, WAYS, None):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(part.shape[:2], dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_methods_find_well_separated_classes(method):
    support, labels, query, truth = made(20, 12, width=40)
    logits = method(support.float(), labels, query.float(), WAYS)
    assert logits.shape == (20, 12, WAYS) and logits.dtype == torch.float32
    assert (logits.argmax(-1) == truth).float().mean() > 0.97


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_episodes_do_not_see_each_other(method):
    support, labels, query, _ = made()
    together = method(support, labels, query, WAYS)
    for episode in range(len(support)):
        one = slice(episode, episode + 1)
        alone = method(support[one], labels[one], query[one], WAYS)
        torch.testing.assert_close(alone, together[one], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_names_of_classes_do_not_matter(method):
    support, labels, query, _ = made()
    renamed = torch.tensor([2, 0, 1])
    found = method(support, renamed[labels], query, WAYS)
    torch.testing.assert_close(found[..., renamed], method(support, labels, query, WAYS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_only_transductive_methods_see_other_queries(method):
    support, labels, query, _ = made(spread=2.0)
    fewer = method(support, labels, query[:, :3], WAYS)
    same = torch.allclose(fewer, method(support, labels, query, WAYS)[:, :3], atol=1e-8)
    assert same == (method not in (bd_cspn, laplacian_shot, tim))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_1000_degenerate_episodes_are_finite(method):
    """Constant, zero, huge, tiny and repeated features, an absent class, few queries: 40 draws of 25 episodes."""
    generator = torch.Generator().manual_seed(0)
    for draw in range(40):
        shots, queries = 1 + draw % 3, 1 + draw % 4
        support = torch.randn(25, 3 * shots, 5, generator=generator)
        query = torch.randn(25, queries, 5, generator=generator)
        labels = torch.arange(3).repeat_interleave(shots).repeat(25, 1)
        if draw % 5 == 1:
            labels = labels.clamp(max=1)  # nothing of class 2
        size = (1.0, 1e4, 1e-4, 0.0)[draw % 4]
        support, query = size * support, size * query
        support[:5], query[:5] = 3.0, 3.0
        support[5:10] = support[5:10, :1]
        query[10:15] = support[10:15, :1]
        query[15:18] = 0
        assert method(support, labels, query, 3).isfinite().all(), draw
