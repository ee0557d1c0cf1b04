"""Commands of a comparison: they can be parsed again, and mean the same."""

from __future__ import annotations

import shlex

import pytest
from transformers import HfArgumentParser

from hf_transfer.compare.arguments import CompareArguments, CompareLoopArguments
from hf_transfer.compare.reproducing import SCRIPT, command, loop_words
from hf_transfer.recipe_arguments import DataArguments


def parsed(line: str):
    words = shlex.split(line.removeprefix(SCRIPT))
    parser = HfArgumentParser([CompareArguments, DataArguments, CompareLoopArguments])  # pyright: ignore
    return parser.parse_args_into_dataclasses([*words, "--use_cpu"])


def test_a_command_means_what_was_run():
    args = CompareLoopArguments(
        use_cpu=True,
        num_train_epochs=4,
        seed=7,
        learning_rate=3e-4,
        learning_rates={"block.0": 1e-5},
        head_lr=0.01,
        hub_token="hf_" + "a" * 20,
    )
    data = DataArguments(samples_per_class=5, input_columns=["a", "b"])
    options = {"model_name_or_path": ["x/y"], "dataset_name": "it's mine", "seeds": 3, "curve": "false"}
    line = command({**options, **loop_words(args, data)})
    recipe, again, loop = parsed(line)
    assert recipe.model_name_or_path == ["x/y"] and recipe.dataset_name == "it's mine"
    assert recipe.seeds == 3 and not recipe.curve
    assert again == data
    for name in ("num_train_epochs", "seed", "learning_rate", "learning_rates", "head_lr"):
        assert getattr(loop, name) == getattr(args, name), name
    assert "hf_a" not in line and "output_dir" not in line and "use_cpu" not in line


def test_a_row_is_run_without_what_concerns_several():
    options = {"model_name_or_path": ["x", "y"], "dataset_name": "d", "budget": "9m", "halving": "true", "folds": 3}
    line = command({**options, "strategies": ["full", "lora"]}, strategy="lora", model="y")
    recipe = parsed(line)[0]
    assert recipe.model_name_or_path == ["y"] and recipe.strategies == ["lora"] and not recipe.curve
    assert recipe.budget is None and recipe.halving is None and recipe.folds == 3


@pytest.mark.parametrize("value", [None, "", False, []])
def test_what_is_not_set_is_not_written(value):
    assert command({"dataset_name": "d", "x": value}) == f"{SCRIPT} --dataset_name d"


def test_steps_take_the_place_of_epochs():
    args = CompareLoopArguments(use_cpu=True, max_steps=5, num_train_epochs=3)
    words = loop_words(args, DataArguments())
    assert words == {"max_steps": 5}
