"""Episodes: layout, disjoint support and query, and that each is a function of seed and number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features

from hf_transfer.few_shot.episodes import Episodes


LABELS = np.random.default_rng(0).permutation(np.repeat([3, 4, 7, 8, 20], [9, 12, 30, 8, 15]))


def episodes(labels=LABELS, **options):
    return Episodes(labels, **{"n_way": 3, "k_shot": 2, "queries": 4, **options})


def test_rows_are_class_major_and_of_the_classes_named():
    rows = episodes().draw(range(200))
    assert rows.support.shape == (200, 6) and rows.query.shape == (200, 12) and rows.classes.shape == (200, 3)
    assert (LABELS[rows.support] == np.repeat(rows.classes, 2, axis=1)).all()
    assert (LABELS[rows.query] == np.repeat(rows.classes, 4, axis=1)).all()
    assert rows.support_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.query_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_labels_within_an_episode_are_places_of_its_classes():
    rows = episodes().draw(range(20))
    assert (rows.classes[:, rows.support_labels] == LABELS[rows.support]).all()
    assert (rows.classes[:, rows.query_labels] == LABELS[rows.query]).all()


def test_no_row_comes_twice_in_an_episode():
    """Class 8 has 8 rows, of which an episode takes 6."""
    rows = episodes().draw(range(500))
    both = np.sort(np.concatenate([rows.support, rows.query], axis=1), axis=1)
    assert (both[:, 1:] != both[:, :-1]).all()
    assert all(len(set(classes)) == 3 for classes in rows.classes.tolist())


def test_an_episode_is_a_function_of_seed_and_number():
    drawn = episodes()
    together = drawn.draw(range(50))
    for number in (0, 17, 49):
        alone = episodes().draw([number])
        for name in ("support", "query", "classes"):
            assert (getattr(alone, name)[0] == getattr(together, name)[number]).all()
    backwards = drawn.draw(np.arange(50)[::-1])
    assert (backwards.support[::-1] == together.support).all()


def test_seeds_and_numbers_give_other_episodes():
    drawn = [tuple(episodes(seed=seed).draw([number]).support[0]) for seed in range(5) for number in range(20)]
    assert len(set(drawn)) == 100


def test_global_random_state_is_neither_read_nor_changed():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = episodes().draw(range(3)).support
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    assert (episodes().draw(range(3)).support == first).all()


def test_classes_and_rows_are_drawn_evenly():
    """5 classes, 3 an episode: each in 0.6 of them, first in 0.2; row by row within a class of 30."""
    rows = episodes().draw(range(6000))
    for counts, expected in (
        (Counter(rows.classes.reshape(-1).tolist()), 3600),
        (Counter(rows.classes[:, 0].tolist()), 1200),
    ):
        assert len(counts) == 5 and all(abs(count - expected) < 4.5 * expected**0.5 for count in counts.values())
    of_seven = [row for row in rows.support.reshape(-1).tolist() if LABELS[row] == 7]
    counts = Counter(of_seven)
    assert len(counts) == 30
    assert all(abs(count - len(of_seven) / 30) < 4.5 * (len(of_seven) / 30) ** 0.5 for count in counts.values())


def test_rows_without_a_label_are_never_drawn():
    labels = LABELS.copy()
    labels[::5] = -100
    rows = episodes(labels, k_shot=1, queries=2).draw(range(300))
    assert (labels[np.concatenate([rows.support, rows.query], axis=1)] >= 0).all()
    assert episodes(labels, k_shot=1, queries=2).labelled == (labels >= 0).sum()


def test_all_rows_of_all_classes_can_be_one_episode():
    rows = Episodes([0, 1, 0, 1, 1, 0], n_way=2, k_shot=1, queries=2).draw(range(10))
    both = np.sort(np.concatenate([rows.support, rows.query], axis=1), axis=1)
    assert (both == np.arange(6)).all() and len({tuple(support) for support in rows.support.tolist()}) > 1


def test_a_data_set_may_be_passed():
    data = Dataset.from_dict({"label": [0, 1] * 4}, features=Features({"label": ClassLabel(names=["cat", "dog"])}))
    drawn = Episodes(data, n_way=2, queries=2)
    assert drawn.names == ("cat", "dog") and drawn.size == 6
    assert drawn.draw([0]).support.shape == (1, 2)


def test_no_episodes_are_empty_tables():
    rows = episodes().draw([])
    assert rows.support.shape == (0, 6) and rows.query.shape == (0, 12)


def test_a_class_that_is_too_small_is_named():
    labels = ["ant"] * 6 + ["bee"] * 3 + ["wasp"] * 9
    message = "takes 5 rows of a class .`k_shot=1`, `queries=4`.*`bee` .3 rows.* Lower `queries` or `k_shot`"
    with pytest.raises(ValueError, match=message):
        Episodes(labels, n_way=2, queries=4)
    with pytest.raises(ValueError, match=r"class 8 \(8 rows\)\. A row cannot be both"):
        episodes(k_shot=5, queries=4)
    with pytest.raises(ValueError, match=r"`eight` \(8 rows\)"):
        episodes(k_shot=5, queries=4, label_names=[*"01234567", "eight"])


def test_many_classes_that_are_too_small_are_counted():
    with pytest.raises(ValueError, match="class 4 .1 rows. and 3 more"):
        Episodes(list(range(8)), n_way=2)


def test_fewer_classes_than_ways_are_refused():
    with pytest.raises(ValueError, match="of 5 classes, an episode has `n_way=6`.*Pass `n_way=5` or less"):
        episodes(n_way=6)


@pytest.mark.parametrize(("name", "value"), [("n_way", 1), ("k_shot", 0), ("queries", 0)])
def test_numbers_that_are_too_small_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}={value}`: an episode tells at least two classes apart.*Pass"):
        episodes(**{name: value})


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="`seed=-1` is negative.*Pass 0"):
        episodes(seed=-1)


def test_a_class_of_exactly_the_rows_needed_is_drawn_whole():
    """Class 8 has 8 rows: with 3 shots and 5 queries all of them, in other roles from episode to episode."""
    rows = episodes(k_shot=3, queries=5).draw(range(200))
    at = rows.classes == 8
    support = rows.support.reshape(200, 3, 3)[at]
    both = np.concatenate([support, rows.query.reshape(200, 3, 5)[at]], axis=1)
    assert (np.sort(both, axis=1) == np.flatnonzero(LABELS == 8)).all()
    assert len({tuple(each) for each in support.tolist()}) > 50


def test_shots_and_queries_are_alike_in_distribution():
    """A row of class 7 is as often the first support row as the last query, given how many there are of each."""
    rows = episodes(k_shot=1, queries=5).draw(range(6000))
    at = rows.classes == 7
    first = Counter(rows.support.reshape(6000, 3, 1)[at][:, 0].tolist())
    last = Counter(rows.query.reshape(6000, 3, 5)[at][:, -1].tolist())
    total = at.sum()
    for counts in (first, last):
        # chi-square with 29 degrees of freedom: 99.99% are below 66
        assert sum((counts[row] - total / 30) ** 2 / (total / 30) for row in np.flatnonzero(LABELS == 7)) < 66
