from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.diagnostics.domain_rows import DomainRows, drawn, read_domains, split_examples
from hf_transfer.diagnostics.linear_fit import fit_linear
from hf_transfer.features.probes import logistic


def test_tokens_are_rows_of_their_example():
    source, target = read_domains([np.zeros((2, 3)), np.ones((1, 3))], np.zeros((2, 4, 3)), who="it")
    assert source.features.shape == (3, 3) and source.groups.tolist() == [0, 0, 1]
    assert target.examples.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert read_domains(np.zeros((2, 3)), np.zeros((2, 3)), who="it")[0].groups is None


def test_one_row_of_each_example_is_drawn():
    rows = DomainRows(np.arange(12.0)[:, None], np.repeat([7, 3, 9], 4))
    kept = [rows.one_per_example(np.random.default_rng(seed)) for seed in range(40)]
    assert all(sorted(part.groups) == [3, 7, 9] for part in kept)
    assert {float(value) for part in kept for value in part.features[:, 0]} == set(map(float, range(12)))


def test_parts_share_no_example_and_hold_two_each():
    examples = np.repeat(np.arange(9), np.arange(1, 10))
    for seed in range(10):
        fit, held = split_examples(examples, 0.3, np.random.default_rng(seed))
        assert not set(examples[fit]) & set(examples[held])
        assert sorted([*fit, *held]) == list(range(45))
        assert len(set(examples[held])) == 3
    for share in (0.01, 0.99):
        parts = split_examples(np.arange(4), share, np.random.default_rng(0))
        assert [len(part) for part in parts] == [2, 2]


def test_rows_are_drawn_without_replacement_in_their_order():
    assert drawn(5, None, np.random.default_rng(0)).tolist() == drawn(5, 9, np.random.default_rng(0)).tolist()
    few = drawn(100, 10, np.random.default_rng(0))
    assert len(set(few)) == 10 and (np.diff(few) > 0).all()


def test_a_fit_scales_by_its_own_rows_and_keeps_groups_together():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 3)) * 5 + 2
    labels = np.arange(40) % 2
    fitted = fit_linear(features, labels, strengths=(1.0,))
    np.testing.assert_allclose(fitted.mean, features.mean(0), rtol=1e-6)
    np.testing.assert_allclose(fitted.scale, features.std(0), rtol=1e-6)
    assert fitted.logits(features).shape == (40, 2) and fitted.strength == 1.0


def test_copies_of_a_row_are_in_one_fold(monkeypatch):
    seen = []
    fit = logistic.fit_logistic
    monkeypatch.setattr(
        logistic, "fit_logistic", lambda training, options: seen.append(training) or fit(training, options)
    )
    groups = np.repeat(np.arange(10), 4)
    fit_linear(np.random.default_rng(0).normal(size=(40, 3)), np.repeat([0, 1] * 5, 4), groups, strengths=(0.1, 1.0))
    splits = seen[0].splits()
    assert len(splits) > 1
    for train, held in splits:
        assert not set(groups[train]) & set(groups[held])


def test_bad_strengths_are_refused():
    with pytest.raises(ValueError, match=r"`strengths=\(0.0,\)`.*positive numbers"):
        fit_linear(np.zeros((4, 1)), np.array([0, 1, 0, 1]), strengths=(0.0,))
