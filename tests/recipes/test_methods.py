"""Every way to transfer through recipes/finetune.py, in few runs of options that go together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_transfer.method_arguments import MethodArguments
from tests.models import tiny_bert
from tests.recipes.conftest import saved_text_model, write_reviews
from tests.recipes.test_finetune import logs, weights


TEXT: dict[str, tuple[Any, ...]] = {
    "near_the_start": ("--l2sp", 0.01, "--delta", 0.1, "--bss", 0.001, "--probe_first", "--wise_ft", "--ema", 0.9),
    "a_source_with_its_head": ("--lwf", 1, "--co_tuning", 2, "--label_smoothing", 0.1, "--mixout", 0.5),
    "another_source": ("--source_name_or_path", "other", "--co_tuning", 2, "--class_balanced", 0.99),
    "contrast": ("--bi_tuning", 1, "--supervised_contrastive", 0.1, "--reinitialize_blocks", 1),
    "outputs": ("--delta", 0.1, "--delta_attention", "false"),
    "task": ("--r_drop", 0.5, "--focal_gamma", 2, "--early_stopping_patience", 3),
    "transferred": ("--transfer_from", "other", "--transfer_blocks", 2, "--freeze", "gradual", "--stages", 3),
}
IMAGES: dict[str, tuple[Any, ...]] = {
    "mixed": ("--mixup", 0.2, "--stoch_norm", 0.5, "--l2sp", 0.01),
    "cut": ("--cutmix", 1, "--label_smoothing", 0.1, "--focal_gamma", 1),
    "frozen_statistics": ("--freeze_batch_norm", "--augmentation", "light", "--ema", 0.9, "--freeze", "backbone"),
}
ELSEWHERE = {"--schedule"}  # in test_finetune.py, with the command that writes one


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BERT of `text_model` after another start and for other classes."""
    return saved_text_model(
        tmp_path_factory.mktemp("other_model"), lambda **options: tiny_bert(num_labels=5, **options)
    )


def test_no_method_is_left_out():
    given = {word for words in (*TEXT.values(), *IMAGES.values()) for word in words if str(word).startswith("--")}
    assert {f"--{field.name}" for field in dataclasses.fields(MethodArguments)} - given == ELSEWHERE


@pytest.mark.parametrize("case", TEXT)
def test_methods_on_text(run, tmp_path, reviews, text_model, other_model, case):
    words = [other_model if word == "other" else word for word in TEXT[case]]
    results = run(
        *("finetune", "--model_name_or_path", text_model, "--dataset_name", reviews, *words),
        *("--num_train_epochs", 3, "--learning_rate", 1e-3, "--logging_steps", 1),
    )
    assert {"train_loss", "eval_accuracy", "test_accuracy"} <= results.keys()
    out = tmp_path / "out"
    AutoModelForSequenceClassification.from_pretrained(out)
    assert not [name for name in weights(out) if "transfer_objectives" in name]
    terms = {key for entry in logs(out) if "loss" in entry for key in entry if key.startswith("loss_")}
    assert len(terms) == len({"lwf", "l2sp", "delta", "bss", "co_tuning", "bi_tuning"} & given(words)) + len(
        {"supervised_contrastive", "r_drop"} & given(words)
    ) + bool(terms)  # and the task
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in logs(out) if "loss" in entry)


@pytest.mark.parametrize("case", IMAGES)
def test_methods_on_images(run, tmp_path, images, convolutional_model, case):
    results = run(
        *("finetune", "--model_name_or_path", convolutional_model, "--dataset_name", images, *IMAGES[case]),
        *("--num_train_epochs", 2, "--logging_steps", 1),
    )
    assert {"train_loss", "eval_accuracy", "test_accuracy"} <= results.keys()
    AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    before, after = weights(convolutional_model), weights(tmp_path / "out")
    statistics = [name for name in after if name.endswith("running_mean")]
    held = all(torch.equal(before[name], after[name]) for name in statistics)
    assert statistics and held is (case == "frozen_statistics")


def given(words: Any) -> set[str]:
    return {str(word)[2:] for word in words if str(word).startswith("--")}


# --- what the methods do to the run


