from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Wav2Vec2FeatureExtractor

from hf_transfer.selection import SourceRanking, rank_models
from hf_transfer.selection.scores import SCORES
from tests.models import tiny_bert, tiny_token_bert, tiny_wav2vec2
from tests.recipes.conftest import saved_text_model
from tests.selection.planted import PROCESSOR, blind_vit, sentences, shades, tones, vit


@pytest.fixture
def options(tmp_path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "progress": False, "device": "cpu"}


def counted(model: Any) -> list[int]:
    """Rows of every call of a model."""
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(next(v for v in (*args, *kwargs.values()) if torch.is_tensor(v)))),
        with_kwargs=True,
    )
    return rows


def test_each_model_reads_the_rows_once_and_the_cache_serves_a_second_call(options, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    model = vit()
    rows = counted(model)
    ranking = rank_models({"a": (model, PROCESSOR)}, shades(), **options)
    # the first batch is read twice, to see whether the model is steady
    assert 60 <= sum(rows) <= 60 + 32
    assert ranking.candidates[0].cost is not None and ranking.candidates[0].cost.rows_per_second
    before = len(rows)
    again = rank_models({"a": (model, PROCESSOR)}, shades(), layers="head", **options)
    assert len(rows) == before  # all scores come from what is cached
    assert again.candidates[0].cost is not None and again.candidates[0].cost.rows_per_second is None
    for name in SCORES:
        assert again.candidates[0].value(name) == ranking.candidates[0].value(name), name


def test_planted_models_come_out_in_their_order(options):
    models = {"blind": (blind_vit(), PROCESSOR), "good": (vit(), PROCESSOR)}
    data = shades(90, noise=30.0)
    ranking = rank_models(models, data, scores=["logme", "h_score", "parc"], **options)
    assert [own.name for own in ranking.candidates] == ["good", "blind"] and ranking.best() == "good"
    assert not ranking.recommendation.too_close and "`good`" in ranking.recommendation.sentence
    for score in ("logme", "h_score", "parc", "knn"):
        assert ranking.outcome("good").value(score) > ranking.outcome("blind").value(score), score
        assert ranking.ranked_by(score).best() == "good"
    shuffled = data.remove_columns("label").add_column(
        "label", np.random.default_rng(0).permutation(data["label"][:]), feature=data.features["label"]
    )
    chance = rank_models({"good": models["good"]}, shuffled, scores=["logme", "h_score", "parc"], **options)
    for score in ("probe", "logme", "h_score", "parc"):
        assert chance.outcome("good").value(score) < ranking.outcome("good").value(score), score
    assert chance.transfer[0] == "undecided" and "may not help" in chance.sentences[-1]


def test_equal_models_are_too_close_to_call_and_the_smallest_is_taken(options):
    large: Any = vit(2)
    large.vit.register_parameter("spare", torch.nn.Parameter(torch.zeros(99)))
    models = {"large": (large, PROCESSOR), "small": (vit(2), PROCESSOR)}
    ranking = rank_models(models, shades(), scores=["logme"], **options)
    assert ranking.recommendation.tied == ("small", "large") and ranking.best() == "small"
    assert ranking.sentences[0].startswith("Too close to call by linear probe: `small`, `large`")
    assert "the smallest of them, `small`" in ranking.sentences[0]
    assert ranking.ranked_by("logme").recommendation.too_close and ranking.ranked_by("logme").best() == "small"
    sizes = [own.cost.parameters for own in ranking.outcomes[:2] if own.cost is not None]
    assert sizes[0] == sizes[1] + 99 and ranking.frame.loc["large", "size_rank"] == 1


def test_a_candidate_that_fails_is_a_row_with_its_reason(options, tmp_path):
    text = saved_text_model(tmp_path, tiny_bert)
    missing = tmp_path / "none" / "such"
    models = {"good": (vit(), PROCESSOR), "text": text, "missing": missing}
    ranking = rank_models(models, shades(), scores=["logme"], **options)
    assert [own.scored for own in ranking.candidates] == [True, False, False] and ranking.best() == "good"
    reasons = {own.name: own.reason for own in ranking.candidates}
    assert "image-classification" in reasons["text"] and "does not exist" in reasons["missing"]
    assert str(tmp_path) not in ranking.report() and "missing failed: FileNotFoundError" in ranking.report()
    assert ranking.frame.loc["missing", "reason"] and np.isnan(ranking.frame.loc["missing", "probe"])
    none = rank_models({"missing": missing}, shades(), **options)
    with pytest.raises(ValueError, match="No candidate has the score `probe`.*Correct what failed"):
        none.best()
    with pytest.raises(ValueError, match="nothing to draw"):
        none.plot(tmp_path / "x.png")


def test_finished_candidates_are_taken_from_before_until_something_changes(options, tmp_path):
    out, model = tmp_path / "out", vit()
    rows = counted(model)

    def rank(**more: Any) -> SourceRanking:
        return rank_models({"a": (model, PROCESSOR)}, shades(), scores=["logme"], output_dir=out, **options, **more)

    first = rank()
    read = len(rows)
    (options["cache_dir"]).rename(tmp_path / "gone")
    second = rank()
    assert len(rows) == read and second.report() == first.report()
    with torch.no_grad():
        next(model.base_model.parameters()).add_(0.1)
    rank()
    assert len(rows) > read  # other weights
    assert not (out / "results.previous.json").exists()
    rank(folds=3)  # other settings: no score of before would compare
    assert (out / "results.previous.json").is_file()


def test_tokens_are_rows_and_sentences_are_held_out(options, tmp_path):
    folder = saved_text_model(tmp_path, tiny_token_bert)
    ranking = rank_models([folder], sentences(), max_rows=60, **options)
    (own,) = ranking.candidates
    assert own.scored, own.reason
    words = own.rows["probe"].weights.sum()
    assert words <= 60 and own.value("probe") > 0.9  # the tags are told by the word
    defined = [name for name in SCORES if own.value(name) is not None]
    assert set(SCORES) - set(defined) <= {"leep", "nce", "etran"}  # of a single candidate there is no ETran
    assert ranking.outcome("majority").value("probe") < own.value("probe")
    mean = rank_models([folder], sentences(), max_rows=60, layers="mean", scores=["logme"], **options)
    assert mean.candidates[0].scored and mean.candidates[0].layer == "mean"


def test_real_values_have_the_scores_that_are_defined(options, tmp_path):
    folder = saved_text_model(tmp_path, tiny_bert)
    words = ("good", "bad", "fine", "poor")
    data = Dataset.from_dict(
        {
            "text": [f"the book is very {words[i % 4]}{' very' * (i % 3)}" for i in range(48)],
            "label": [float(i % 4) + 0.1 * (i % 3) for i in range(48)],
        }
    )
    ranking = rank_models([folder], data, **options)
    (own,) = ranking.candidates
    assert own.scored and ranking.metric == "R2" and own.value("probe") > 0.5
    defined = {name for name in SCORES if own.value(name) is not None}
    assert defined == {"probe", "knn", "logme", "parc"} and own.scores["etran"].terms is not None
    assert "needs classes" in own.scores["sfda"].reason and "SFDA is not defined" in ranking.report()


def test_sound_is_ranked_as_images_are(options, tmp_path):
    models = {"own": (tiny_wav2vec2(), Wav2Vec2FeatureExtractor())}
    ranking = rank_models(models, tones(tmp_path), scores=["logme"], folds=3, **options)
    assert ranking.candidates[0].scored, ranking.candidates[0].reason
    assert ranking.outcome("raw inputs").value("probe") > 0.8 > ranking.outcome("majority").value("probe")


@pytest.mark.parametrize("more", [{"layers": "mean"}, {"layers": "best"}, {"pooling": "cls"}])
def test_other_layers_are_read_in_one_pass_too(options, more):
    model = vit()
    rows = counted(model)
    ranking = rank_models({"a": (model, PROCESSOR)}, shades(), scores=["logme", "leep"], **options, **more)
    (own,) = ranking.candidates
    assert own.scored and sum(rows) <= 60 + 32
    assert own.layer == {"mean": "mean", None: "block.1"}.get(more.get("layers"), own.layer)
    assert own.value("leep") is not None  # of the head, on what the head is given


def test_fewer_rows_than_features_have_finite_scores(options):
    ranking = rank_models({"a": (vit(), PROCESSOR)}, shades(12), **options)
    (own,) = ranking.candidates
    assert own.width == 16 and own.scored
    assert own.value("sfda") is None and own.value("etran") is None  # they would be 1 for any labels
    with pytest.raises(ValueError, match="No candidate has the score `sfda`.*fewer rows.*rank by another"):
        ranking.ranked_by("sfda").best()
    assert "| not telling | not telling |" in ranking.table() and "there are 4.0 rows of a class" in ranking.report()
    assert all(np.isfinite(own.value(name)) for name in SCORES if own.value(name) is not None)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"scores": ["logmee"]}, "There is no score `logmee`.*Choose from probe, knn, logme"),
        ({"by": "size"}, "There is no score `size`"),
        ({"layers": "top"}, '`layers="top"` is unknown.*head, mean, best'),
        ({"pooling": "none"}, '`pooling="none"` is unknown'),
        ({"probe": "mlp"}, '`probe="mlp"` is unknown.*ridge, logistic'),
        ({"bootstrap": -1}, "`bootstrap=-1`.*Give 0 or more parts"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, more, match):
    with pytest.raises(ValueError, match=match):
        rank_models({"a": (vit(), PROCESSOR)}, shades(), **options, **more)
