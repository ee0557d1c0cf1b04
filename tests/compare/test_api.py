"""`compare` in this process, on tiny models and a few rows: what it returns, leaves behind, and refuses."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_transfer import ComparisonResults, FineTune, Strategy, compare, load_adapter
from hf_transfer.compare.execution import running
from hf_transfer.compare.strategies import Fitted
from hf_transfer.recipe_arguments import DataArguments, LoopArguments
from tests.compare.tiny_problems import image_data, image_processor, regression_data, text_data, token_data, tokenizer
from tests.models import tiny_bert, tiny_resnet, tiny_token_bert


NAMES = ["majority", "scratch", "probe", "lora"]


@dataclass(frozen=True, kw_only=True)
class Broken(Strategy):
    """A strategy of one's own that fails."""

    def fit(self, setup: Any) -> Fitted:
        raise RuntimeError("no memory left")


def loop(**options: Any) -> LoopArguments:
    own = {"max_steps": 6, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8}
    return LoopArguments(use_cpu=True, disable_tqdm=True, **{**own, **options})


def bert(**options: Any) -> Any:
    torch.manual_seed(0)
    # learns in a few steps
    drop = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
    return tiny_bert(**{"vocab_size": 12, "num_hidden_layers": 1, **drop, **options})


def compared(folder: Path, data: Any = None, **options: Any) -> ComparisonResults:
    given = {"strategies": NAMES, "args": loop(), "curve": False, "processor": tokenizer(), "model": bert()}
    return compare(**{**given, **options}, data=text_data(validation=12) if data is None else data, output_dir=folder)


@pytest.fixture
def drawn() -> None:
    """The report of a test is written as for a user."""


