from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from hf_transfer.selection import SourceRanking
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.plots import places
from tests.selection.made import outcome, ranking


SCORES = ("probe", "knn", "logme", "leep")


@pytest.fixture
def made():
    return ranking(
        outcome("small", 0.6, size=10, logme=0.1, leep=-1.0),
        outcome("good", 0.9, size=100, seed=1, logme=0.3, leep=None),
        outcome("large", 0.7, size=1000, seed=2, logme=0.2, leep=-2.0),
        Outcome("broken", reason="OSError: no such file"),
        outcome("majority", 0.3),
        outcome("raw inputs", 0.5),
        scores=SCORES,
    )


def test_the_frame_holds_candidates_in_order_and_then_baselines(made):
    frame = made.frame
    assert list(frame.index) == ["good", "large", "small", "broken", "majority", "raw inputs"]
    assert frame.loc["good", "recommended"] and frame.loc["good", "probe"] == pytest.approx(0.9)
    assert frame.loc["good", "probe_low"] < 0.9 < frame.loc["good", "probe_high"]
    assert frame["size_rank"].tolist()[:3] == [2, 1, 3] and frame.loc["broken", "reason"] == "OSError: no such file"
    assert frame.loc["small", "behind_leader"] == pytest.approx(0.3)


def test_agreement_is_that_of_each_score_and_of_the_list_by_size(made):
    found = made.agreement({"small": 0.5, "good": 0.8, "large": 0.7})
    assert found.loc["probe"].tolist() == [1.0, 0.0, 3] and found.loc["logme", "weighted_kendall"] == 1.0
    assert found.loc["parameters", "regret"] == pytest.approx(0.1) and found.loc["leep", "candidates"] == 2
    assert found.loc["leep", "regret"] == pytest.approx(0.2)  # of the two that have it
    # by hand, from the ranks 0 to 2: the pair (good, large) is swapped, the others are not
    weights = {(0, 1): 1 / 1 + 1 / 2, (0, 2): 1 / 1 + 1 / 3, (1, 2): 1 / 2 + 1 / 3}
    tau = (sum(weights.values()) - 2 * weights[0, 1]) / sum(weights.values())
    assert found.loc["parameters", "weighted_kendall"] == pytest.approx(tau)
    one = made.agreement({"good": 0.8, "small": 0.5})
    assert math.isnan(one.loc["leep", "regret"]) and one.loc["leep", "candidates"] == 1


@pytest.mark.parametrize(
    ("truth", "match"),
    [({"nobody": 1.0, "good": 0.5}, "`nobody` is no candidate.*good, large"), ({"good": 1.0}, "two or more")],
)
def test_a_truth_of_other_models_is_refused(made, truth, match):
    with pytest.raises(ValueError, match=match):
        made.agreement(truth)


def test_what_is_saved_is_loaded(made, tmp_path):
    made.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "ranking.md", "ranking.png"}
    again = SourceRanking.load(tmp_path)
    assert again.report() == made.report() == (tmp_path / "ranking.md").read_text()
    assert again.frame.equals(made.frame) and again.best() == "good"
    for own, other in zip(made.outcomes, again.outcomes, strict=True):
        assert own.to_json() == other.to_json() and own.scores == other.scores
        assert all(np.array_equal(own.rows[name].scores, other.rows[name].scores) for name in own.rows)
    assert SourceRanking.load(tmp_path, by="logme").by == "logme"
    with Image.open(tmp_path / "ranking.png") as figure:
        assert figure.size[0] > 500


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ranking was saved there"):
        SourceRanking.load(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON.*Remove it"):
        SourceRanking.load(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"runs": []}))
    with pytest.raises(ValueError, match="is no file of a ranking.*Name another"):
        SourceRanking.load(tmp_path)


def test_the_page_says_what_is_missing(made):
    page = made.report()
    assert page.startswith("# Which model to start from\n\nTake `good`")
    assert "broken failed: OSError: no such file" in page and "LEEP is not defined for good: none." in page
    assert "| raw inputs | 0.500" in page and "## Costs" in page and str(made).startswith("| model |")


def test_another_score_orders_otherwise(made):
    assert [own.name for own in made.ranked_by("leep").candidates] == ["small", "large", "good", "broken"]
    with pytest.raises(ValueError, match="`parc` was not computed.*Choose from probe, knn"):
        made.ranked_by("parc")
    with pytest.raises(KeyError, match="no candidate `x`"):
        made.outcome("x")


def test_places_share_equals_and_leave_out_what_has_none(made):
    assert places(made, "parameters") == {"good": 2, "large": 1, "small": 3}
    assert places(made, "leep") == {"large": 2, "small": 1}
    twins = ranking(outcome("a", 0.5), outcome("b", 0.5), outcome("c", 0.4))
    assert places(twins, "probe") == {"a": 1, "b": 1, "c": 3}
