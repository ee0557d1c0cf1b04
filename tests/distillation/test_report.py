"""The report says whether the teacher helped, and does not hide that it did not."""

from __future__ import annotations

import pytest

from hf_transfer.compare.results import Cell
from hf_transfer.distillation.closing import best_run
from hf_transfer.distillation.measuring import Cost
from hf_transfer.distillation.report import judged_by, remarks, report, score_table


TEACHER = Cell("teacher", 0, "", ".", {"test_accuracy": 0.9, "eval_accuracy": 0.91})


def runs(**methods: list[float | None]) -> list[Cell]:
    return [
        Cell(method, seed, "", f"{method}/seed_{seed}", {"test_accuracy": score, "eval_accuracy": score})
        for method, scores in methods.items()
        for seed, score in enumerate(scores)
    ]


def test_the_table_by_hand():
    table = score_table(TEACHER, runs(alone=[0.7, 0.72], kd=[0.8, 0.82], dkd=[0.70, 0.73]), "accuracy").splitlines()
    assert table[0] == "| model | test accuracy | sd | against alone | gap closed | seeds |"
    assert table[2] == "| teacher | 0.900 | | | | |"
    # the sample deviation of two values is their distance over sqrt 2; the gap is 0.9 - 0.71
    assert table[3].startswith("| alone | 0.710 (") and "| 0.014 | | | 2 |" in table[3]
    assert "| **+0.100** (0.100 to 0.100) | 53% | 2 |" in table[4]
    # differences 0 and 0.01: mean 0.005, interval +-12.706 * 0.00707 / sqrt 2
    assert "| 0.021 | +0.005 (-0.059 to 0.069) | 3% | 2 |" in table[5]


def test_without_the_student_alone_and_without_test_rows():
    cells = [Cell("kd", 0, "", "", {"eval_accuracy": 0.8})]
    assert judged_by(cells, "accuracy") == "eval_accuracy"
    table = score_table(TEACHER, cells, "accuracy").splitlines()
    assert table[0] == "| model | validation accuracy | sd | seeds |" and table[2].startswith("| teacher | 0.910")
    assert any("There are no test rows" in remark for remark in remarks(TEACHER, cells, "accuracy"))


def test_negative_transfer_is_told():
    said = remarks(TEACHER, runs(alone=[0.8, 0.81, 0.8], kd=[0.7, 0.71, 0.7], dkd=[0.79, 0.82, 0.78]), "accuracy")
    assert said[0].startswith("kd does not help: with it the student loses 0.100 against learning alone, more than")
    assert said[1].startswith("dkd does not help") and "within what other seeds may change" in said[1]
    assert len(said) == 2


def test_what_else_the_table_does_not_say():
    said = remarks(TEACHER, runs(alone=[0.95], kd=[0.95], dkd=[None]), "accuracy")
    assert said[0] == "kd is not told from alone by these seeds."
    assert said[1].startswith("dkd diverged with seed 0")
    assert said[2].startswith("The teacher scores 0.900, no more than the student alone")
    assert said[3].startswith("One seed says nothing")
    assert remarks(TEACHER, runs(alone=[0.7, 0.7], kd=[0.8, 0.8]), "accuracy") == []


def test_no_share_of_a_gap_that_is_not_there():
    table = score_table(TEACHER, runs(alone=[0.95], kd=[0.96]), "accuracy").splitlines()
    assert table[4] == "| kd | 0.960 | | +0.010 | | 1 |"


def test_the_whole_report():
    cost = Cost(1000, None, 2.0, 3.0, 500.0, 32, "cpu", "float32", 2)
    text = report(TEACHER, runs(alone=[0.7], kd=[0.8]), {"teacher": cost, "student": cost}, "accuracy", "Kept: kd.")
    assert text.startswith("# Distillation\n\n| model |") and text.endswith("\n\nKept: kd.\n")
    assert "Measured on cpu, 2 threads, float32" in text and "| teacher | 0.00 M | | 2.00 ms |" in text
    assert "## Cost" not in report(TEACHER, runs(kd=[0.8]), {}, "accuracy", "Kept: kd.")


def test_the_run_that_validates_best_is_kept():
    assert best_run(runs(alone=[0.7, 0.9], kd=[0.8, 0.9]), "eval_accuracy").folder == "kd/seed_1"
    assert best_run(runs(alone=[0.95], kd=[None]), "eval_accuracy").method == "alone"
    with pytest.raises(ValueError, match="No run has a finite `eval_accuracy`"):
        best_run(runs(kd=[None]), "eval_accuracy")
