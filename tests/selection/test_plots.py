from __future__ import annotations

import pytest
from PIL import Image

from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.plots import plot_ranking
from tests.selection.made import outcome, ranking


def drawn(made, path):
    plot_ranking(made, path)
    return path.read_text()


def test_every_candidate_with_scores_and_every_baseline_is_drawn(tmp_path):
    made = ranking(
        outcome("first", 0.9, logme=0.1),
        outcome("some_$odd$_name", 0.5, seed=1, logme=None),
        Outcome("broken", reason="none"),
        outcome("majority", 0.3),
        scores=("probe", "knn", "logme"),
    )
    picture = drawn(made, tmp_path / "ranking.svg")
    for shown in ("first", "some_$odd$_name", "majority", "LogME", "size", "held-out accuracy"):
        assert shown in picture, shown
    assert "broken" not in picture


def test_a_name_without_a_suffix_is_a_png(tmp_path):
    path = plot_ranking(ranking(outcome("a", 0.5)), tmp_path / "ranking")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    with pytest.raises(ValueError, match="has scores: there is nothing to draw.*Correct what failed"):
        plot_ranking(ranking(Outcome("broken", reason="none")), tmp_path / "x")
