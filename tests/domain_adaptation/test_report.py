"""The tables, against numbers computed by hand."""

from __future__ import annotations

from hf_transfer.compare.results import Cell
from hf_transfer.domain_adaptation.plots import best_methods, plot_scores
from hf_transfer.domain_adaptation.report import choice_table, method_table, remarks, report
from hf_transfer.domain_adaptation.selection import choices


def cells(**targets):
    return [
        Cell(
            method,
            seed,
            "",
            "",
            {"source_accuracy": 0.9, "target_accuracy": score},
            {"snd": score},
            {"a_distance_before": 2.0, "a_distance": 1.0},
        )
        for method, scores in targets.items()
        for seed, score in enumerate(scores)
    ]


RUNS = cells(source_only=[0.5, 0.52, 0.54], dann=[0.7, 0.72, 0.745], mcc=[0.4, 0.43, 0.43], coral=[0.4, 0.6, 0.58])


def test_a_sure_difference_is_bold_and_an_unsure_one_is_not():
    rows = {line.split("|")[1].strip(): line for line in method_table(RUNS, "accuracy").splitlines()}
    assert "**+0.202**" in rows["dann"] and "**-0.100**" in rows["mcc"]
    assert "+0.007 (" in rows["coral"] and "**" not in rows["coral"] and "**" not in rows["source_only"]
    assert "| 2.00 | 1.00 | 3 |" in rows["dann"]


def test_a_method_that_loses_is_told():
    said = remarks(RUNS, "accuracy")
    assert "mcc loses to source_only on the target by 0.100: more than chance explains." in said
    assert "coral is not told from source_only by these seeds." in said
    assert not any("dann" in remark for remark in said)


def test_one_seed_a_run_that_diverged_and_a_target_without_labels():
    one = [cell for cell in RUNS if cell.seed == 0]
    said = remarks(one, "accuracy")
    assert "mcc loses to source_only on the target by 0.100." in said
    assert any("One seed says nothing" in remark for remark in said)
    broken = Cell("dann", 0, "", "", {"source_accuracy": None})
    assert any("dann diverged with seed 0" in remark for remark in remarks([broken], "accuracy"))
    unlabelled = [Cell("dann", 0, "", "", {"source_accuracy": 0.5})]
    assert any("no labels to score" in remark for remark in remarks(unlabelled, "accuracy"))
    assert "target" not in method_table(unlabelled, "accuracy")
    assert "| dann | |" in method_table([broken], "accuracy")


def test_a_collapse_onto_one_class_is_told_by_seed_unless_the_source_is_like_that():
    def run(seed: int, source: float, target: float) -> Cell:
        shares = {"source_largest_share": source, "target_largest_share": target}
        return Cell("im", seed, "", "", {"target_accuracy": 0.1}, {}, shares)

    said = remarks([run(0, 0.2, 0.99), run(1, 0.2, 0.94), run(2, 0.97, 0.99), run(3, 0.2, 1.0)], "accuracy")
    (collapsed,) = (remark for remark in said if "collapsed" in remark)
    assert "with seed 0, 3: it has collapsed" in collapsed


def test_choices_and_the_whole_report():
    made = choices(RUNS, ["source_only", "dann", "mcc", "coral"], "target_accuracy")
    table = choice_table(made, "accuracy")
    assert "| chosen by | seed 0 | seed 1 | seed 2 | all seeds |" in table
    assert "| snd | dann 0.700 (regret 0.000) |" in table
    text = report(RUNS, made, "accuracy", RUNS[3], ", chosen by snd")
    assert text.endswith("Kept: dann with seed 0, chosen by snd.\n")
    assert best_methods(RUNS, "accuracy") == ["dann", "coral"]


def test_a_figure_of_the_scores(tmp_path):
    assert plot_scores(RUNS, "accuracy", tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
