from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import HfArgumentParser
from transformers.trainer_utils import IntervalStrategy

from hf_transfer import TransferArguments
from hf_transfer.data.loading import load_splits
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments


QUIET = ["--use_cpu"]


def parsed(kind, *words: str):
    return HfArgumentParser(kind).parse_args_into_dataclasses([*words])[0]


# --- the loop


def test_the_best_epoch_is_kept_by_default():
    args = parsed(LoopArguments, *QUIET)
    assert isinstance(args, TransferArguments)
    assert args.eval_strategy == args.save_strategy == IntervalStrategy.EPOCH
    assert args.load_best_model_at_end and args.save_total_limit == 1 and args.metric_for_best_model == "loss"
    assert args.output_dir == "outputs" and not args.remove_unused_columns and args.report_to == []


@pytest.mark.parametrize(
    "words",
    [
        ["--save_strategy", "no"],
        ["--eval_strategy", "no"],
        ["--eval_strategy", "no", "--save_strategy", "no"],
        ["--save_strategy", "steps"],
        ["--eval_strategy", "steps", "--eval_steps", "5"],
    ],
)
def test_without_a_checkpoint_of_every_validation_there_is_no_best_one(words):
    assert parsed(LoopArguments, *QUIET, *words).load_best_model_at_end is False


def test_validation_by_steps_keeps_the_best():
    words = ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "5", "--save_steps", "5"]
    assert parsed(LoopArguments, *QUIET, *words).load_best_model_at_end is True


def test_without_validation_nothing_is_chosen():
    args = parsed(LoopArguments, *QUIET)
    args.without_validation()
    assert args.eval_strategy == IntervalStrategy.NO and not args.load_best_model_at_end
    assert args.save_strategy == IntervalStrategy.EPOCH


@pytest.mark.parametrize("accelerator", [False, True])
def test_memory_is_pinned_for_an_accelerator_only(monkeypatch, accelerator):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    assert LoopArguments().dataloader_pin_memory is accelerator
    assert LoopArguments(dataloader_pin_memory=False).dataloader_pin_memory is False
    assert LoopArguments(use_cpu=True).dataloader_pin_memory is False


def test_options_of_the_parent_are_checked_as_ever():
    with pytest.raises(ValueError, match="`layer_decay=2.0` is outside"):
        parsed(LoopArguments, *QUIET, "--layer_decay", "2")


# --- the model


def test_overrides_are_json():
    args = parsed(ModelArguments, "--model_type", "vit", "--config_overrides", '{"hidden_size": 8, "depths": [1, 2]}')
    assert args.config_overrides == {"hidden_size": 8, "depths": [1, 2]}
    assert ModelArguments(config_overrides={"a": 1}).config_overrides == {"a": 1}
    assert ModelArguments().config_overrides is None


@pytest.mark.parametrize("text", ["hidden_size: 8", "{'hidden_size': 8}", "[1, 2]", "8"])
def test_overrides_that_are_no_json_object_are_refused(text):
    with pytest.raises(ValueError, match="is no JSON object .*the model would be another one. Write it as"):
        ModelArguments(config_overrides=text)


def test_a_model_must_be_named():
    with pytest.raises(ValueError, match="No model is given.*`--model_name_or_path` .*or `--model_type` to train"):
        ModelArguments().load(load_splits("embedded:reviews/books", max_samples=4))


def test_pretrained_options_reach_the_loader(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "hf_transfer.recipe_arguments.load_model", lambda name, data, **options: seen.update(name=name, **options)
    )
    words = ["--model_name_or_path", "user/name", "--model_revision", "v2", "--trust_remote_code"]
    parsed(ModelArguments, *words).load(None)
    assert seen == {"name": "user/name", "revision": "v2", "trust_remote_code": True}


def test_a_type_is_made_from_scratch(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "hf_transfer.recipe_arguments.new_model",
        lambda kind, data, overrides, *, tokenizer: seen.append((kind, overrides, tokenizer)),
    )
    words = ["--model_type", "bert", "--tokenizer_name", "user/words"]
    parsed(ModelArguments, *words, "--config_overrides", '{"hidden_size": 8}').load(None)
    assert seen == [("bert", {"hidden_size": 8}, "user/words")]


# --- the data


def test_every_option_reaches_the_loader(monkeypatch):
    seen = {}

    def load(name, **options):
        seen.update(name=name, **options)
        return SimpleNamespace(input_columns=("audio",))

    monkeypatch.setattr("hf_transfer.recipe_arguments.load_splits", load)
    words = (
        "--dataset_config_name c --train_split a --eval_split b --test_split d --label_column y --input_columns p q"
    )
    numbers = "--validation_fraction 0.2 --samples_per_class 3 --max_samples 5 --max_eval_samples 7 --max_seconds 2.5"
    parsed(DataArguments, *words.split(), *numbers.split()).load("somewhere", 11)
    assert seen == {
        "name": "somewhere",
        "config": "c",
        "train_split": "a",
        "eval_split": "b",
        "test_split": "d",
        "label_column": "y",
        "input_columns": ["p", "q"],
        "validation_fraction": 0.2,
        "samples_per_class": 3,
        "max_samples": 5,
        "max_eval_samples": 7,
        "max_seconds": 2.5,
        "seed": 11,
    }


def test_a_recipe_may_override_an_option(monkeypatch):
    seen = {}
    monkeypatch.setattr("hf_transfer.recipe_arguments.load_splits", lambda name, **options: seen.update(options))
    DataArguments(samples_per_class=3).load("somewhere", 0, samples_per_class=None, require_labels=False)
    assert seen["samples_per_class"] is None and seen["require_labels"] is False


def test_embedded_data_load():
    data = DataArguments(max_samples=6, max_eval_samples=4).load("embedded:digits/5-9", 0)
    assert data.label_names == tuple("56789") and data.test is not None
    assert (len(data.train), len(data.test)) == (6, 4)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_longest_recording_without_a_sample_is_refused(seconds):
    with pytest.raises(ValueError, match="`--max_seconds .*` leaves no sample of a recording. Give a positive"):
        parsed(DataArguments, "--max_seconds", seconds)


def test_a_longest_recording_is_refused_where_there_is_no_sound():
    message = "`--max_seconds 2.0` with data for text-classification that hold no sound: it would be ignored. Leave it"
    with pytest.raises(ValueError, match=message):
        DataArguments(max_seconds=2.0, max_samples=4).load("embedded:reviews/books", 0)


def test_an_unknown_augmentation_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit):
        parsed(DataArguments, "--augmentation", "wild")
    assert "invalid choice: 'wild'" in capsys.readouterr().err


def test_terms_are_logged_by_epoch_or_by_the_steps_asked_for(tmp_path):
    assert LoopArguments(output_dir=str(tmp_path)).logging_strategy == "epoch"
    assert LoopArguments(output_dir=str(tmp_path), logging_steps=5).logging_strategy == "steps"


def test_an_error_that_is_squared_is_to_fall(tmp_path):
    args = LoopArguments(output_dir=str(tmp_path), metric_for_best_model="mse")
    args.check_metric("regression")
    assert args.greater_is_better is False
