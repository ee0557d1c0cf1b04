"""`training_arguments.yaml`: what it tells, and above all what it does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import yaml
from transformers import TrainingArguments

from hf_transfer import TransferArguments
from hf_transfer.hub import ARGUMENTS_NAME, changed_arguments, save_training_arguments
from hf_transfer.recipe_arguments import LoopArguments


def test_nothing_was_changed(tmp_path):
    for kind in (TrainingArguments, TransferArguments, LoopArguments):
        assert changed_arguments(kind(output_dir=str(tmp_path), use_cpu=True)) == {"seed": 42}


def test_changed_options_are_plain_values(tmp_path):
    args = TransferArguments(
        str(tmp_path / "out"),
        use_cpu=True,
        max_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 0.5},
        learning_rates={"head": 0.1},
        eval_strategy="steps",
        eval_steps=2,
        push_objectives=True,
    )
    path = save_training_arguments(args, tmp_path)
    assert path.name == ARGUMENTS_NAME and [file.name for file in tmp_path.iterdir()] == [ARGUMENTS_NAME]
    assert yaml.safe_load(path.read_text()) == {
        "max_steps": 3,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 0.5},
        "learning_rates": {"head": 0.1},
        "eval_strategy": "steps",
        "eval_steps": 2,
        "push_objectives": True,
        "seed": 42,
    }


@dataclass
class Options:
    dataset_name: str
    model: str = "a"
    overrides: dict = field(default_factory=dict)
    note: str = ""
    api_token: str = ""
    names: list = field(default_factory=list)


def test_options_of_a_recipe(tmp_path):
    args = LoopArguments(output_dir=str(tmp_path), use_cpu=True, seed=3)
    options = [Options("user/data", overrides={"hidden_size": 8})]
    assert changed_arguments(args, options) == {
        "dataset_name": "user/data",
        "overrides": {"hidden_size": 8},
        "seed": 3,
    }


@pytest.mark.parametrize(
    "value",
    [
        *("/home/a/data", "~/data", "./data", "../data", "C:\\data", "\\\\server\\data", "x=/home/a", "see /srv/x"),
        *("my-secret", "a my-secret b", "hf_abcdefghijklmnopqrstuvwxyz"),
    ],
)
def test_paths_and_tokens_of_the_machine_are_never_told(tmp_path, value, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    args = LoopArguments(output_dir=str(tmp_path), use_cpu=True, hub_token="my-secret", run_name=value)
    for options in (Options(value), Options("d", note=value), Options("d", overrides={"a": {"b": [value]}})):
        options.api_token = "x"
        told = changed_arguments(args, [options])
        assert told == {"seed": 42, **({"dataset_name": "d"} if options.dataset_name == "d" else {})}


def test_a_name_with_a_slash_is_a_path_only_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = TrainingArguments("out", use_cpu=True)
    assert changed_arguments(args, [Options("user/data")])["dataset_name"] == "user/data"
    (tmp_path / "user" / "data").mkdir(parents=True)
    assert "dataset_name" not in changed_arguments(args, [Options("user/data")])


def test_recipe_takes_the_file_as_its_config(tmp_path, monkeypatch):
    from hf_transfer.recipe import parse

    args = LoopArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=3, learning_rates={"head": 0.1})
    path = save_training_arguments(args, tmp_path, [Options("user/data", names=["b"])])
    monkeypatch.setattr("sys.argv", ["x", "--config", str(path), "--output_dir", str(tmp_path), "--use_cpu"])

    @dataclass
    class Recipe:
        dataset_name: str
        names: list[str] = field(default_factory=list)

    Recipe.__annotations__ = {"dataset_name": str, "names": list[str]}
    recipe, loop = parse(__file__, Recipe, LoopArguments)
    assert (recipe.dataset_name, recipe.names, loop.max_steps, loop.learning_rates) == (
        "user/data",
        ["b"],
        3,
        {"head": 0.1},
    )
    assert loop.recipe_options == [recipe] and changed_arguments(loop, loop.recipe_options) == changed_arguments(
        args, [Options("user/data", names=["b"])]
    )
