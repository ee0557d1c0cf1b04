"""One run of the recipe, and the search for its settings, without the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers.trainer_utils import IntervalStrategy

from hf_transfer import fine_tuning
from hf_transfer.fine_tuning import FineTuning, find_settings
from hf_transfer.lr_find import LRFinderResult
from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments
from tests.models import tiny_bert
from tests.recipes.conftest import saved_text_model, write_reviews


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(saved_text_model(tmp_path_factory.mktemp("model"), tiny_bert))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> str:
    """20 rows, and no validation split."""
    file = tmp_path_factory.mktemp("data") / "reviews.csv"
    write_reviews(file, "book", ["pos", "neg"] * 10)
    return str(file)


@pytest.fixture
def make(tmp_path, model, reviews):
    """`make(methods={...}, **options of the loop)` is a run on the reviews."""

    def make(methods: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **options: Any) -> FineTuning:
        own = {name: options.pop(name) for name in ("data_seed", "validate") if name in options}
        return FineTuning(
            reviews,
            MethodArguments(**(methods or {})),
            ModelArguments(model_name_or_path=model),
            DataArguments(**(data or {})),
            loop(tmp_path, **options),
            **own,
        )

    return make


def loop(folder: Path, **options: Any) -> LoopArguments:
    quiet: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1}
    return LoopArguments(output_dir=str(folder / "out"), **{**quiet, **options})


def state(run: FineTuning) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- the data


@pytest.mark.parametrize("options", [{"methods": {"wise_ft": True}}, {"validate": True}])
def test_a_fifth_of_each_class_is_held_out_where_it_is_needed(make, options):
    run = make(**options)
    assert run.data.eval is not None and len(run.data.eval) == 4 and len(run.data.train) == 16
    assert sorted(run.data.eval["label"]) == [0, 0, 1, 1]
    assert run.inputs.splits.keys() == {"eval"} and run.args.load_best_model_at_end


def test_nothing_is_held_out_where_nothing_is_chosen(make):
    run = make()
    assert run.data.eval is None and len(run.data.train) == 20 and not run.inputs.splits
    assert run.args.eval_strategy == IntervalStrategy.NO and not run.args.load_best_model_at_end


def test_a_fraction_of_your_own_is_kept(make):
    run = make(methods={"wise_ft": True}, data={"validation_fraction": 0.4})
    assert run.data.eval is not None and len(run.data.eval) == 8


def test_the_data_seed_draws_rows_and_head(make):
    rows = {"data": {"samples_per_class": 3}, "methods": {"reinitialize_blocks": 1}}
    first, other = make(seed=1, **rows), make(seed=2, **rows)
    assert (
        first.data.train["text"] != other.data.train["text"] or first.data.train["label"] != other.data.train["label"]
    )
    assert not same(state(first), state(other))
    first, other = make(seed=1, data_seed=5, **rows), make(seed=2, data_seed=5, **rows)
    assert first.data.train["label"] == other.data.train["label"] and same(state(first), state(other))
    assert first.args.seed == 1 and other.args.seed == 2


def test_a_probe_of_the_same_rows_is_the_same_under_every_seed(make):
    options = {"methods": {"probe_first": True}, "data_seed": 5}
    assert same(state(make(seed=1, **options)), state(make(seed=2, **options)))


def test_plain_batches_are_the_training_rows_in_their_order(make):
    run = make(per_device_eval_batch_size=6)
    batches = list(run.plain_batches())
    assert [len(batch["labels"]) for batch in batches] == [6, 6, 6, 2]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == run.data.train["label"]


# --- what is compared


@pytest.mark.parametrize(
    ("options", "metric", "greater"),
    [
        ({}, "loss", False),
        ({"metric_for_best_model": "accuracy"}, "accuracy", True),
        ({"metric_for_best_model": "eval_loss"}, "loss", False),
        ({"metric_for_best_model": "loss", "greater_is_better": True}, "loss", True),
        ({"eval_strategy": "no"}, "loss", False),
    ],
)
def test_weights_and_settings_are_compared_as_epochs_are(make, options, metric, greater):
    run = make(validate=True, **options)
    assert run.metric == metric and run.greater_is_better is greater


def test_validating_scores_the_model_as_it_is_and_logs_nothing(make):
    run = make(validate=True, metric_for_best_model="accuracy")
    trainer = run.trainer()
    with torch.no_grad():
        run.model.classifier.weight.zero_()
        run.model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    assert run.validate(trainer) == 0.5
    run.args.metric_for_best_model = "loss"
    e = torch.e
    expected = -torch.log(torch.tensor([e / (e + 1), 1 / (e + 1)])).mean().item()
    assert run.validate(trainer) == pytest.approx(expected, rel=1e-5)
    assert trainer.state.log_history == []


# --- rates


def test_rates_that_were_found_take_the_place_of_the_given(make, monkeypatch, tmp_path):
    run = make(learning_rate=1e-4, head_lr=1e-2)
    # falls fastest at 2e-3, which is 20 times the given rate
    rates, losses = (1e-4, 2e-3, 4e-2, 8e-1), (2.0, 1.5, 0.5, 9.0)
    found = LRFinderResult(rates, losses, base=1e-4, diverged=True)
    monkeypatch.setattr(fine_tuning, "lr_find", lambda trainer: found)
    run.find_rate(run.trainer())
    assert found.suggestion is not None
    factor = found.suggestion / 1e-4
    assert run.args.learning_rate == pytest.approx(1e-4 * factor) and run.args.head_lr == pytest.approx(1e-2 * factor)
    written = yaml.safe_load((tmp_path / "out" / "lr_find.yaml").read_text())
    assert written == {"learning_rate": run.args.learning_rate, "head_lr": run.args.head_lr}


def test_rates_stay_where_the_loss_falls_at_none(make, monkeypatch, caplog):
    run = make(learning_rate=1e-4)
    found = LRFinderResult((1e-4, 1e-3, 1e-2), (1.0, 2.0, 9.0), base=1e-4, diverged=True)
    monkeypatch.setattr(fine_tuning, "lr_find", lambda trainer: found)
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    run.find_rate(run.trainer())
    assert run.args.learning_rate == 1e-4 and "fell at no rate" in caplog.text


# --- soups


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_a_soup_of_folders_without_a_run(make, tmp_path, kind):
    run = make(validate=True, metric_for_best_model="accuracy")
    members = []
    for number, bias in enumerate(([9.0, 0.0], [0.0, 3.0])):
        with torch.no_grad():
            run.model.classifier.bias.copy_(torch.tensor(bias))
        members.append(str(tmp_path / f"member_{number}"))
        run.model.save_pretrained(members[-1])
    scores = run.soup(members, kind, str(tmp_path / "soup"))
    assert scores["eval_accuracy"] >= 0.5 and (tmp_path / "soup" / "all_results.json").is_file()
    if kind == "uniform":
        assert run.model.classifier.bias.tolist() == [4.5, 1.5]


# --- the search


def searched(tmp_path: Path, model: str, reviews: str, methods: MethodArguments, trials: int = 2, **options: Any):
    args = loop(tmp_path, **options)
    (tmp_path / "out").mkdir()
    model_args = ModelArguments(model_name_or_path=model)
    return find_settings(reviews, methods, model_args, DataArguments(), args, trials=trials), args


def test_the_best_settings_are_put_into_effect(tmp_path, model, reviews):
    methods = MethodArguments(l2sp=0.01, bss=0.001)
    result, args = searched(tmp_path, model, reviews, methods, num_train_epochs=4)
    assert {"l2sp", "bss", "learning_rate", "head_lr", "layer_decay", "num_train_epochs"} <= result.settings.keys()
    for name, value in result.settings.items():
        assert getattr(methods if hasattr(methods, name) else args, name) == value, name
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text()) == result.settings
    for trial in result.trials:
        assert trial.state == "complete" and 1 <= trial.settings["num_train_epochs"] <= 4
        assert 0.001 <= trial.settings["l2sp"] <= 0.1
        assert 1e-4 <= trial.settings["batch_spectral_shrinkage" if "bss" not in trial.settings else "bss"] <= 0.01
    assert result.metric == "loss" and result.score == min(trial.score for trial in result.trials if trial.score)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(("checkpoint", "run"))]


def test_what_was_asked_for_is_not_searched(tmp_path, model, reviews):
    methods = MethodArguments(freeze="backbone")
    options: dict[str, Any] = {"max_steps": 1, "lr_schedule": "slanted_triangular"}
    result, args = searched(tmp_path, model, reviews, methods, trials=1, **options)
    assert result.settings.keys() == {"learning_rate", "head_lr", "layer_decay"}
    assert methods.freeze == "backbone" and args.lr_schedule == "slanted_triangular" and args.max_steps == 1


def test_no_more_stages_are_tried_than_the_model_has_blocks(make):
    run = make(num_train_epochs=20)
    space = fine_tuning._left_alone(run)
    assert space == {"num_train_epochs": (5, 20), "stages": [0, 1, 2, 4]}  # three blocks and the head
    with torch.no_grad():
        run.model.bert.encoder.layer = run.model.bert.encoder.layer[:2]
    assert fine_tuning._left_alone(run)["stages"] == [0, 1, 2]
