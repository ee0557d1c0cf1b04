"""recipes/domain_adaptation.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, pipeline

from tests.recipes.conftest import RECIPES, image_folder, write_reviews


STEPS = ("--max_steps", 3, "--learning_rate", 0.01, "--diagnostics", "false", "--validators", "snd")
ALONE = (*STEPS, "--source_only", "false")


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


@pytest.fixture
def target(tmp_path):
    return kitchen(tmp_path / "kitchen", ["pos", "neg"] * 5)


@pytest.fixture
def domains(text_model, reviews, target):
    return "--model_name_or_path", text_model, "--source_dataset", reviews, "--target_dataset", target


def test_the_yaml_beside_it_reports_both_ways_on_both_domains(run, tmp_path):
    results = run(
        "domain_adaptation",
        *("--config", RECIPES / "domain_adaptation.yaml", "--max_steps", 2, "--methods", "source_only,dann"),
        *("--max_samples", 30, "--max_eval_samples", 10, "--validators", "snd"),
    )
    scores = {f"{way}{domain}_accuracy" for way in ("", "source_only_", "dann_") for domain in ("source", "target")}
    assert scores <= results.keys() and all(0 <= results[name] <= 1 for name in scores)
    assert results["target_accuracy"] == results["dann_target_accuracy"]  # the only method that adapts
    assert {"dann_a_distance_before", "dann_a_distance"} <= results.keys()
    classify: Any = pipeline("image-classification", model=str(tmp_path / "out"), device="cpu")
    assert set(classify.model.config.label2id) == set("0123456789")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"comparison.md", "results.json", "methods.png", "features.png", "model.safetensors"} <= written


def test_labels_of_the_target_are_never_trained_on(run, tmp_path, reviews, text_model):
    targets = {
        "right": ["pos", "neg"] * 5,
        "wrong": ["neg", "pos"] * 5,
        "absent": None,
    }
    results, chosen = {}, {}
    for name, labels in targets.items():
        folder = kitchen(tmp_path / "data" / name, labels)
        results[name] = run(
            "domain_adaptation",
            *("--model_name_or_path", text_model, "--source_dataset", reviews, "--target_dataset", folder, *ALONE),
            *("--methods", "dann,iw", "--validators", "dev", "snd", "mixval"),
            out=name,
        )
        chosen[name] = json.loads((tmp_path / name / "results.json").read_text())["runs"]
    for name in ("wrong", "absent"):
        assert identical(tmp_path / "right", tmp_path / name), name
        for method in ("dann", "iw"):
            assert identical(tmp_path / "right" / method / "seed_42", tmp_path / name / method / "seed_42"), name
        assert [own["validators"] for own in chosen[name]] == [own["validators"] for own in chosen["right"]], name
    assert results["right"]["target_accuracy"] == results["wrong"]["target_accuracy"]
    assert "target_accuracy" not in results["absent"] and "source_accuracy" in results["absent"]


def test_labels_of_the_target_do_not_choose_the_rows_held_out(run, tmp_path, reviews, text_model):
    for name, labels in {"right": ["pos", "neg"] * 5, "wrong": ["pos"] * 8 + ["neg"] * 2}.items():
        write_reviews(tmp_path / f"{name}.csv", "pan", labels)
        lines = (tmp_path / f"{name}.csv").read_text().replace("pan", "{}").splitlines()
        words = ["anna", "bern", "book", "pan", "good", "bad", "fine", "poor", "the", "is"]  # every row another one
        texts = [line.format(word) for line, word in zip(lines[1:], words, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *texts]) + "\n")
        options = ("--source_dataset", reviews, "--target_dataset", tmp_path / f"{name}.csv", *ALONE)
        run(
            "domain_adaptation",
            *("--model_name_or_path", text_model, *options, "--validation_fraction", 0.5),
            out=name,
        )
    assert identical(tmp_path / "right", tmp_path / "wrong")


def test_rows_of_the_target_and_the_weight_of_the_adversary_do_count(run, tmp_path, domains):
    other = tmp_path / "books"
    write_reviews(other / "train.csv", "book", ["pos", "neg"] * 5)
    run("domain_adaptation", *domains, *ALONE, out="adapted")
    run("domain_adaptation", *domains[:4], "--target_dataset", other, *ALONE, out="other")
    run("domain_adaptation", *domains, *ALONE, "--adversarial_weight", 0, out="none")
    assert not identical(tmp_path / "adapted", tmp_path / "other")
    assert not identical(tmp_path / "adapted", tmp_path / "none")


def test_every_run_takes_the_same_steps_on_the_same_number_of_source_rows(run, tmp_path, images, image_model, steps):
    target = image_folder(tmp_path / "data", ("train",))
    run(
        "domain_adaptation",
        *("--model_name_or_path", image_model, "--source_dataset", images, "--target_dataset", target),
        *("--num_train_epochs", 2, "--methods", "target_oracle,dann,iw", "--diagnostics", "false"),
        *("--validators", "snd"),
    )
    # 12 rows in batches of 4, twice; what has a term of the loss adds as many target rows, whose labels are masked
    assert steps == [(0, 4, 4)] * 12 + [(1, 8, 4)] * 6 + [(0, 4, 4)] * 6


@pytest.fixture
def steps(monkeypatch):
    """Objectives, rows and labelled rows of every training step."""
    found = []
    plain = Trainer.training_step

    def counted(self, model, inputs, *args, **options):
        labels = inputs["labels"].tolist()
        found.append((len(self.objectives), len(labels), sum(label >= 0 for label in labels)))
        return plain(self, model, inputs, *args, **options)

    monkeypatch.setattr(Trainer, "training_step", counted)
    return found


def test_several_sources_and_targets(run, tmp_path, domains, reviews, steps):
    write_reviews(tmp_path / "more" / "train.csv", "book", ["neg", "pos"] * 5)
    write_reviews(tmp_path / "third.csv", "pan", None, rows=6)
    results = run(
        "domain_adaptation",
        *(*domains[:2], "--source_dataset", reviews, tmp_path / "more"),
        *("--target_dataset", domains[-1], tmp_path / "third.csv", *STEPS),
    )
    # 4 rows of each of two sources, then of two targets too
    assert steps == [(0, 8, 8)] * 3 + [(1, 16, 8)] * 3
    assert {"source_0_accuracy", "source_1_accuracy", "source_accuracy", "target_0_accuracy"} <= results.keys()
    assert results["source_accuracy"] == (results["source_0_accuracy"] + results["source_1_accuracy"]) / 2


def test_a_finished_run_is_not_trained_again(run, tmp_path, domains, steps, monkeypatch):
    straight = run("domain_adaptation", *domains, *STEPS, "--seeds", 2)
    assert len(steps) == 12 and straight["dann_target_accuracy_by_seed"]
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    steps.clear()

    again = run("domain_adaptation", *domains, *STEPS, "--seeds", 2)
    assert steps == [] and again == straight

    cut = {**kept, "runs": kept["runs"][:3]}  # as if it had been interrupted in the last run
    (tmp_path / "out" / "results.json").write_text(json.dumps(cut))
    resumed = run("domain_adaptation", *domains, *STEPS, "--seeds", 2)
    assert len(steps) == 3 and resumed.keys() == straight.keys()
    assert resumed["dann_target_loss_by_seed"] == straight["dann_target_loss_by_seed"]

    steps.clear()
    run("domain_adaptation", *domains, *STEPS, "--seeds", 1, "--weight_decay", 0.5)  # other settings
    assert len(steps) == 6
    assert json.loads((tmp_path / "out" / "results.previous.json").read_text()) == kept
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert "| source_only |" in table and "One seed says nothing" in table


def test_a_checkpoint_is_chosen_without_target_labels(run, tmp_path, domains):
    run(
        "domain_adaptation",
        *(*domains, *ALONE, "--metric_for_best_model", "entropy", "--eval_strategy", "steps"),
        *("--save_strategy", "steps", "--eval_steps", 1, "--save_steps", 1, "--save_total_limit", 9),
    )
    folder = tmp_path / "out" / "dann" / "seed_42"
    state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_entropy"] for entry in state["log_history"] if "eval_entropy" in entry}
    assert len(scores) == 3 and state["best_global_step"] == max(scores, key=scores.__getitem__)
    assert identical(folder, folder / f"checkpoint-{state['best_global_step']}")


def test_resuming_concerns_the_adapted_run(run, tmp_path, domains):
    options = (*domains, *ALONE, "--save_strategy", "steps", "--save_steps", 2, "--save_total_limit", 5)
    straight = run("domain_adaptation", *options, out="straight")
    checkpoint = tmp_path / "straight" / "dann" / "seed_42" / "checkpoint-2"
    resumed = run("domain_adaptation", *options, "--resume_from_checkpoint", checkpoint, out="resumed")
    assert resumed["target_loss"] == straight["target_loss"]
    assert identical(tmp_path / "straight", tmp_path / "resumed")


def test_a_composed_loss_and_the_oracle_s_choice(run, tmp_path, domains):
    (tmp_path / "mine.yaml").write_text("dann: {hidden_size: 8}\nl2sp: 1e-2\n")
    results = run(
        "domain_adaptation",
        *domains,
        *STEPS,
        "--loss",
        tmp_path / "mine.yaml",
        "--choose_by",
        "oracle",
        "--methods",
        "dann",
    )
    assert {"mine_target_accuracy", "dann_target_accuracy", "source_only_target_accuracy"} <= results.keys()
    best = max(results[f"{name}_target_accuracy"] for name in ("mine", "dann", "source_only"))
    assert results["target_accuracy"] == best
    chosen: Any = results["choices"]
    assert {choice["by"] for choice in chosen} == {"snd", "oracle"}
    assert all(choice["regret"] >= 0 for choice in chosen)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "dan_n"), "`--methods` names `dan_n`.*Did you mean `dann`"),
        (("--max_samples", 3), "The target .*kitchen has 3 rows, fewer than the 4 .*size 3` or less"),
        (("--methods", "mcc,adabn"), "BatchNorm|batch normalisation|running statistics"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(run, domains, options, message):
    with pytest.raises(ValueError, match=message):
        run("domain_adaptation", *domains, *ALONE, *options)


@pytest.mark.usefixtures("no_training")
def test_an_oracle_without_labels(run, tmp_path, domains):
    unlabelled = kitchen(tmp_path / "unlabelled", None)
    options = (*domains[:4], "--target_dataset", unlabelled, *STEPS)
    with pytest.raises(ValueError, match="`target_oracle` trains on the target's labels, but .* has none"):
        run("domain_adaptation", *options, "--methods", "target_oracle,dann")
    with pytest.raises(ValueError, match="`--choose_by oracle`, but the target has no labels.*Name a validator"):
        run("domain_adaptation", *options, "--methods", "mcc,dann", "--choose_by", "oracle")