def test_a_probe_first_and_nothing_more_is_the_probe(run, tmp_path, reviews, text_model, capsys):
    options = ("--model_name_or_path", text_model, "--dataset_name", reviews, "--num_train_epochs", 1)
    run("finetune", *options, "--probe_first", "--learning_rate", 0)
    out = tmp_path / "out"
    before, after = weights(text_model), weights(out)
    assert all(torch.equal(before[name], after[name]) for name in after if "classifier" not in name)
    assert "The head starts from a probe on 12 rows" in capsys.readouterr().err
    assert (
        next(log for log in logs(out) if "eval_loss" in log)["eval_accuracy"] == 1.0
    )  # good and bad are told apart by their words


def test_wise_ft_scores_what_it_leaves(run, tmp_path, reviews, text_model, capsys):
    results = run(
        *("finetune", "--model_name_or_path", text_model, "--dataset_name", reviews, "--num_train_epochs", 2),
        *("--wise_ft", "--probe_first", "--metric_for_best_model", "accuracy"),
        *("--learning_rate", 0.1),  # which ruins it
    )
    assert results["eval_accuracy"] == 1.0  # the share 0 is among those tried
    printed = capsys.readouterr().err
    assert "WiSE-FT mixes" in printed and "of each share: 0% 1.0000, 10% " in printed


def test_validation_rows_are_held_out_where_something_is_chosen(run, tmp_path, text_model, capsys):
    file = tmp_path / "a.csv"
    write_reviews(file, "book", ["pos", "neg"] * 10)
    options = ("--model_name_or_path", text_model, "--dataset_name", file, "--num_train_epochs", 2)
    results = run("finetune", *options, "--early_stopping_patience", 1)
    assert "eval_accuracy" in results
    assert "4 training rows (20% of each class) are held out for validation, 16 are left" in capsys.readouterr().err
    assert "eval_accuracy" not in run("finetune", *options, out="plain")


def test_the_smaller_squared_error_is_the_better_one(run, tmp_path, text_model):
    lines = [f"the book is {('good', 'bad')[i % 2]},{i % 2}.5" for i in range(12)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    results = run(
        *(
            "finetune",
            "--model_name_or_path",
            text_model,
            "--dataset_name",
            tmp_path / "a.csv",
            "--num_train_epochs",
            3,
        ),
        *("--wise_ft", "--metric_for_best_model", "mse", "--learning_rate", 0.01, "--save_total_limit", 5),
    )
    tried = [entry["eval_mse"] for entry in logs(tmp_path / "out") if "eval_mse" in entry]
    assert len(tried) == 3 and results["eval_mse"] <= min(tried) < max(tried)


# --- repeats


@pytest.mark.parametrize("soup", ["none", "uniform", "greedy"])
def test_seeds_and_soups(run, tmp_path, images, image_model, soup):
    results: Any = run(
        *("finetune", "--model_name_or_path", image_model, "--dataset_name", images, "--num_train_epochs", 1),
        *("--seeds", 2, "--seed", 7, "--soup", soup, "--head_lr", 0.02, "--save_strategy", "no"),
    )
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"all_results.json", "seed_7", "seed_8"} | (
        set() if soup == "none" else {"soup"}
    )
    own = [json.loads((out / f"seed_{seed}" / "all_results.json").read_text()) for seed in (7, 8)]
    assert results["seeds"] == [7, 8]
    for name in ("eval_loss", "eval_accuracy", "test_loss", "test_macro_f1"):
        first, second = (scores[name] for scores in own)
        assert results[f"{name}_by_seed"] == [first, second]
        assert results[name] == pytest.approx((first + second) / 2)
        assert results[f"{name}_std"] == pytest.approx(abs(first - second) / 2**0.5)
        low, high = results[f"{name}_interval"]
        # Student's t with one degree of freedom is a Cauchy: its 97.5% quantile is tan(pi * 0.475)
        assert (high - low) / 2 == pytest.approx(12.7062 * results[f"{name}_std"] / 2**0.5, rel=1e-4)
    assert not [name for name in results if "runtime" in name or "per_second" in name or name.startswith("epoch")]
    members = [weights(out / f"seed_{seed}") for seed in (7, 8)]
    assert any(not torch.equal(members[0][name], members[1][name]) for name in members[0])
    if soup == "none":
        return
    assert AutoModelForImageClassification.from_pretrained(out / "soup").config.id2label == {0: "cat", 1: "dog"}
    assert results["soup_test_loss"] == json.loads((out / "soup" / "all_results.json").read_text())["test_loss"]
    mixed = weights(out / "soup")
    means = {name: (members[0][name] + members[1][name]) / 2 for name in mixed}
    if soup == "uniform":
        torch.testing.assert_close(mixed, means)
    else:
        assert results["soup_eval_accuracy"] >= max(results["eval_accuracy_by_seed"])
        assert any(equal(mixed, weights) for weights in (means, *members))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(first[name], second[name], rtol=1e-5, atol=1e-7) for name in first)


