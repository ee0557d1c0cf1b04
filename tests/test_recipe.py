from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import Trainer, TrainingArguments

from hf_transfer.recipe import parse, prepare_run, save_summary, score
from tests import models
from tests.test_trainer import labelled


@dataclass
class Options:
    """Of a made-up recipe."""

    name: str = "nobody"
    rate: float = 0.1
    columns: list[str] = field(default_factory=list)
    loud: bool = False
    quiet: bool = True
    table: dict[str, Any] | str | None = None
    nothing: str | None = "something"


@dataclass
class More:
    """Of the same recipe."""

    steps: int = 3


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Parse these words as the recipe `tmp_path/job.py` would."""

    def call(*words: str, kinds: tuple = (Options, More)):
        monkeypatch.setattr(sys, "argv", ["job.py", *words])
        return parse(str(tmp_path / "job.py"), *kinds)

    return call


def write(folder: Path, text: str, name: str = "job.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_without_arguments_the_yaml_beside_the_script(call, tmp_path):
    write(tmp_path, "name: anna\nsteps: 7\n")
    options, more = call()
    assert options == Options(name="anna") and more == More(steps=7)


def test_with_arguments_the_yaml_beside_it_is_not_read(call, tmp_path):
    write(tmp_path, "name: anna\n")
    assert call("--steps", "2") == (Options(), More(steps=2))


def test_the_command_line_wins_over_the_yaml_wherever_it_stands(call, tmp_path):
    config = write(tmp_path, "name: anna\nrate: 0.5\ncolumns: [a, b]\n", "mine.yaml")
    for words in (["--config", config, "--name", "bert"], ["--name", "bert", "--config", config]):
        options, _ = call(*words)
        assert options == Options(name="bert", rate=0.5, columns=["a", "b"])
    options, _ = call("--config", config, "--columns", "c")
    assert options.columns == ["c"]


def test_yaml_values_of_every_type(call, tmp_path):
    text = "rate: 1.0e-3\nloud: true\nquiet: false\ntable: {width: 8, list: [1, 2]}\nnothing: null\nsteps: 4\n"
    options, more = call("--config", write(tmp_path, text))
    assert options.rate == 0.001 and options.loud is True and options.quiet is False and more.steps == 4
    assert json.loads(options.table) == {"width": 8, "list": [1, 2]}
    assert options.nothing == "something"  # null is the default, not the word None


def test_an_empty_yaml_changes_nothing(call, tmp_path):
    assert call("--config", write(tmp_path, "# nothing yet\n")) == (Options(), More())


def test_unknown_keys_are_refused_by_name(call, tmp_path):
    config = write(tmp_path, "naem: anna\nrate: 1\nstep: 2\n")
    with pytest.raises(ValueError, match="job.yaml has naem, step, which is no option: the setting would be lost"):
        call("--config", config)


def test_a_yaml_of_something_else_is_refused(call, tmp_path):
    config = write(tmp_path, "- name\n- rate\n")
    with pytest.raises(ValueError, match="holds a list, not options: none of it would be taken. Write one"):
        call("--config", config)


@pytest.mark.parametrize("words", [["--config", "nowhere.yaml"], ["--name", "x", "--config"]])
def test_a_config_that_is_not_there_is_refused(call, words):
    with pytest.raises(FileNotFoundError, match="there is no such file, and the run would take other settings"):
        call(*words)


def test_words_that_no_class_knows_are_refused(call):
    with pytest.raises(ValueError, match="not used by the HfArgumentParser: .*--naem"):
        call("--naem", "anna")


# --- the output folder and the messages


@pytest.fixture
def package_logger():
    logger = logging.getLogger("hf_transfer")
    handlers, level = list(logger.handlers), logger.level
    logger.handlers.clear()
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def arguments(folder: Path, **options) -> TrainingArguments:
    return TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **options)


def test_the_folder_is_made_and_left_empty(tmp_path, package_logger):
    prepare_run(arguments(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "a" / "b" / "old.txt").write_text("kept")
    prepare_run(arguments(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b" / "old.txt").read_text() == "kept"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, package_logger, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PermissionError, match=r"`--output_dir .*file/out` cannot be written to \(Not a directory\)"):
        prepare_run(arguments(tmp_path / "file" / "out"))
    with pytest.raises(PermissionError, match="file` cannot be written to .*would be lost. Name a folder of your own"):
        prepare_run(arguments(tmp_path / "file"))

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"cannot be written to \(Permission denied\)"):
        prepare_run(arguments(tmp_path / "new"))


def test_messages_are_shown_once_and_on_the_main_process_only(tmp_path, package_logger):
    prepare_run(arguments(tmp_path))
    prepare_run(arguments(tmp_path))
    assert len(package_logger.handlers) == 1 and package_logger.level == logging.INFO
    other_rank = SimpleNamespace(should_log=False, output_dir=str(tmp_path), push_to_hub=False)
    prepare_run(cast(TrainingArguments, other_rank))
    assert package_logger.level == logging.WARNING


def test_scores_are_added_to_one_file(tmp_path, capsys):
    trainer = Trainer(models.tiny_bert(), arguments(tmp_path), compute_metrics=lambda outputs: {"accuracy": 0.25})
    metrics = score(trainer, labelled(), "test")
    score(trainer, labelled(), "target")
    assert metrics["test_accuracy"] == 0.25
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["test_accuracy"] == results["target_accuracy"] == 0.25
    assert json.loads((tmp_path / "test_results.json").read_text())["test_loss"] == results["test_loss"]
    printed = capsys.readouterr().out
    assert "***** test metrics *****" in printed and "***** target metrics *****" in printed


# --- several seeds

SCORES = {3: {"test_accuracy": 0.5, "test_runtime": 1.0, "epoch": 2.0}, 4: {"test_accuracy": 0.7, "epoch": 2.0}}


def test_seeds_have_mean_deviation_and_interval(tmp_path, package_logger, capsys):
    prepare_run(arguments(tmp_path))
    save_summary(SCORES, arguments(tmp_path))
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["seeds"] == [3, 4] and results["test_accuracy_by_seed"] == [0.5, 0.7]
    assert results["test_accuracy"] == pytest.approx(0.6)
    assert results["test_accuracy_std"] == pytest.approx(0.02**0.5)
    half = 12.7062 * 0.02**0.5 / 2**0.5  # Student's t with one degree of freedom
    assert results["test_accuracy_interval"] == pytest.approx([0.6 - half, 0.6 + half], rel=1e-4)
    assert set(results) == {"seeds", *(f"test_accuracy{end}" for end in ("", "_std", "_interval", "_by_seed"))}
    assert not list(tmp_path.glob("*.tmp"))
    printed = capsys.readouterr().err
    assert "Over 2 seeds:" in printed and "| test_accuracy | 0.600 | 0.141 |" in printed


def test_a_soup_stands_beside_its_members(tmp_path, package_logger):
    save_summary(SCORES, arguments(tmp_path), soup={"test_accuracy": 0.8, "test_runtime": 2.0})
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["soup_test_accuracy"] == 0.8 and "soup_test_runtime" not in results


def test_a_score_that_is_not_finite_costs_its_mean_only(tmp_path, package_logger, capsys):
    prepare_run(arguments(tmp_path))
    scores = {1: {"eval_pearson": math.nan, "eval_mse": 1.0}, 2: {"eval_pearson": 0.5, "eval_mse": 3.0}}
    save_summary(scores, arguments(tmp_path))
    results = json.loads((tmp_path / "all_results.json").read_text(), parse_constant=pytest.fail)
    assert results["eval_mse"] == 2.0 and results["eval_pearson"] is None
    assert results["eval_pearson_by_seed"] == [None, 0.5]
    assert "`eval_pearson` is not finite for every seed: it has no mean" in capsys.readouterr().err


def test_only_the_main_process_writes_the_summary(tmp_path):
    other_rank = SimpleNamespace(should_save=False, output_dir=str(tmp_path))
    save_summary(SCORES, cast(TrainingArguments, other_rank))
    assert not list(tmp_path.iterdir())
