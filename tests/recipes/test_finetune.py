"""recipes/finetune.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from hf_transfer.__main__ import main as command
from hf_transfer.data.loading import load_splits
from tests.recipes.conftest import RECIPES, image_folder, write_reviews


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def moved(folder: Path, start: Path) -> set[str]:
    """Names of the weights that are not those of the pretrained model, the head aside: it is new."""
    before, after = weights(start), weights(folder)
    return {name for name in after if "classifier" not in name and not torch.equal(before[name], after[name])}


def logs(folder: Path) -> list[dict]:
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name[11:]))
    return json.loads(states[-1].read_text())["log_history"]


def test_the_yaml_beside_it_leaves_a_classifier_of_its_digits(run, tmp_path):
    results = run("finetune", "--config", RECIPES / "finetune.yaml", "--num_train_epochs", 1, "--max_eval_samples", 20)
    assert {"train_loss", "eval_accuracy", "eval_macro_f1", "test_accuracy", "test_macro_f1"} <= results.keys()
    assert results["epoch"] == 1
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    names = load_splits(yaml.safe_load((RECIPES / "finetune.yaml").read_text())["dataset_name"]).label_names
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize("freeze", ["none", "backbone", "gradual"])
def test_image_folder_under_every_freezing(run, tmp_path, images, image_model, freeze):
    results = run(
        "finetune",
        *("--model_name_or_path", image_model, "--dataset_name", images, "--augmentation", "light"),
        *("--freeze", freeze, "--stages", 2, "--num_train_epochs", 8, "--learning_rate", 5e-3, "--head_lr", 0.02),
    )
    assert results["eval_accuracy"] == results["test_accuracy"] == 1.0  # dark and bright
    out = tmp_path / "out"
    assert bool(moved(out, image_model)) is (freeze != "backbone")
    assert AutoModelForImageClassification.from_pretrained(out).config.id2label == {0: "cat", 1: "dog"}
    classify = pipeline("image-classification", model=str(out), device="cpu")
    assert classify(str(images / "test" / "dog" / "0.png"))[0]["label"] == "dog"
    assert classify(str(images / "test" / "cat" / "0.png"))[0]["label"] == "cat"


def test_text_in_csv_with_string_labels(run, tmp_path, reviews, text_model):
    results = run(
        "finetune",
        *("--model_name_or_path", text_model, "--dataset_name", reviews, "--num_train_epochs", 6),
        *("--layer_decay", 0.9, "--learning_rate", 0.01, "--l2sp", 0.001, "--logging_steps", 1),
    )
    assert results["test_accuracy"] == results["test_macro_f1"] == 1.0
    out = tmp_path / "out"
    assert AutoModelForSequenceClassification.from_pretrained(out).config.label2id == {"neg": 0, "pos": 1}
    classify = pipeline("text-classification", model=str(out), device="cpu")
    assert [row["label"] for row in classify(["the book is very good", "the book is very bad"])] == ["pos", "neg"]
    training = [entry for entry in logs(out) if "loss" in entry]
    assert training[0]["loss_l2sp"] == 0 < training[-1]["loss_l2sp"]
    last = training[-1]
    assert last["loss"] == pytest.approx(last["loss_task"] + 0.001 * last["loss_l2sp"], rel=1e-4)


def test_layer_decay_holds_back_the_lower_blocks(run, tmp_path, reviews, text_model):
    options = ("--model_name_or_path", text_model, "--dataset_name", reviews, "--max_steps", 1, "--optim", "sgd")
    run("finetune", *options, out="even")
    run("finetune", *options, "--layer_decay", 0.1, out="decayed")
    start, even, decayed = (weights(folder) for folder in (text_model, tmp_path / "even", tmp_path / "decayed"))
    for block, power in ((0, 3), (2, 1)):
        name = f"bert.encoder.layer.{block}.output.dense.bias"  # zero at first, so that the step is all there is
        assert not start[name].any()
        torch.testing.assert_close(decayed[name], even[name] * 0.1**power, rtol=1e-4, atol=0)


def test_tokens_in_json_lines(run, tmp_path, entities, token_model):
    results = run(
        "finetune",
        *("--model_name_or_path", token_model, "--dataset_name", entities),
        *("--num_train_epochs", 6, "--learning_rate", 0.01, "--metric_for_best_model", "f1"),
    )
    assert results["test_f1"] == results["test_precision"] == results["test_recall"] == 1.0
    out = tmp_path / "out"
    model = AutoModelForTokenClassification.from_pretrained(out)
    assert set(model.config.label2id) == {"B-LOC", "B-PER", "O"}
    find = pipeline("token-classification", model=str(out), device="cpu")
    assert [(row["word"], row["entity"]) for row in find("anna is very fine") if row["entity"] != "O"] == [
        ("anna", "B-PER")
    ]


def test_pairs_of_texts_with_real_labels(run, tmp_path, text_model):
    file = tmp_path / "pairs.csv"
    lines = [f"the book,is {('good', 'bad')[i % 2]},{i % 2}.5" for i in range(12)]
    file.write_text("\n".join(["sentence1,sentence2,label", *lines]) + "\n")
    results = run(
        "finetune",
        *("--model_name_or_path", text_model, "--dataset_name", file, "--validation_fraction", 0.25),
        *("--num_train_epochs", 1),
    )
    assert {"eval_mse", "eval_pearson"} <= results.keys() and not [key for key in results if key.startswith("test")]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"


def test_schedule_written_by_the_command(run, tmp_path, images, image_model, capsys):
    file = tmp_path / "schedule.yaml"
    command(["schedule", str(image_model), "--stages", "3", "--out", str(file)])
    text = file.read_text()
    assert "embeddings" in text.split("train:")[-1]
    file.write_text(text.replace(", embeddings]", "]"))  # an edit: the embeddings never thaw
    run(
        "finetune",
        *("--model_name_or_path", image_model, "--dataset_name", images, "--schedule", file),
        *("--num_train_epochs", 3, "--learning_rate", 0.01),
    )
    changed = moved(tmp_path / "out", image_model)
    assert any("layer.0." in name or "layers.0." in name for name in changed)
    assert not [name for name in changed if "embeddings" in name]


def test_the_best_epoch_is_what_is_left(run, tmp_path, images, image_model):
    """A ViT's weights have other names on disk than in memory: the stock Trainer would bring back the head alone."""
    results = run(
        "finetune",
        *("--model_name_or_path", image_model, "--dataset_name", images, "--learning_rate", 0.01),
        *("--num_train_epochs", 3, "--metric_for_best_model", "loss", "--greater_is_better", "true"),  # the first
        *("--save_total_limit", 5),
    )
    losses = [entry["eval_loss"] for entry in logs(tmp_path / "out") if "eval_loss" in entry]
    assert losses[0] == max(losses) > losses[-1]
    assert results["eval_loss"] == pytest.approx(losses[0], rel=1e-6)