@pytest.fixture(autouse=True)
def quick_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests do not look at the figures, which take longer to draw than the runs."""
    from hf_transfer.compare import closing

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(closing, "write_report", lambda results, folder: (folder / "report.html").touch())


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, float]]:
    """The runs that were trained."""
    from hf_transfer.compare import winner
    from hf_transfer.compare.planning import sessions

    found = []

    def counted(key: Any, *args: Any, **options: Any) -> Any:
        found.append((key.strategy, key.seed, key.share))
        return running.run_cell(key, *args, **options)

    monkeypatch.setattr(sessions, "run_cell", counted)
    monkeypatch.setattr(winner, "run_cell", counted)
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparisonResults, Path]:
    """A comparison on text, with a learning curve, two seeds and a strategy that fails."""
    folder = tmp_path_factory.mktemp("text") / "out"
    strategies = [*NAMES, Broken(name="broken", about="Does not work.")]
    return compared(folder, strategies=strategies, seeds=2, curve=True), folder


# --- what it returns and leaves behind


def test_every_strategy_is_a_row_and_the_one_that_fails_says_why(text):
    results, _ = text
    frame = results.frame.set_index("strategy")
    assert set(frame.index) == {*NAMES, "broken"}
    assert frame["status"].drop("broken").eq("finished").all() and frame["seeds"].drop("broken").eq(2).all()
    assert frame.loc["broken", "status"] == "failed" and "no memory left" in frame.loc["broken", "reason"]
    assert frame["recommended"].sum() == 1 and not frame.loc[["majority", "scratch", "broken"], "recommended"].any()
    scores = frame["validation"].dropna().tolist()
    assert scores == sorted(scores, reverse=True) and results.answer.verdict.sentence


def test_figures_are_those_of_the_runs(text):
    results, _ = text
    for row in results.answer.rows:
        own = [cell for cell in results.cells if cell.key.strategy == row.strategy and cell.key.share == 1]
        if row.validation is not None:
            assert row.validation.mean == pytest.approx(np.mean([c.scores["validation_accuracy"] for c in own]))
            assert row.test is not None
            assert row.test.mean == pytest.approx(np.mean([cell.scores["test_accuracy"] for cell in own]))
            assert row.costs.seconds == pytest.approx(np.mean([cell.costs.seconds for cell in own]))
    assert results.confusion is not None and sum(map(sum, results.confusion)) == 2 * 12
    wrong = sum(sum(line) for line in results.confusion) - sum(line[n] for n, line in enumerate(results.confusion))
    assert len(results.mistakes) <= min(12, wrong) and all(one.text for one in results.mistakes)
    assert results.features is not None and len(results.features.before) == 12


def test_the_curve_has_the_leaders_and_scratch(text):
    points = text[0].answer.curve
    assert {point.share for point in points} == {0.25, 0.5, 1.0}
    assert len({point.strategy for point in points}) == 3 and "scratch" in {point.strategy for point in points}
    assert {point.rows for point in points} == {4, 10, 20} and text[0].answer.outlook is not None


def test_the_folder_holds_the_results_and_the_report(text):
    results, folder = text
    stored = ComparisonResults.load(folder)
    assert stored == results and stored.folder == folder
    page, words = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for shown in (page, words):
        assert results.answer.recommendation.reason.split(":")[0] in shown and "no memory left" in shown
    text_of_all = (folder / "results.json").read_text()
    assert str(folder.parent) not in text_of_all
    json.loads(text_of_all, parse_constant=lambda name: pytest.fail(name))


def test_the_winner_opens_as_any_model_and_has_a_card(text):
    results, folder = text
    best = results.best()
    assert best is not None
    if best.strategy == "lora":
        model, _ = load_adapter(folder, base_model=bert(num_labels=2))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert sorted(model.config.label2id) == ["bad", "good"]
    card = (folder / "README.md").read_text()
    assert "| Majority class |" in card and results.answer.recommendation.reason in card
    assert "by_seed" not in card and "mean of 2 seeds" in card and "scratch" in card


def test_models_of_the_others_are_gone(text):
    results, folder = text
    kept = {path.parents[1].name for path in (folder / "cells").glob("*/*/*/model")}
    assert kept == {results.best().strategy}


def test_it_tells_no_command_of_what_is_in_memory(text):
    assert text[0].command == "" and all(row.command == "" for row in text[0].answer.rows)


# --- the same again


def test_again_it_runs_nothing_but_what_is_new(tmp_path, runs):
    first = compared(tmp_path / "out", strategies=["majority", "probe"], args=loop(max_steps=2))
    assert {name for name, *_ in runs} == {"majority", "probe"}
    runs.clear()
    again = compared(tmp_path / "out", strategies=["majority", "probe"], args=loop(max_steps=2))
    assert runs == [] and again.frame.equals(first.frame)
    more = compared(tmp_path / "out", strategies=["majority", "probe", "full"], args=loop(max_steps=2))
    assert runs == [("full", 42, 1.0)] and len(more.frame) == 3


def test_two_folders_have_the_same_table(tmp_path):
    one, two = (compared(tmp_path / name, strategies=["scratch", "lora"]) for name in ("one", "two"))
    scores = ["strategy", "validation", "validation_low", "validation_high", "test", "against_scratch", "recommended"]
    assert one.frame[scores].equals(two.frame[scores])
    assert one.confusion == two.confusion and one.features == two.features and one.mistakes == two.mistakes


# --- other kinds of data and models


def test_images_and_strategies_of_ones_own(tmp_path):
    mine = FineTune(name="slow", options={"warmup_steps": 1}, about="Begins slowly.")
    torch.manual_seed(0)
    results = compare(
        tiny_resnet(),
        image_data(24),
        processor=image_processor(16),
        strategies=["majority", mine],
        args=loop(max_steps=12),
        folds=3,
        curve=False,
        output_dir=tmp_path,
    )
    assert results.best().strategy == "slow" and results.strategies["slow"]["about"] == "Begins slowly."
    assert all(one.image.startswith("data:image/png") for one in results.mistakes)
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.label2id.keys() == {"bad", "good"}
    # folds validated, so the model was trained once more, on all rows
    final = json.loads(next((tmp_path / "final").glob("**/cell.json")).read_text())
    assert final["rows"] == 24 and results.cells[-1].rows == 16


@pytest.mark.parametrize("task", ["regression", "tokens"])
def test_regressions_and_tokens_have_an_answer(tmp_path, task, drawn):
    data = regression_data() if task == "regression" else token_data()
    model = bert() if task == "regression" else tiny_token_bert(vocab_size=12, num_hidden_layers=1)
    results = compared(tmp_path, data, model=model, strategies=["majority", "full"], folds=3, args=loop(max_steps=2))
    assert results.frame["status"].tolist() == ["finished", "finished"] and results.features is None
    assert (results.confusion is None) == (task == "regression") and (tmp_path / "report.html").is_file()


def test_several_models_are_rows_of_one_table(tmp_path):
    models = [bert(), bert(hidden_size=8)]
    results = compared(tmp_path, model=models, strategies=["majority", "probe"], keep_models=True)
    labels = {row.model for row in results.answer.rows}
    assert len(results.answer.rows) == 4 and len(labels) == 2
    assert len(list((tmp_path / "cells").glob("*/probe/*/model"))) == 2


def test_splits_by_name_will_do(tmp_path):
    own = text_data(validation=12)
    splits = {"train": own.train, "validation": own.eval}
    results = compared(tmp_path, splits, strategies=["majority", "probe"])
    assert results.data["name"] == "in memory" and results.data["rows"] == {"train": 20, "validation": 12}


# --- nothing to recommend, and the next winner


def test_without_a_strategy_that_ends_nothing_is_saved(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    with caplog.at_level("INFO", logger="hf_transfer"):
        results = compared(tmp_path, strategies=["majority", Broken(name="broken")])
    assert results.best() is None and results.answer.recommendation is None
    assert "Nothing is recommended" in caplog.text and "No model is saved" in caplog.text
    assert not list(tmp_path.glob("*.safetensors")) and not (tmp_path / "README.md").exists()
    assert (tmp_path / "report.html").is_file()


def test_another_winner_takes_the_place_of_the_first(tmp_path):
    compared(tmp_path, strategies=["majority", "probe"], args=loop(max_steps=30))
    assert (tmp_path / "model.safetensors").is_file()
    compared(tmp_path, strategies=["majority", "lora"], args=loop(max_steps=30))
    assert (tmp_path / "adapter_config.json").is_file() and not (tmp_path / "model.safetensors").exists()


# --- refusals


def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(tmp_path, runs):
    compared(tmp_path, strategies=["majority", "probe"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    runs.clear()
    with pytest.raises(ValueError, match=r"holds a comparison of other settings \(`max_steps` 6 there and 4 here"):
        compared(tmp_path, strategies=["majority", "probe"], args=loop(max_steps=4))
    assert runs == [] and {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_one_class_is_refused(tmp_path, runs):
    own = text_data(validation=12)
    labels = np.array(own.train["label"])
    single = replace(own, train=own.train.select(np.flatnonzero(labels == 0)))
    with pytest.raises(ValueError, match="class"):
        compared(tmp_path / "out", single)
    assert runs == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"model": None}, {"data": None}])
def test_a_model_without_data_is_refused(given, tmp_path):
    both: dict[str, Any] = {"model": bert(), "data": text_data(), "output_dir": tmp_path, **given}
    with pytest.raises(ValueError, match=f"`{next(iter(given))}` is missing: .* on one alone. Give both"):
        compare(**both)


def test_no_seeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`seeds=0` trains nothing. Give 1 or more"):
        compared(tmp_path, seeds=0)


def test_a_budget_that_cannot_be_read_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="`--budget soon` is no time"):
        compared(tmp_path / "out", budget="soon")
    assert not (tmp_path / "out").exists()


def test_processors_must_be_as_many_as_models(tmp_path):
    with pytest.raises(ValueError, match="2 processors for 1 models in memory: .* Give one for all"):
        compared(tmp_path, processor=[tokenizer(), tokenizer()])


def test_data_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        compare(bert(), tmp_path / "nowhere", processor=tokenizer(), output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_its_options_are_in_the_data_of_a_file(tmp_path):
    text_data(30, validation=12).train.to_csv(tmp_path / "rows.csv")
    results = compare(
        [bert()],
        tmp_path / "rows.csv",
        processor=tokenizer(),
        strategies=["majority", "probe"],
        args=loop(),
        data_args=DataArguments(validation_fraction=0.2, samples_per_class=6),
        curve=False,
        output_dir=tmp_path / "out",
    )
    assert results.data["rows"] == {"train": 12, "validation": 6} and results.data["name"] == "rows.csv"


@pytest.mark.parametrize(("validation", "said"), [(12, "Label more rows"), (0, "With `--seeds 5` every labelled row")])
def test_few_rows_to_validate_are_told_before_anything_runs(tmp_path, caplog, monkeypatch, validation, said):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    compared(tmp_path / "out", data=text_data(validation=validation), strategies=["majority", "probe"])
    (told,) = [line.getMessage() for line in caplog.records if "rows validate" in line.getMessage()]
    assert said in told
