"""recipes/adapters.py, and `--adapter` of the other recipes, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hf_transfer.adapters.loading import load_adapter
from tests.hub_server import HubServer
from tests.recipes.conftest import write_reviews
from tests.recipes.test_finetune import logs
from tests.recipes.test_recipes import TORCHRUN, start


def adapt(model: Path, data: Path, *words: object) -> tuple:
    common = ("--model_name_or_path", model, "--dataset_name", data, "--num_train_epochs", 2, "--rank", 2)
    return "adapters", *common, *words


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# --- what a run leaves


def test_a_run_leaves_an_adapter_that_is_verified_and_merged(run, tmp_path, reviews, text_model, capsys):
    results = run(*adapt(text_model, reviews, "--merge", "--learning_rate", 0.01))
    out = tmp_path / "out"
    assert not (out / "config.json").exists() and not (out / "model.safetensors").exists()
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in out.iterdir()}
    assert results["reload_difference"] == 0 and results["merge_difference"] < 1e-4
    assert results["merged_test_accuracy"] == results["test_accuracy"]
    assert results["merged_test_loss"] == pytest.approx(results["test_loss"], rel=1e-4)
    assert results["train_runtime"] > 0
    assert results["adapter_bytes"] == (out / "adapter_model.safetensors").stat().st_size < results["model_bytes"]
    model: Any = AutoModelForSequenceClassification.from_pretrained(out / "merged")
    assert results["model_parameters"] == sum(p.numel() for p in model.parameters())
    assert results["trainable_parameters"] == sum(tensor.numel() for tensor in adapter(out).values())
    loaded = load_adapter(out)
    batch = loaded.processor("the book is very good", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**batch).logits, model.eval()(**batch).logits, rtol=1e-4, atol=1e-5)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(out / "merged"))
    assert classify("the book is very good")[0]["label"] in ("pos", "neg")  # pyright: ignore
    told = capsys.readouterr().err
    assert "What trains:" in told and "lora" in told.lower()
    assert f"loaded back from {out} gives the same logits on 4 rows (largest difference 0)" in told
    assert "gives the same logits on 4 rows" in told.split("The merged model in")[1]
    assert "parameters trained beside a model of" in told and "on disk" in told


def test_images_with_running_statistics(run, tmp_path, images, convolutional_model):
    results = run(*adapt(convolutional_model, images, "--merge", "--adapter", "dora"))
    assert results["reload_difference"] == 0 and results["merge_difference"] < 1e-4
    assert any("running_mean" in name for name in adapter(tmp_path / "out"))


@pytest.mark.parametrize("method", ["ia3", "adalora"])
def test_other_methods(run, tmp_path, reviews, text_model, method):
    own = [word for word in adapt(text_model, reviews) if method == "adalora" or word not in ("--rank", 2)]
    results = run(*own, *(() if method == "adalora" else (2,)), "--adapter", method, "--learning_rate", 0.01)
    assert results["reload_difference"] == 0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"].lower() == method


def test_tokens(run, entities, token_model):
    results = run(*adapt(token_model, entities, "--merge"))
    assert results["reload_difference"] == 0 and "merged_test_f1" in results


def test_real_valued_labels(run, tmp_path, text_model):
    rows = "".join(f"the book is {('good', 'bad')[i % 2]},{i % 2}.5\n" for i in range(12))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
    results = run(*adapt(text_model, tmp_path / "a.csv", "--validation_fraction", 0.25, "--merge"))
    assert results["reload_difference"] == 0 and "merged_eval_mse" in results
    assert load_adapter(tmp_path / "out").model.config.num_labels == 1


# --- methods


TEXT: dict[str, tuple[Any, ...]] = {
    "near_the_start": ("--l2sp", 0.01, "--delta", 0.1, "--bss", 0.001, "--probe_first", "--wise_ft", "--ema", 0.9),
    "a_source_with_its_head": ("--lwf", 1, "--co_tuning", 2, "--label_smoothing", 0.1, "--mixout", 0.5),
    "blocks_drawn_anew": ("--bi_tuning", 1, "--r_drop", 0.5, "--reinitialize_blocks", 1, "--train_blocks", 1),
    "from_the_head_down": ("--freeze", "gradual", "--stages", 3, "--focal_gamma", 2, "--lora_plus_ratio", 8),
}


@pytest.mark.parametrize("case", TEXT)
def test_methods_on_text(run, tmp_path, reviews, text_model, case):
    results = run(*adapt(text_model, reviews, *TEXT[case], "--logging_steps", 1))
    assert results["reload_difference"] == 0
    losses = [entry["loss"] for entry in logs(tmp_path / "out") if "loss" in entry]
    assert losses and all(torch.isfinite(torch.tensor(losses)))


def test_methods_on_images(run, images, convolutional_model):
    words = ("--mixup", 0.2, "--freeze_batch_norm", "--augmentation", "light", "--ema", 0.9)
    assert run(*adapt(convolutional_model, images, *words))["reload_difference"] == 0


def test_adapters_first_and_the_top_block_later(run, tmp_path, reviews, text_model):
    schedule = tmp_path / "schedule.yaml"
    schedule.write_text("- {train: [head, '*lora_*']}\n- {epoch: 1, train: all}\n")
    words = ("--train_blocks", 1, "--schedule", schedule, "--save_total_limit", 5, "--load_best_model_at_end", "false")
    run(*adapt(text_model, reviews, *words))
    out = tmp_path / "out"
    first, last = (adapter(folder) for folder in sorted(out.glob("checkpoint-*"), key=lambda p: int(p.name[11:])))
    start = AutoModelForSequenceClassification.from_pretrained(text_model).state_dict()
    block = {name: name.removeprefix("base_model.model.") for name in first if ".layer.2." in name}
    assert block and all(torch.equal(first[name], start[bare]) for name, bare in block.items())
    assert any(not torch.equal(last[name], first[name]) for name in block)
    assert any(bool(first[name].any()) for name in first if "lora_B" in name)


# --- going on


def test_training_on_with_an_adapter(run, tmp_path, reviews, text_model):
    run(*adapt(text_model, reviews, "--learning_rate", 0.01))
    before = adapter(tmp_path / "out")
    words = ("--adapter_name_or_path", tmp_path / "out", "--dataset_name", reviews, "--num_train_epochs", 1)
    assert run("adapters", *words, out="more")["reload_difference"] == 0
    after = adapter(tmp_path / "more")
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    write_reviews(tmp_path / "a.csv", "book", ["good", "bad"] * 4)
    with pytest.raises(ValueError, match="tells `neg`, `pos` apart, the data `bad`, `good`.*`--merge`"):
        run("adapters", *words[:2], "--dataset_name", tmp_path / "a.csv", out="other")


def test_a_resumed_run_is_a_straight_one(run, tmp_path, reviews, text_model):
    words = ("--save_total_limit", 5, "--load_best_model_at_end", "false")
    run(*adapt(text_model, reviews, *words), out="straight")
    halfway = min((tmp_path / "straight").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    run(*adapt(text_model, reviews, *words, "--resume_from_checkpoint", halfway), out="resumed")
    straight, resumed = adapter(tmp_path / "straight"), adapter(tmp_path / "resumed")
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_seeds(run, tmp_path, reviews, text_model):
    results: Any = run(*adapt(text_model, reviews, "--seeds", 2, "--samples_per_class", 4))
    assert results["seeds"] == [42, 43] and len(results["test_accuracy_by_seed"]) == 2
    assert {"test_accuracy_std", "test_accuracy_interval"} <= results.keys()
    own = [adapter(tmp_path / "out" / f"seed_{seed}") for seed in (42, 43)]
    assert any(not torch.equal(own[0][name], own[1][name]) for name in own[0])


def test_a_folder_that_holds_a_whole_model(run, tmp_path, reviews, text_model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a whole model.*Name another"):
        run(*adapt(text_model, reviews))


# --- the Hub


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_adapter_is_pushed_and_loaded_back(run, tmp_path, reviews, text_model, capsys):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        words = ("--push_to_hub", "--hub_token", hub.token, "--hub_model_id", "user/lora", "--merge", "--push_merged")
        run(*adapt(text_model, reviews, *words))
        pushed, merged = hub.files("user/lora"), hub.files("user/lora-merged")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= pushed.keys()
    assert "model.safetensors" not in pushed and {"config.json", "model.safetensors"} <= merged.keys()
    told = capsys.readouterr().err
    assert "The adapter loaded back from user/lora gives the same logits on 4 rows" in told
    assert hub.token not in told


# --- the other recipes


def test_domain_adaptation(run, tmp_path, reviews, text_model):
    target = tmp_path / "target"
    write_reviews(target / "train.csv", "pan", ["pos", "neg"] * 6)
    write_reviews(target / "test.csv", "pan", ["pos", "neg"] * 2)
    results = run(
        *("domain_adaptation", "--model_name_or_path", text_model, "--source_dataset", reviews),
        *("--target_dataset", target, "--num_train_epochs", 1, "--methods", "dann", "--adapter", "lora", "--rank", 2),
    )
    assert {"source_only_target_accuracy", "target_accuracy"} <= results.keys()
    out = tmp_path / "out"
    names = {path.parent.name for path in out.rglob("adapter_model.safetensors")}
    assert {"seed_42", "out"} <= names and not list(out.rglob("model.safetensors"))
    assert load_adapter(out).model.config.id2label == {0: "neg", 1: "pos"}


def test_distillation(run, tmp_path, reviews, text_model):
    words = ("--teacher_name_or_path", text_model, "--dataset_name", reviews, "--num_train_epochs", 1)
    student = ("--student_name_or_path", text_model, "--adapter", "lora", "--rank", 2)
    results: Any = run("distillation", *words, *student)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert results["kept"]["method"] in ("kd", "alone")
    with pytest.raises(ValueError, match="`--adapter lora` with `--student_blocks`.*lost. Pass a pretrained student"):
        run("distillation", *words, "--student_blocks", 1, "--adapter", "lora", out="other")


@pytest.mark.slow
def test_two_ranks_are_one(run, tmp_path, home, reviews, text_model):
    words = adapt(text_model, reviews, "--optim", "sgd", "--merge")[1:]
    one = run("adapters", *words, out="one")  # batches of four
    script = Path(__file__).parents[2] / "recipes" / "adapters.py"
    start(
        TORCHRUN,
        *(home, script, *words, "--output_dir", tmp_path / "two", "--use_cpu", "--ddp_backend", "gloo"),
        *("--per_device_train_batch_size", 2),
    )
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4) and two["reload_difference"] == 0
