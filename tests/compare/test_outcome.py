"""What a comparison returns: the frame, the best row, JSON and back, words and HTML."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hf_transfer.compare.answer import (
    Answer,
    ClassVerdict,
    CurvePoint,
    Difference,
    Estimate,
    Outlook,
    Recommendation,
    TableRow,
    Verdict,
)
from hf_transfer.compare.cells import CellKey, CellResult, Costs
from hf_transfer.compare.outcome import ComparisonResults, FeatureMap, Mistake


@pytest.fixture
def results() -> ComparisonResults:
    costs = Costs(2.5, 1000, 10, 100, 400, 1.25)
    rows = [
        TableRow(
            *("m", "lora", "finished", None, [0, 1]),
            validation=Estimate(0.875, 0.75, 1.0),
            test=Estimate(0.5),
            against_best=Difference(0.0, 0.0, 0.0),
            against_scratch=Difference(0.25, 0.125, 0.375),
            tied=True,
            costs=costs,
            command="run --strategies lora",
            note="rate 0.001",
        ),
        TableRow("m", "scratch", "finished", None, [0], validation=Estimate(0.625)),
        TableRow("m", "full", "failed", "out of memory <b>"),
    ]
    verdict = Verdict(
        "positive",
        "Transfer helps.",
        Difference(0.25, 0.125, 0.375),
        None,
        [ClassVerdict("cat", 4, Difference(0.5, 0.0, 1.0), "undecided")],
    )
    chosen = Recommendation("m", "lora", "lora: 0.875, the best.", ("m", "lora"), [("m", "full")])
    curve = (CurvePoint("m", "lora", 0.5, 8, Estimate(0.5, 0.25, 0.75)),)
    return ComparisonResults(
        task="image-classification",
        metric="accuracy",
        label_names=["cat", "dog"],
        data={"name": "pets", "rows": {"train": 16}},
        settings={"max_steps": 4},
        answer=Answer(rows, chosen, verdict, curve, Outlook("More labels help.", "Nothing else would.")),
        cells=[CellResult(CellKey("m", "lora", 0), "f", scores={"validation_accuracy": 0.875}, costs=costs)],
        strategies={"lora": {"title": "LoRA", "about": "", "baseline": False, "paper": ""}},
        confusion=[[3, 1], [0, 4]],
        mistakes=(Mistake(3, "cat", "dog", 0.75, image="data:image/png;base64,AAAA"),),
        features=FeatureMap([[0.0, 1.0]], None, [1], "PCA"),
        seconds=12.5,
        environment={"torch": "2"},
        command="run",
    )


def test_best_is_the_recommended_row_and_not_the_first(results):
    rows = results.answer.rows
    results.answer = Answer([rows[1], rows[0], rows[2]], results.answer.recommendation, results.answer.verdict)
    assert results.best() is rows[0]
    results.answer = Answer(rows, None, results.answer.verdict)
    assert results.best() is None


def test_the_frame_has_the_numbers_of_the_rows(results):
    frame = results.frame
    assert frame["strategy"].tolist() == ["lora", "scratch", "full"]
    assert frame["status"].tolist() == ["finished", "finished", "failed"]
    assert frame["recommended"].tolist() == [True, False, False] and frame["seeds"].tolist() == [2, 1, 0]
    first = frame.iloc[0]
    assert (first["validation"], first["validation_low"], first["validation_high"]) == (0.875, 0.75, 1.0)
    assert (first["against_scratch"], first["against_scratch_low"]) == (0.25, 0.125)
    assert (first["seconds"], first["bytes"], first["latency_ms"]) == (2.5, 400, 1.25)
    assert math.isnan(first["test_low"]) and math.isnan(frame["validation"][2])
    assert frame["reason"][2] == "out of memory <b>"


def test_json_and_back_is_the_same(results):
    stored = json.loads(json.dumps(results.to_json(), allow_nan=False))
    again = ComparisonResults.from_json(stored)
    assert again == results
    assert (
        isinstance(again.answer.rows[0].against_scratch, Difference) and again.answer.rows[0].against_scratch.decided
    )
    assert again.answer.recommendation is not None and again.answer.recommendation.tied == [("m", "full")]
    assert again.frame.equals(results.frame)


def test_what_json_does_not_know_is_told(results):
    results.settings = {
        "loss": math.nan,
        "rows": np.int64(3),
        "ids": np.arange(2),
        "names": {"b", "a"},
        "far": math.inf,
    }
    assert results.to_json()["settings"] == {"loss": None, "rows": 3, "ids": [0, 1], "names": ["a", "b"], "far": None}


def test_neither_tokens_nor_folders_of_the_user_get_into_it(results, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "someone"))
    token = "hf_" + "x" * 24
    results.settings = {"a": f"{tmp_path}/home/someone/data", "b": f"token {token}"}
    results.folder = tmp_path
    text = json.dumps(results.to_json())
    assert token not in text and str(tmp_path) not in text and "data" in text


def test_a_folder_keeps_it(results, tmp_path):
    assert results.save(tmp_path) == tmp_path / "results.json"
    again = ComparisonResults.load(tmp_path)
    assert again.folder == tmp_path
    again.folder = None
    assert again == results


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*no comparison has ended there. Name the"):
        ComparisonResults.load(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"runs": []}'])
def test_results_of_another_recipe_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="holds no results of `compare` .*no table to show. Name the"):
        ComparisonResults.load(tmp_path)


def test_it_is_short_in_words_and_safe_in_html(results):
    lines = str(results).splitlines()
    assert lines[:2] == ["lora: 0.875, the best.", "Transfer helps."]
    assert "m lora     0.875 (0.750 to 1.000)" in lines and "m full     out of memory <b>" in lines
    page = results._repr_html_()
    assert page.count("<tr>") == 4 and "out of memory &lt;b&gt;" in page and "0.875 (0.750 to 1.000)" in page
    results.answer = Answer(results.answer.rows, None, results.answer.verdict)
    assert str(results).startswith("Transfer helps.")


@pytest.mark.parametrize("name", ["accuracy", "cost", "learning_curve", "confusion", "features"])
def test_plots_are_those_of_the_report(results, name, monkeypatch):
    from hf_transfer.compare.report import plots

    monkeypatch.setattr(plots, f"plot_{name}", lambda given: ("figure", given))
    assert getattr(results, f"plot_{name}")() == ("figure", results)
