"""ETran over candidates against a computation by hand."""

from __future__ import annotations

import json
import math

import pytest

from hf_transfer.selection import SourceRanking
from hf_transfer.selection.combining import ALONE, with_combined_etran
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.scores import Score
from tests.selection.made import outcome, ranking


SCORES = ("probe", "knn", "etran")
T_4 = 2.7764451051977987  # 97.5% of the t distribution with 4 degrees of freedom


def with_terms(name: str, energy: float, fit: float, *, drawn=(), size: int = 1000, reason: str = "") -> Outcome:
    own = outcome(name, 0.5, size=size)
    score = Score(reason=reason, terms=(energy, fit), drawn_terms=tuple(drawn), seconds=2.0)
    return Outcome(**{**own.__dict__, "scores": {**own.scores, "etran": score}})


def test_energy_and_fit_are_scaled_over_the_candidates_before_they_are_weighed():
    made = [with_terms("a", 8.0, 0.2), with_terms("b", -2.0, 0.6, size=10), with_terms("c", 3.0, 0.3)]
    found = ranking(*made, outcome("majority", 0.3), by="etran", scores=SCORES, parts=[])
    # energies 8, -2, 3 are 1, 0, 0.5 on [0, 1], fits 0.2, 0.6, 0.3 are 0, 1, 0.25
    expected = {"a": 0.15, "b": 0.85, "c": 0.15 * 0.5 + 0.85 * 0.25}
    assert {own.name: own.value("etran") for own in found.candidates} == pytest.approx(expected)
    # their sum, which adds nats to a probability, would have a first
    assert [own.name for own in found.candidates] == ["b", "c", "a"] and found.best() == "b"
    assert "compares the candidates of this table: energy (15%)" in found.report()
    assert "etran" not in found.outcome("majority").scores


def test_intervals_are_of_the_random_parts_on_the_scale_of_all_rows():
    energies, fits = [1.0, 1.2, 0.8, 1.1, 0.9], [0.5, 0.5, 0.6, 0.4, 0.5]
    drawn = list(zip(energies, fits, strict=True))
    made = [with_terms("a", 1.0, 0.5, drawn=drawn), with_terms("b", 3.0, 0.9, drawn=[(3.0, 0.9)] * 5)]
    first, second = with_combined_etran(made, size=100, part_sizes=[50] * 5)
    draws = [0.15 * (e - 1) / 2 + 0.85 * (f - 0.5) / 0.4 for e, f in drawn]
    mean = sum(draws) / 5
    half = T_4 * math.sqrt(50 / 50 * sum((own - mean) ** 2 for own in draws) / 4)
    score = first.scores["etran"]
    assert score.value == 0.0 and score.draws == pytest.approx(draws) and score.high == pytest.approx(half)
    assert second.scores["etran"].draws == pytest.approx([1.0] * 5) and score.seconds == 2.0


def test_a_term_in_which_all_are_equal_has_no_part():
    made = [with_terms(name, 4.0, fit, drawn=[(energy, fit)] * 6) for name, energy, fit in [("a", 5, 1), ("b", 7, 0)]]
    found = [own.scores["etran"] for own in with_combined_etran(made, size=9, part_sizes=[5] * 6)]
    assert [own.value for own in found] == [0.85, 0.0] and found[1].draws == (0.0,) * 6


def test_of_one_candidate_it_is_not_defined_until_there_is_another():
    (alone,) = with_combined_etran([with_terms("a", 1.0, 0.5)], size=9, part_sizes=[])
    assert alone.value("etran") is None and alone.scores["etran"].reason == ALONE
    first, _ = with_combined_etran([alone, with_terms("b", 2.0, 0.4)], size=9, part_sizes=[])
    assert first.value("etran") == 0.85 and first.scores["etran"].reason == ""
    with pytest.raises(ValueError, match="No candidate has the score `etran`.*only one has it.*another score"):
        ranking(alone, by="etran", scores=SCORES).best()


def test_energy_and_fit_are_kept_in_the_file_and_combined_again(tmp_path):
    failed = Outcome("broken", reason="none")
    first = with_terms("a", 8.0, 0.2, drawn=[(1.0, 0.5), None])
    second = with_terms("b", 1.0, 0.6, drawn=[None, None])
    made = ranking(first, second, failed, scores=SCORES, parts=[320] * 2)
    made.save(tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())["outcomes"]
    assert stored[0]["scores"]["etran"]["terms"] == [8.0, 0.2]
    assert stored[0]["scores"]["etran"]["drawn_terms"] == [[1.0, 0.5], None]
    again = SourceRanking.load(tmp_path, by="etran")
    assert [own.scores for own in again.outcomes] == [own.scores for own in made.outcomes]
    assert again.candidates[0].name == "b"
