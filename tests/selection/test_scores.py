from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from hf_transfer.selection.reading import CandidateRows
from hf_transfer.selection.scores import (
    NOT_TELLING,
    Score,
    check_scores,
    formula_scores,
    not_telling,
    paired_spread,
    undefined,
)
from hf_transfer.selection.target import read_target
from tests.selection.planted import shades


@pytest.fixture
def target():
    return read_target(shades(60), draws=8, draw_rows=30)


def rows_of(target, features, source_logits=None) -> CandidateRows:
    labels = np.array(target.rows["label"][:])
    return CandidateRows({"features": features}, labels, np.arange(len(labels)), source_logits, "it has no head")


def test_intervals_are_those_of_the_jackknife(target):
    features = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    rows = rows_of(target, features)
    found = formula_scores(rows, features, target, ["h_score"])["h_score"]
    from hf_transfer.functional.h_score import h_score

    labels = np.array(target.rows["label"][:])
    draws = [h_score(features[part].astype(np.float64), labels[part]) for part in target.draws]
    mean = sum(draws) / 8
    squares = sum((value - mean) ** 2 for value in draws) / 7
    half = t.ppf(0.975, 7) * np.sqrt(squares * 30 / 30)  # parts of 30 of 60 rows
    assert found.value == pytest.approx(h_score(features.astype(np.float64), labels))
    assert found.low == pytest.approx(found.value - half) and found.high == pytest.approx(found.value + half)
    assert found.draws == pytest.approx(draws)


def test_scores_of_source_classes_are_of_the_softmax_of_the_head(target):
    logits = np.random.default_rng(0).standard_normal((60, 4)) * 3 + 500  # no overflow
    rows = rows_of(target, np.ones((60, 2), np.float32), logits)
    found = formula_scores(rows, np.ones((60, 2)), target, ["leep", "nce"])
    from hf_transfer.functional.label_transfer import leep, nce

    shares = np.exp(logits - 500)
    shares /= shares.sum(1, keepdims=True)
    assert found["leep"].value == pytest.approx(leep(shares, rows.labels))
    assert found["nce"].value == pytest.approx(nce(logits.argmax(1), rows.labels))


def test_what_is_not_defined_says_why(target):
    rows = rows_of(target, np.ones((60, 2), np.float32))
    found = formula_scores(rows, np.ones((60, 2)), target, ["leep"])
    assert found["leep"] == Score(reason="it has no head")
    assert not undefined("gbc", target) and not undefined("probe", target)


def test_differences_are_of_the_same_parts():
    generator = np.random.default_rng(0)
    common = generator.standard_normal(20)
    first = Score(1.0, draws=tuple(common + 1.0))
    second = Score(0.5, draws=tuple(common + 0.5))
    assert paired_spread(first, second, 100, [50] * 20) == pytest.approx((0.5, 0.5, 0.5))
    wider = paired_spread(first, Score(0.5, draws=tuple(generator.standard_normal(20))), 100, [50] * 20, family=3)
    alone = paired_spread(first, Score(0.5, draws=tuple(np.zeros(20))), 100, [50] * 20)
    assert wider is not None and alone is not None
    half = t.ppf(0.975, 19) * common.std(ddof=1)
    assert alone == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert paired_spread(first, Score(reason="none"), 100, [50] * 20) is None
    assert paired_spread(Score(1.0, draws=(1.0,) * 3), Score(0.0, draws=(0.0,) * 3), 9, [5] * 3) is None


def test_scores_are_in_the_order_of_tables():
    assert check_scores(["parc"], "logme") == ("probe", "knn", "logme", "parc")
    with pytest.raises(ValueError, match="There is no score `nope`"):
        check_scores(["nope"], "probe")


def test_of_etran_energy_and_fit_are_kept_of_all_rows_and_of_parts(target):
    from hf_transfer.functional.discriminants import class_score, energy

    features = np.random.default_rng(0).standard_normal((60, 5))
    rows = rows_of(target, features)
    found = formula_scores(rows, features, target, ["etran"])["etran"]
    assert found.value is None and found.terms == (energy(features), class_score(features, rows.labels))
    part = target.draws[3]
    assert found.drawn_terms[3] == (energy(features[part]), class_score(features[part], rows.labels[part]))
    assert len(found.drawn_terms) == 8


@pytest.mark.parametrize("columns", [57, 58, 200])
def test_discriminants_of_fewer_rows_than_columns_have_no_value(target, columns):
    features = np.random.default_rng(0).standard_normal((60, columns))
    found = formula_scores(rows_of(target, features), features, target, ["sfda", "etran", "h_score"])
    assert found["h_score"].value is not None
    for name in ("sfda", "etran"):
        assert found[name].value is None and found[name].terms is None
        assert found[name].reason.startswith(f"{NOT_TELLING}: ") and f"({columns} + 3)" in found[name].reason


def test_where_it_says_not_telling_random_labels_score_one_and_with_more_rows_they_do_not():
    from hf_transfer.functional.discriminants import class_score, sfda

    generator = np.random.default_rng(0)
    features = 3 * generator.standard_normal((63, 60))
    labels = generator.permutation(63) % 3
    assert not_telling(features, labels) and sfda(features, labels) > 0.99 < class_score(features, labels)
    features, labels = features[:, :40], generator.permutation(63) % 3
    assert not not_telling(features, labels) and sfda(features, labels) < 0.98


def test_parts_that_tell_nothing_leave_no_interval_and_say_so(target):
    features = np.random.default_rng(0).standard_normal((60, 40))  # the parts have 30 rows
    found = formula_scores(rows_of(target, features), features, target, ["sfda", "etran"])
    assert found["sfda"].value is not None and found["sfda"].low is None and found["sfda"].draws == (None,) * 8
    assert "fewer rows (30) than" in found["sfda"].reason
    assert found["etran"].reason == found["sfda"].reason
    assert found["etran"].terms is not None
