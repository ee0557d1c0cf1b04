"""What every recipe has in common: its YAML, its options, and runs as a user starts them."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForImageClassification, HfArgumentParser

from hf_transfer.method_arguments import MethodArguments
from hf_transfer.recipe_arguments import DataArguments, LoopArguments, ModelArguments
from tests.recipes.conftest import RECIPES, write_reviews


ROOT = RECIPES.parent
SCRIPTS = sorted(RECIPES.glob("*.py"))
NAMES = [script.stem for script in SCRIPTS]


def argument_classes(script: Path) -> list[Any]:
    """The recipe's own arguments and the shared ones."""
    scope = runpy.run_path(str(script), run_name="recipe")
    if "ClassificationArguments" in scope:
        return [scope["ClassificationArguments"]]  # it trains nothing
    own = [kind for kind in scope.values() if dataclasses.is_dataclass(kind) and kind.__module__ == "recipe"]
    loops = (
        "MultitaskLoopArguments",
        "FewShotLoopArguments",
        "AdaptationLoopArguments",
        "DistillationLoopArguments",
        "AdapterLoopArguments",
        "CompareLoopArguments",
        "SeriesLoopArguments",
    )
    loop = next((scope[name] for name in loops if name in scope), LoopArguments)
    names = ("DomainArguments", "DistillationArguments", "AdapterOptions", "AdapterArguments", "MethodArguments")
    names = (
        "RunArguments",
        "MultitaskArguments",
        "FewShotArguments",
        *names,
        "ProbeArguments",
        "FeatureArguments",
        "CompareArguments",
        "SelectSourceArguments",
        "SeriesArguments",
        "ForecasterArguments",
    )
    shared = [scope[name] for name in names if name in scope]
    shared = [kind for kind in shared if not any(issubclass(other, kind) for other in own)]
    # these name two models or several by options of their own, or one that reads series
    apart = {"DistillationArguments", "CompareArguments", "SelectSourceArguments", "ForecasterArguments"}
    model = [] if apart & scope.keys() else [ModelArguments]
    data = [] if "SeriesArguments" in scope else [DataArguments]
    return [*own, *shared, *model, *data, loop]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else []


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_the_yaml_beside_it_has_known_keys_of_the_right_types(script):
    settings = yaml.safe_load(script.with_suffix(".yaml").read_text())
    fields = {field.name: field for kind in argument_classes(script) for field in dataclasses.fields(kind)}
    assert settings and settings.keys() <= fields.keys()
    single = ("dataset_name", "target_dataset", "adapter_name_or_path", "target_series", "source_dataset")
    named = [settings[key] for key in single if isinstance(settings.get(key), str)]
    named += [word for key in ("source_dataset", "source_series") for word in _listed(settings.get(key))]
    named += [word.split("=")[1] for word in settings.get("task_datasets", ())]
    assert named and all(name.startswith("embedded:") for name in named)
    assert not settings.get("push_to_hub")


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_every_option_is_explained_once(script):
    kinds = argument_classes(script)
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    names = [field.name for field in fields]
    assert len(names) == len(set(names))
    assert not [field.name for field in fields if field.init and not field.metadata.get("help")]
    help_text = " ".join(HfArgumentParser(kinds).format_help().split())
    own = dataclasses.fields(kinds[0])
    assert own and all(f"--{field.name}" in help_text for field in own)


def test_finetune_takes_every_method():
    assert MethodArguments in argument_classes(RECIPES / "finetune.py")
    assert MethodArguments not in argument_classes(RECIPES / "domain_adaptation.py")


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_importing_it_starts_nothing(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script), "--no-such-option"])
    assert callable(runpy.run_path(str(script), run_name="recipe")["main"])


def start(launcher: tuple[str, ...], home: Path, *words: object) -> None:
    """Run a recipe in processes of its own, as a user does."""
    environment = {
        **os.environ,
        **{"HF_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    }
    command = [sys.executable, "-m", *launcher, *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
def test_finetune_under_accelerate_launch(tmp_path, home):
    start(
        (*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no"),
        *(home, RECIPES / "finetune.py", "--config", RECIPES / "finetune.yaml", "--output_dir", tmp_path),
        *("--num_train_epochs", 2, "--max_eval_samples", 40),
    )
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert {"train_loss", "eval_accuracy", "test_accuracy"} <= results.keys()
    assert len(AutoModelForImageClassification.from_pretrained(tmp_path).config.label2id) >= 5


@pytest.mark.slow
def test_finetune_on_two_ranks(tmp_path, home):
    start(
        TORCHRUN,
        *(home, RECIPES / "finetune.py", "--config", RECIPES / "finetune.yaml", "--output_dir", tmp_path),
        *("--use_cpu", "--ddp_backend", "gloo", "--num_train_epochs", 2, "--max_eval_samples", 40),
        *("--seeds", 2, "--soup", "greedy", "--wise_ft", "--probe_first", "--ema", 0.9),
    )
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["seeds"] == [42, 43] and len(results["test_accuracy_by_seed"]) == 2
    own = [json.loads((tmp_path / f"seed_{seed}" / "all_results.json").read_text()) for seed in (42, 43)]
    assert results["eval_accuracy_by_seed"] == [scores["eval_accuracy"] for scores in own]
    # on all 40 rows, whichever rank saw them
    assert results["soup_eval_accuracy"] >= max(results["eval_accuracy_by_seed"])
    assert (results["soup_eval_accuracy"] * 40) % 1 == pytest.approx(0, abs=1e-9)
    AutoModelForImageClassification.from_pretrained(tmp_path / "soup")
    # whoever writes beside rank 0 leaves something of its own: a part of a file, a state, a folder
    assert {path.name for path in tmp_path.iterdir()} == {"all_results.json", "seed_42", "seed_43", "soup"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp" or path.name.startswith(".")]


@pytest.mark.slow
def test_domain_adaptation_under_accelerate_launch(tmp_path, home, reviews, text_model):
    start(
        (*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no"),
        *(home, RECIPES / "domain_adaptation.py", "--output_dir", tmp_path / "out", *domains(tmp_path, reviews)),
        *("--model_name_or_path", text_model, "--per_device_train_batch_size", 4),
    )
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {"source_only_target_accuracy", "target_accuracy"} <= results.keys()


@pytest.mark.slow
def test_two_ranks_are_one(run, tmp_path, home, reviews, text_model):
    options = (*domains(tmp_path, reviews), "--model_name_or_path", text_model, "--optim", "sgd")
    one = run("domain_adaptation", *options, out="one")  # batches of four
    start(
        TORCHRUN,
        *(home, RECIPES / "domain_adaptation.py", *options, "--output_dir", tmp_path / "two"),
        *("--use_cpu", "--ddp_backend", "gloo", "--per_device_train_batch_size", 2),
    )
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    for name in ("source_only_target_loss", "target_loss", "source_loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name
    assert (tmp_path / "two" / "model.safetensors").is_file()


def domains(folder: Path, source: Path) -> tuple:
    target = folder / "target"
    write_reviews(target / "train.csv", "pan", ["pos", "neg"] * 6)
    write_reviews(target / "test.csv", "pan", ["pos", "neg"] * 2)
    return "--source_dataset", source, "--target_dataset", target, "--num_train_epochs", 2, "--learning_rate", 0.05
