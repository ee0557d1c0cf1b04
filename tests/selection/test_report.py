from __future__ import annotations

from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.report import cost_table, ranking_remarks, ranking_table, shown_sentences
from hf_transfer.selection.scores import Score
from tests.selection.made import outcome, ranking


NOTHING = "not telling: fewer rows (9) than columns and classes (16 + 3), so that it is near 1 for any labels"


def with_scores(name: str, share: float, **scores: Score) -> Outcome:
    own = outcome(name, share)
    return Outcome(**{**own.__dict__, "scores": {**own.scores, **scores}})


def cells(table: str, name: str) -> list[str]:
    line = next(line for line in table.splitlines() if name in line.split("|")[1])
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_what_tells_nothing_is_marked_and_explained():
    made = ranking(
        with_scores("wide", 0.9, sfda=Score(reason=NOTHING)),
        with_scores("narrow", 0.5, sfda=Score(0.75)),
        scores=("probe", "knn", "sfda"),
    )
    table = ranking_table(made)
    assert cells(table, "wide")[-1] == "not telling" and cells(table, "narrow")[-1] == "0.750"
    (remark,) = ranking_remarks(made)
    assert remark.startswith("SFDA is not telling for wide: fewer rows (9) than columns")
    # it cannot decide, and it is told who has no part in it
    by_it = made.ranked_by("sfda")
    assert by_it.best() == "narrow"
    assert "Not compared: `wide`, for which `sfda` says nothing" in str(by_it) and "Not compared" not in str(made)


def test_a_missing_interval_is_told_with_its_reason():
    made = ranking(with_scores("a", 0.9, sfda=Score(0.8, reason="not telling: few")), scores=("probe", "knn", "sfda"))
    assert ranking_remarks(made) == ["SFDA has no interval; on random parts: not telling: few."]


def test_few_rows_of_a_class_make_nleep_too_high():
    def told(rows, scores=("probe", "knn", "nleep")):
        found = ranking(outcome("a", 0.5, nleep=-0.1), scores=scores, rows_per_class=rows)
        return [remark for remark in ranking_remarks(found) if remark.startswith("NLEEP is too high")]

    assert len(told(9.9)) == 1 and "there are 9.9 rows of a class" in told(9.9)[0]
    assert not told(10.0) and not told(None) and not told(3.0, ("probe", "knn"))


def test_the_recommended_and_those_tied_with_it_are_marked():
    made = ranking(outcome("a", 0.8, size=9), outcome("b", 0.805, size=5000, seed=1), outcome("c", 0.3, size=1))
    table = ranking_table(made)
    assert "| **a** |" in table and "| b (tied) |" in table and "| c |" in table
    assert [cells(table, name)[4] for name in "abc"] == ["2", "1", "3"]  # by size


def test_paths_are_shown_as_the_folder_alone():
    made = ranking(outcome("/home/somebody/mine", 0.9), outcome("/home/somebody/mine#random", 0.3))
    text = "\n".join([made.report(), *shown_sentences(made), cost_table(made.candidates)])
    assert "/home" not in text and "mine#random" in text
