"""recipes/domain_adaptation.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import pipeline

from tests.recipes.conftest import RECIPES, image_folder, write_reviews


STEPS = ("--num_train_epochs", 2, "--learning_rate", 0.01)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def identical(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def kitchen(folder: Path, labels: list[str] | None) -> Path:
    """A target whose labels of the training rows are as given; its test rows are always the same."""
    write_reviews(folder / "train.csv", "pan", labels, rows=10)
    write_reviews(folder / "test.csv", "pan", ["pos", "neg"] * 2 if labels else None, rows=4)
    return folder


def test_the_yaml_beside_it_reports_both_ways_on_both_domains(run, tmp_path):
    results = run(
        "domain_adaptation",
        *("--config", RECIPES / "domain_adaptation.yaml", "--num_train_epochs", 1),
        *("--max_samples", 16, "--max_eval_samples", 10),
    )
    scores = {f"{way}{domain}_accuracy" for way in ("", "source_only_") for domain in ("source", "target")}
    assert scores <= results.keys() and all(0 <= results[name] <= 1 for name in scores)
    classify: Any = pipeline("image-classification", model=str(tmp_path / "out"), device="cpu")
    assert set(classify.model.config.label2id) == set("0123456789")


def test_labels_of_the_target_are_never_trained_on(run, tmp_path, reviews, text_model):
    targets = {
        "right": ["pos", "neg"] * 5,
        "wrong": ["neg", "pos"] * 5,
        "sorted": ["pos"] * 8 + ["neg"] * 2,
        "absent": None,
    }
    results = {}
    for name, labels in targets.items():
        folder = kitchen(tmp_path / "data" / name, labels)
        results[name] = run(
            "domain_adaptation",
            *("--model_name_or_path", text_model, "--source_dataset", reviews, "--target_dataset", folder, *STEPS),
            *("--source_only", "false"),
            out=name,
        )
    for name in ("wrong", "sorted", "absent"):
        assert identical(tmp_path / "right", tmp_path / name), name
    assert results["right"]["target_accuracy"] == results["wrong"]["target_accuracy"]
    assert "target_accuracy" not in results["absent"] and "source_accuracy" in results["absent"]


def test_labels_of_the_target_do_not_choose_the_rows_held_out(run, tmp_path, reviews, text_model):
    for name, labels in {"right": ["pos", "neg"] * 5, "wrong": ["pos"] * 8 + ["neg"] * 2}.items():
        write_reviews(tmp_path / f"{name}.csv", "pan", labels)
        lines = (tmp_path / f"{name}.csv").read_text().replace("pan", "{}").splitlines()
        words = ["anna", "bern", "book", "pan", "good", "bad", "fine", "poor", "the", "is"]  # every row another one
        texts = [line.format(word) for line, word in zip(lines[1:], words, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *texts]) + "\n")
        options = ("--source_dataset", reviews, "--target_dataset", tmp_path / f"{name}.csv", *STEPS)
        run(
            "domain_adaptation",
            *("--model_name_or_path", text_model, *options, "--validation_fraction", 0.5, "--source_only", "false"),
            out=name,
        )
    assert identical(tmp_path / "right", tmp_path / "wrong")


def test_rows_of_the_target_and_the_weight_of_the_adversary_do_count(run, tmp_path, reviews, text_model):
    target, other = kitchen(tmp_path / "pans", ["pos", "neg"] * 5), tmp_path / "books"
    write_reviews(other / "train.csv", "book", ["pos", "neg"] * 5)
    options = (*("--model_name_or_path", text_model, "--source_dataset", reviews), *STEPS, "--source_only", "false")
    run("domain_adaptation", *options, "--target_dataset", target, out="adapted")
    run("domain_adaptation", *options, "--target_dataset", other, out="other")
    run("domain_adaptation", *options, "--target_dataset", target, "--adversarial_weight", 0, out="none")
    assert not identical(tmp_path / "adapted", tmp_path / "other")
    assert not identical(tmp_path / "adapted", tmp_path / "none")


def test_the_source_only_run_does_not_disturb_the_adapted_one(run, tmp_path, reviews, text_model):
    target = kitchen(tmp_path / "data", ["pos", "neg"] * 5)
    options = ("--model_name_or_path", text_model, "--source_dataset", reviews, "--target_dataset", target, *STEPS)
    both = run("domain_adaptation", *options, out="both")
    alone = run("domain_adaptation", *options, "--source_only", "false", out="alone")
    assert identical(tmp_path / "both", tmp_path / "alone")
    assert both["target_loss"] == alone["target_loss"] and "source_only_target_loss" not in alone
    assert both["source_only_target_loss"] != both["target_loss"]


def test_both_runs_take_the_same_steps(run, tmp_path, images, image_model, monkeypatch):
    steps = []
    from transformers import Trainer

    plain = Trainer.training_step

    def counted(self, model, inputs, *args, **options):
        rows = inputs["labels"].tolist()
        steps.append((len(self.objectives), len(rows), sum(label >= 0 for label in rows)))
        return plain(self, model, inputs, *args, **options)

    monkeypatch.setattr(Trainer, "training_step", counted)
    target = image_folder(tmp_path / "data", ("train",))
    run(
        "domain_adaptation",
        *("--model_name_or_path", image_model, "--source_dataset", images, "--target_dataset", target),
        *("--num_train_epochs", 2, "--augmentation", "strong"),
    )
    # 12 rows in batches of 4, twice; the adapted run adds as many target rows, whose labels are masked
    assert steps == [(0, 4, 4)] * 6 + [(1, 8, 4)] * 6


def test_resuming_concerns_the_adapted_run(run, tmp_path, reviews, text_model):
    target = kitchen(tmp_path / "data", ["pos", "neg"] * 5)
    options = (
        *("--model_name_or_path", text_model, "--source_dataset", reviews, "--target_dataset", target),
        *("--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2, "--save_total_limit", 5),
    )
    straight = run("domain_adaptation", *options, out="straight")
    checkpoint = tmp_path / "straight" / "checkpoint-2"
    resumed = run("domain_adaptation", *options, "--resume_from_checkpoint", checkpoint, out="resumed")
    assert resumed["target_loss"] == straight["target_loss"]
    assert resumed["source_only_target_loss"] == straight["source_only_target_loss"]
    assert identical(tmp_path / "straight", tmp_path / "resumed")
