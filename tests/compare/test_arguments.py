"""The options of recipes/compare.py, as the command line and a notebook give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import HfArgumentParser
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_transfer.compare.arguments import MODALITIES, CompareArguments, CompareLoopArguments, example_words
from hf_transfer.recipe_arguments import DataArguments, LoopArguments


BOTH = ("--model_name_or_path", "a", "b", "--dataset_name", "rows")


def parsed(*words: str):
    parser = HfArgumentParser([CompareArguments, DataArguments, CompareLoopArguments])  # pyright: ignore
    return parser.parse_args_into_dataclasses([*words, "--use_cpu"])


# --- what is compared


def test_models_and_strategies_are_lists():
    recipe = parsed(*BOTH, "--strategies", "lora,full", "probe")[0]
    assert recipe.model_name_or_path == ["a", "b"] and recipe.strategies == ["lora", "full", "probe"]
    assert recipe.options()["strategies"] == ["lora", "full", "probe"]
    assert parsed(*BOTH)[0].options()["strategies"] is None


@pytest.mark.parametrize(
    ("words", "meant"),
    [((), None), (("--halving",), True), (("--halving", "false"), False), (("--halving=true",), True)],
)
def test_halving_is_left_to_the_budget_unless_it_is_said(words, meant):
    assert parsed(*BOTH, *words)[0].halving is meant


def test_options_are_those_of_the_function():
    import inspect

    from hf_transfer import compare

    words = ("--target_dataset", "t", "--teacher_name_or_path", "w", "--budget", "30m", "--curve", "false")
    options = parsed(*BOTH, *words, "--folds", "3", "--keep_models", "--retry_failed", "--resume", "false")[
        0
    ].options()
    assert options.keys() <= inspect.signature(compare).parameters.keys()
    assert (options["target"], options["teacher"], options["budget"]) == ("t", "w", "30m")
    assert options["folds"] == 3 and options["keep_models"] and options["retry_failed"]
    assert not options["curve"] and not options["resume"]


@pytest.mark.parametrize("words", [("--model_name_or_path", "a"), ("--dataset_name", "rows")])
def test_a_model_without_data_or_data_without_a_model_is_refused(words):
    missing = "--dataset_name" if "--model_name_or_path" in words else "--model_name_or_path"
    with pytest.raises(ValueError, match=f"`{missing}` is missing: .* on one alone. Give both, or neither"):
        parsed(*words)


# --- the loop


def test_runs_keep_their_last_weights_by_default():
    args = parsed(*BOTH)[2]
    assert isinstance(args, LoopArguments) and args.finds_rates and args.output_dir == "outputs/compare"
    assert (args.eval_strategy, args.save_strategy) == (IntervalStrategy.NO, SaveStrategy.NO)
    assert not args.load_best_model_at_end and args.metric_for_best_model is None
    assert not parsed(*BOTH, "--learning_rate", "1e-4")[2].finds_rates


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--load_best_model_at_end", "true"), "keeps its last weights"),
        (("--eval_strategy", "epoch"), "no checkpoint is chosen"),
        (("--save_strategy", "steps"), "leaves its scores and not its checkpoints"),
        (("--resume_from_checkpoint", "out/checkpoint-3"), "not said which of the runs"),
        (("--metric_for_best_model", "loss"), "the main score of the task"),
        (("--layer_decay", "0.5"), "belongs to the strategy `gradual`"),
        (("--lora_plus_ratio", "16"), "belongs to an adapter"),
        (("--cache_frozen_prefix",), "few strategies freeze"),
        (("--push_objectives",), "has no objectives"),
        (("--deepspeed", "zero.json"), "stays on one of them"),
    ],
)
def test_options_without_sense_are_refused(words, why):
    with pytest.raises(ValueError, match=rf"`{words[0]} .*` in a comparison: .*{why}.*\. Leave it out\."):
        parsed(*BOTH, *words)


def test_words_that_say_the_default_are_none():
    args = parsed(*BOTH, "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")[2]
    assert args.eval_strategy == IntervalStrategy.NO


def test_arguments_of_another_loop_keep_what_was_changed():
    theirs = LoopArguments(output_dir="theirs", use_cpu=True, max_steps=3, seed=5, head_lr=None)
    own = CompareLoopArguments.of(theirs, "mine")
    assert (own.max_steps, own.seed, own.head_lr, own.use_cpu, own.output_dir) == (3, 5, None, True, "mine")
    assert own.finds_rates and own.num_train_epochs == 10 and own.save_strategy == SaveStrategy.NO
    assert CompareLoopArguments.of(LoopArguments(use_cpu=True, learning_rate=1e-3), "mine").learning_rate == 1e-3


def test_arguments_of_a_comparison_stay_as_they_are():
    given = CompareLoopArguments(output_dir="mine", use_cpu=True, hub_token="secret")
    assert CompareLoopArguments.of(given, "mine") is given
    assert CompareLoopArguments.of(given, Path("other")).output_dir == "other"
    assert given.output_dir == "mine" and CompareLoopArguments.of(None, "x").finds_rates


# --- the embedded data


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "compare.yaml"),
        (["--seeds", "3"], "compare.yaml"),
        (["--modality", "text"], "compare_text.yaml"),
        (["--modality=text", "--seeds", "3"], "compare_text.yaml"),
        (["--modality", "audio"], "compare_audio.yaml"),
        (["--modality"], "compare.yaml"),
        (["--modality", "sound"], "compare.yaml"),
    ],
)
def test_without_a_model_and_data_there_are_embedded_ones(words, name):
    assert example_words(words, Path("recipes")) == ["--config", f"recipes/{name}", *words]
    assert set(MODALITIES.values()) >= {name}


@pytest.mark.parametrize(
    "words", [["--config", "x.yaml"], ["--config=x.yaml"], ["--dataset_name=d"], ["--model_name_or_path", "m"], ["-h"]]
)
def test_what_names_them_is_left_alone(words):
    assert example_words(words, Path("recipes")) == words
