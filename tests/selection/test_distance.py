"""Domain distances: that they are those of the diagnostics, their ends, and what refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_transfer.diagnostics import mmd_test, proxy_a_distance
from hf_transfer.functional.frechet import frechet_distance
from hf_transfer.selection import distance as module
from hf_transfer.selection.distance import DomainDistance, domain_distance
from hf_transfer.selection.task_embeddings import task_distance, task_embedding


def normal(rows, seed, shift=0.0, width=5):
    return np.random.default_rng(seed).normal(size=(rows, width)) + shift


def labels_of(rows, feature=0):
    return (rows[:, feature] > rows[:, feature].mean()).astype(int)


def test_it_is_the_distances_of_their_own_modules():
    source, target = normal(60, 0), normal(40, 1, shift=0.5)
    given = labels_of(source), labels_of(target, 2)
    found = domain_distance(source, target, source_labels=given[0], target_labels=given[1], seed=3)
    assert found.a_distance == proxy_a_distance(source, target, max_rows=2000, seed=3)
    assert found.mmd == mmd_test(source, target, seed=3)
    assert found.frechet == pytest.approx(frechet_distance(source, target))
    embeddings = task_embedding(source, given[0], seed=3), task_embedding(target, given[1], seed=3)
    assert found.task == pytest.approx(task_distance(*embeddings))
    assert (found.frechet_rows, found.width) == ((60, 40), 5)


def test_the_distance_by_chance_is_the_mean_of_random_divisions():
    source, target = normal(30, 0), normal(20, 1, shift=4.0)
    found = domain_distance(source, target, seed=1, figure=False)
    generator, rows = np.random.default_rng(1), np.concatenate([source, target])
    divisions = [rows[generator.permutation(50)] for _ in range(5)]
    expected = np.mean([frechet_distance(part[:30], part[30:]) for part in divisions])
    assert found.frechet_by_chance == pytest.approx(expected)
    assert found.frechet > 5 * found.frechet_by_chance


def test_equal_domains_are_at_what_chance_gives():
    found = [domain_distance(normal(80, s), normal(80, s + 50), seed=s, figure=False) for s in range(6)]
    assert np.mean([one.frechet / one.frechet_by_chance for one in found]) == pytest.approx(1.0, abs=0.35)
    assert np.mean([one.a_distance.raw for one in found]) == pytest.approx(0.0, abs=0.3)
    assert np.median([one.mmd.p_value for one in found]) > 0.1


def test_identical_and_constant_domains_are_at_zero():
    rows = normal(40, 0)
    same = domain_distance(rows, rows, source_labels=labels_of(rows), target_labels=labels_of(rows), figure=False)
    assert same.frechet == pytest.approx(0.0, abs=1e-18) and same.task == pytest.approx(0.0, abs=1e-12)
    flat = domain_distance(np.ones((8, 3)), np.ones((6, 3)))
    assert (flat.frechet, flat.frechet_by_chance, flat.a_distance.distance, flat.mmd.p_value) == (0, 0, 0, 1)


def test_fewer_rows_than_dimensions():
    found = domain_distance(normal(20, 0, width=100), normal(15, 1, width=100), figure=False)
    assert found.frechet == pytest.approx(found.frechet_by_chance, rel=0.3) and found.frechet > 20


def test_without_labels_of_both_there_is_no_task():
    source, target = normal(20, 0), normal(20, 1)
    for given in ({}, {"source_labels": labels_of(source)}, {"target_labels": labels_of(target)}):
        found = domain_distance(source, target, figure=False, **given)
        assert found.task is None and found.as_dict()["task"] is None and "task" not in str(found)


def test_rows_above_the_limit_are_drawn_and_the_result_says_so():
    found = domain_distance(normal(50, 0), normal(30, 1), max_rows=20, figure=False)
    assert found.frechet_rows == (20, 20) and found.a_distance.held_out_rows == 10
    assert "10 held-out rows" in str(found) and "20 of 50 source and 20 of 30 target rows" in str(found)


def test_one_token_of_an_example_is_drawn_for_the_frechet_distance():
    tokens = normal(60, 0).reshape(12, 5, 5)
    found = domain_distance(tokens, tokens + 1, figure=False)
    assert found.frechet_rows == (12, 12) and found.mmd.source_rows == 12


def test_it_prints_and_is_json():
    source, target = normal(20, 0), normal(20, 1, shift=1.0)
    found = domain_distance(source, target, source_labels=labels_of(source), target_labels=labels_of(target))
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["proxy", "MMD^2", "Frechet", "task"]
    numbers = json.loads(json.dumps(found.as_dict()))
    assert numbers == found.as_dict()
    assert numbers["frechet"] == found.frechet and numbers["a_distance"] == found.a_distance.distance
    assert numbers["mmd_by_chance"] == found.mmd.quantile and numbers["width"] == 5
    assert "projection" not in repr(found)


def test_the_same_seed_gives_the_same_and_the_generators_are_left_alone():
    pair = normal(60, 0), normal(60, 1)
    state = np.random.get_state()[1].copy()
    first, again = (domain_distance(*pair, max_rows=30, seed=2) for _ in range(2))
    assert first == again != domain_distance(*pair, max_rows=30, seed=3)
    assert (np.random.get_state()[1] == state).all()


def test_labels_in_columns_are_not_read():
    from datasets import Dataset

    rows = normal(12, 0)
    table = Dataset.from_dict({"features": rows.tolist(), "labels": labels_of(rows).tolist()})
    assert domain_distance(table, table, figure=False).task is None
    given = {"source_labels": labels_of(rows), "target_labels": labels_of(rows)}
    assert domain_distance(table, rows, figure=False, **given).task == pytest.approx(0.0, abs=1e-12)


def test_bad_input_is_refused_before_anything_is_fitted(monkeypatch):
    def fitted(*options, **more):
        raise AssertionError("fitted")

    monkeypatch.setattr(module, "task_embedding", fitted)
    monkeypatch.setattr(module, "proxy_a_distance", fitted)
    rows = normal(20, 0)
    both = {"source_labels": labels_of(rows), "target_labels": labels_of(rows)}
    with pytest.raises(ValueError, match=r"width 5, the target of width 4.*means nothing"):
        domain_distance(rows, rows[:, :4], **both)
    with pytest.raises(ValueError, match=r"target has 3 examples: a distance needs at least 4"):
        domain_distance(rows, rows[:3], **both)
    with pytest.raises(ValueError, match=r"`max_rows=3`.*is chance.*at least 4"):
        domain_distance(rows, rows, max_rows=3, **both)
    with pytest.raises(ValueError, match="not finite"):
        domain_distance(rows, rows * np.nan, **both)


def test_labels_of_one_class_are_refused():
    rows = normal(20, 0)
    with pytest.raises(ValueError, match=r"All 20 rows are of class 1.*leave the labels out"):
        domain_distance(rows, rows, source_labels=np.ones(20, int), target_labels=labels_of(rows))


def test_a_distance_without_rows_cannot_be_drawn(tmp_path):
    found = domain_distance(normal(8, 0), normal(8, 1), figure=False)
    assert isinstance(found, DomainDistance)
    with pytest.raises(ValueError, match=r"holds no rows.*figure=False.*Call `domain_distance"):
        found.plot(tmp_path / "a.png")