@pytest.mark.parametrize("soup", ["none", "uniform"])
def test_members_of_a_soup_share_rows_and_start(run, tmp_path, text_model, soup):
    write_reviews(tmp_path / "a.csv", "book", ["pos", "neg"] * 10)
    run(
        *("finetune", "--model_name_or_path", text_model, "--dataset_name", tmp_path / "a.csv", "--max_steps", 1),
        *("--samples_per_class", 6, "--reinitialize_blocks", 1, "--learning_rate", 0, "--head_lr", 0),
        *("--seeds", 2, "--soup", soup, "--validation_fraction", 0.2),
    )
    first, second = (weights(tmp_path / "out" / f"seed_{seed}") for seed in (42, 43))
    differ = {name for name in first if not torch.equal(first[name], second[name])}
    if soup == "none":
        assert "classifier.weight" in differ and any("layer.2." in name for name in differ)
    else:
        assert not differ


# --- rates and settings that are found


def test_lr_find_leaves_its_curve_and_its_rates(run, tmp_path, reviews, text_model, capsys):
    run(
        *("finetune", "--model_name_or_path", text_model, "--dataset_name", reviews, "--num_train_epochs", 2),
        *("--lr_find", "--lr_scheduler_type", "constant", "--logging_steps", 1, "--layer_decay", 0.9),
    )
    out = tmp_path / "out"
    assert (out / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    rates = yaml.safe_load((out / "lr_find.yaml").read_text())
    assert rates.keys() == {"learning_rate", "head_lr"}
    assert rates["head_lr"] / rates["learning_rate"] == pytest.approx(3e-3 / 5e-5)  # in proportion
    assert "sets --learning_rate" in capsys.readouterr().err
    used = [entry["learning_rate"] for entry in logs(out) if "loss" in entry]
    layers = [rates["head_lr"], *(rates["learning_rate"] * 0.9**power for power in range(5))]
    assert used and all(any(rate == pytest.approx(layer) for layer in layers) for rate in used)


def test_a_search_leaves_settings_that_run_again(run, tmp_path, reviews, text_model, capsys):
    options = (
        *("--model_name_or_path", text_model, "--dataset_name", reviews, "--num_train_epochs", 4),
        *("--l2sp", 0.01, "--lwf", 1, "--early_stopping_patience", 4, "--metric_for_best_model", "loss"),
    )
    results = run("finetune", *options, "--search", 2)
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert {"learning_rate", "head_lr", "layer_decay", "num_train_epochs", "freeze", "l2sp", "lwf"} <= best.keys()
    assert 1 <= best["num_train_epochs"] <= 4 and 0.001 <= best["l2sp"] <= 0.1 and 0.1 <= best["lwf"] <= 10
    printed = capsys.readouterr().err
    assert "The best of 2 settings (validation loss " in printed
    assert f"{results['eval_loss']:.4f}" in printed.split("The best of 2 settings")[1]  # the trial, once more
    again = run("finetune", "--config", tmp_path / "out" / "best.yaml", *without(options, "--l2sp", "--lwf"), out="re")
    assert again["eval_loss"] == pytest.approx(results["eval_loss"], rel=1e-5)


def without(options: tuple, *names: str) -> list:
    """The options but for these, and for the epochs, which the search has found."""
    dropped = {*names, "--num_train_epochs"}
    pairs = [options[i : i + 2] for i in range(0, len(options), 2)]
    return [word for name, value in pairs if name not in dropped for word in (name, value)]