def test_early_stopping_keeps_the_best_epoch(run, tmp_path, images, image_model):
    results = run(
        "finetune",
        *("--model_name_or_path", image_model, "--dataset_name", images),
        *("--learning_rate", 0, "--head_lr", 0),
        *("--early_stopping_patience", 2, "--num_train_epochs", 9),
    )
    assert results["epoch"] == 3  # the first is the best, and two follow that are not better
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) <= 2


def test_without_a_validation_split_it_trains_to_the_end(run, tmp_path, image_model):
    folder = image_folder(tmp_path / "data", ("train", "test"))
    options = ("--model_name_or_path", image_model, "--dataset_name", folder, "--num_train_epochs", 1)
    results = run("finetune", *options)
    assert "test_accuracy" in results and not [key for key in results if key.startswith("eval")]
    held_out = run("finetune", *options, "--validation_fraction", 0.2, out="held_out")
    assert {"eval_accuracy", "test_accuracy"} <= held_out.keys()


# In the middle of an epoch a batch is fetched, and its random numbers drawn, before the checkpoint is written.
@pytest.mark.parametrize(("freeze", "augmentation", "step"), [("gradual", "none", 2), ("none", "light", 3)])
def test_resumed_is_the_straight_run_bit_for_bit(run, tmp_path, images, image_model, freeze, augmentation, step):
    options = (
        *("--model_name_or_path", image_model, "--dataset_name", images, "--freeze", freeze, "--stages", 2),
        *("--max_steps", 5, "--save_strategy", "steps", "--save_steps", step, "--save_total_limit", 5),
        *("--augmentation", augmentation, "--l2sp", 0.1, "--eval_strategy", "no"),
    )
    straight = run("finetune", *options, out="straight")
    checkpoint = tmp_path / "straight" / f"checkpoint-{step}"
    resumed = run("finetune", *options, "--resume_from_checkpoint", checkpoint, out="resumed")
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert resumed["test_loss"] == straight["test_loss"]
    assert not torch.equal(weights(checkpoint)["classifier.bias"], first["classifier.bias"])


def test_a_model_from_scratch_takes_the_tokenizer_it_is_given(run, tmp_path, text_model):
    file = tmp_path / "reviews.csv"
    write_reviews(file, "pan", ["1", "5"] * 4)
    overrides = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    run(
        "finetune",
        *("--model_type", "bert", "--config_overrides", json.dumps(overrides), "--tokenizer_name", text_model),
        *("--dataset_name", file, "--max_steps", 1),
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == 15 and model.config.hidden_size == 8
    assert model.config.id2label == {0: "1", 1: "5"}
