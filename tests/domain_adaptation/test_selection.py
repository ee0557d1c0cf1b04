"""What validators choose, by hand."""

from __future__ import annotations

import pytest

from hf_transfer.compare.results import Cell
from hf_transfer.domain_adaptation.selection import choices, kept_run


NAME = "target_accuracy"
# accuracy, snd by method and seed
RUNS = {("a", 0): (0.5, 3.0), ("b", 0): (0.8, 2.0), ("a", 1): (0.6, 1.0), ("b", 1): (0.7, 2.5)}
CELLS = [Cell(m, seed, "", "", {NAME: score}, {"snd": snd}) for (m, seed), (score, snd) in RUNS.items()]


def test_choices_by_seed_and_overall():
    made = {(choice.by, choice.seed): choice for choice in choices(CELLS, ["a", "b"], NAME)}
    assert made["snd", 0].method == "a" and made["snd", 0].regret == pytest.approx(0.3)
    assert made["snd", 1].method == "b" and made["snd", 1].regret == 0
    assert made["snd", None].method == "b"  # 2.25 against 2.0
    assert made["oracle", None].score == pytest.approx(0.75) and made["oracle", None].regret == 0
    assert all((choice.regret or 0) >= 0 for choice in made.values())


def test_only_candidates_are_chosen_from():
    assert {choice.method for choice in choices(CELLS, ["a"], NAME)} == {"a"}


def test_without_target_labels_there_is_no_oracle_and_no_regret():
    cells = [Cell(cell.method, cell.seed, "", "", {}, cell.validators) for cell in CELLS]
    made = choices(cells, ["a", "b"], NAME)
    assert {choice.by for choice in made} == {"snd"}
    assert all(choice.score is None and choice.regret is None for choice in made)


def test_the_kept_run_is_of_the_best_method_the_seed_with_the_best_score():
    assert (kept_run(CELLS, ["a", "b"], "snd", NAME).method, kept_run(CELLS, ["a", "b"], "snd", NAME).seed) == ("b", 1)
    assert kept_run(CELLS, ["a", "b"], "oracle", NAME) == CELLS[1]
    assert kept_run(CELLS[:1], ["a"], "dev", NAME) == CELLS[0]  # the only run needs no judge


def test_a_score_that_is_not_finite_never_wins():
    cells = [Cell("a", 0, "", "", {NAME: 0.1}, {"snd": None}), Cell("b", 0, "", "", {NAME: 0.2}, {"snd": -9.0})]
    assert kept_run(cells, ["a", "b"], "snd", NAME).method == "b"


def test_a_judge_that_judges_nothing():
    with pytest.raises(ValueError, match="`--choose_by dev` judges none of the runs.*Choose by another"):
        kept_run(CELLS, ["a", "b"], "dev", NAME)
