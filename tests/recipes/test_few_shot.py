"""recipes/few_shot.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, Trainer, pipeline

from hf_transfer.few_shot.episodes import Episodes
from hf_transfer.few_shot.sentence_classifier import is_sentence_classifier
from tests.recipes.conftest import RECIPES


CLASSES = ("good", "bad", "fine", "poor", "book", "pan")
EPISODES = ("--n_way", 2, "--queries", 2, "--episodes", 12, "--train_queries", 2, "--episodes_per_step", 2)
TRAINING = ("--base_classes", 3, "--max_steps", 2, "--learning_rate", 0.01)


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CSV files: texts of six classes, each named by a word that tells it."""
    folder = tmp_path_factory.mktemp("topics")
    for split, rows in (("train", 6), ("test", 3)):
        lines = [f"the {name} is very {name}{' the' * number},{name}" for number in range(rows) for name in CLASSES]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return folder


@pytest.fixture
def options(topics, text_model):
    return "--dataset_name", topics, "--model_name_or_path", text_model


@pytest.fixture
def trained(monkeypatch):
    """Folder and labels of every training step, of ordinary and of meta-training."""
    found: list[tuple[str, list[int]]] = []
    plain = Trainer.get_batch_samples

    def seen(self, iterator, *args, **kwargs):
        batches, *rest = plain(self, iterator, *args, **kwargs)
        name = "/".join(Path(self.args.output_dir).parts[-2:])
        found.extend((name, batch["labels"].tolist()) for batch in batches)
        return (batches, *rest)

    monkeypatch.setattr(Trainer, "get_batch_samples", seen)
    return found


def test_the_yaml_beside_it_compares_and_keeps_a_model(run, tmp_path):
    results: Any = run(
        "few_shot",
        *("--config", RECIPES / "few_shot.yaml", "--max_steps", 1, "--max_samples", 120, "--max_eval_samples", 60),
        *("--episodes", 10, "--queries", 3, "--k_shot", 1, "--train_queries", 2, "--episodes_per_step", 1),
    )
    methods = ("nearest_mean", "tim", "protonet", "anil", "anil+nearest_mean")
    assert {f"{name}_1_shot_accuracy" for name in methods} <= results.keys()
    kept = results["kept"]["method"]
    assert results["novel_1_shot_accuracy"] == results[f"{kept}_1_shot_accuracy"]
    assert kept not in ("tim", "bd_cspn", "laplacian_shot", "anil")  # which are no linear head
    classify: Any = pipeline("image-classification", model=str(tmp_path / "out"), device="cpu")
    assert set(classify.model.config.label2id) == set("56789")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| tim (transductive) |" in text and "5 novel classes" in text and f"Kept: {kept}" in text
    card = (tmp_path / "out" / "README.md").read_text()
    assert "5-way 1-shot episodes" in card and "novel classes" in card
    for name in ("protonet", "anil"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "out" / name / "seed_42")


def test_the_accuracies_are_those_of_the_episodes(run, tmp_path, options):
    results = run("few_shot", *options, *EPISODES, "--methods", "prototypes", "--seed", 5)
    assert results["kept"]["method"] in ("nearest_mean", "prototypes")
    # a second account of it all, from the kept backbone, whose weights are the pretrained ones
    model: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    classify: Any = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    rows = [
        f"the {name} is very {name}{' the' * number}"
        for count in (6, 3)
        for number in range(count)
        for name in CLASSES
    ]
    labels = [sorted(CLASSES).index(name) for count in (6, 3) for _ in range(count) for name in CLASSES]
    seen: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for text in rows:
            model(**classify.tokenizer(text, return_tensors="pt"))
    hook.remove()
    features = torch.cat(seen).numpy()
    drawn = Episodes(labels, n_way=2, k_shot=1, queries=2, seed=5).draw(range(12))
    right = []
    for support, query in zip(drawn.support, drawn.query, strict=True):
        distances = ((features[query][:, None] - features[support][None]) ** 2).sum(-1)
        right.append((distances.argmin(1) == np.array([0, 0, 1, 1])).mean())
    assert results["prototypes_1_shot_accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


def test_nothing_is_trained_on_a_novel_class(run, tmp_path, options, trained, topics):
    run("few_shot", *options, *EPISODES, *TRAINING, "--methods", "protonet,reptile,mtl")
    assert {name for name, _ in trained} == {f"{name}/seed_42" for name in ("protonet", "reptile", "mtl")}
    assert all(len(labels) == 2 * 2 * 3 and max(labels) < 3 for _, labels in trained)
    out = tmp_path / "out"
    kept: Any = AutoModelForSequenceClassification.from_pretrained(out)
    base: Any = AutoModelForSequenceClassification.from_pretrained(out / "protonet" / "seed_42")
    assert set(kept.config.label2id) | set(base.config.label2id) == set(CLASSES)
    assert len(kept.config.label2id) == 3 and not set(kept.config.label2id) & set(base.config.label2id)


def test_finished_runs_are_not_trained_again(run, tmp_path, options, trained):
    words = (*options, *EPISODES, *TRAINING)
    first: Any = run("few_shot", *words, "--methods", "protonet", "--seeds", 2)
    assert [name for name, _ in trained] == [f"protonet/seed_{seed}" for seed in (42, 42, 43, 43)]
    assert len(first["protonet_1_shot_accuracy_by_seed"]) == 2
    again = run("few_shot", *words, "--methods", "protonet,anil", "--seeds", 2)
    assert [name for name, _ in trained[4:]] == [f"anil/seed_{seed}" for seed in (42, 42, 43, 43)]
    same = [key for key in first if key.startswith("protonet_1_shot")]
    assert same and all(again[key] == first[key] for key in same)
    trained.clear()
    run("few_shot", *words, "--methods", "protonet", "--train_queries", 1)
    assert len(trained) == 2 and (tmp_path / "out" / "results.previous.json").is_file()


def test_an_adapter_is_trained_and_the_kept_model_is_whole(run, tmp_path, options, monkeypatch):
    monkeypatch.setattr("hf_transfer.few_shot.closing.best_outcome", lambda comparison: comparison.outcomes[-1])
    words = (*options, *EPISODES, *TRAINING, "--methods", "protonet", "--adapter", "lora", "--rank", 2)
    run("few_shot", *words)
    out = tmp_path / "out"
    assert (out / "protonet" / "seed_42" / "adapter_config.json").is_file()
    assert not (out / "adapter_config.json").is_file()
    kept: Any = AutoModelForSequenceClassification.from_pretrained(out)
    assert kept.config.num_labels == 3 and not any("lora" in name for name in kept.state_dict())
    assert "episodes" in (out / "README.md").read_text()


def test_all_classes_from_few_labels(run, tmp_path, options, trained):
    results: Any = run(
        "few_shot",
        *(*options, "--mode", "classes", "--samples_per_class", 2, "--max_steps", 2),
        *("--methods", "probe,fine_tuning,contrastive,class_names,class_names_fine_tuning"),
    )
    methods = ("nearest_mean", "probe", "fine_tuning", "contrastive", "class_names", "class_names_fine_tuning")
    out = tmp_path / "out"
    for name in methods:
        model: Any = AutoModelForSequenceClassification.from_pretrained(out / name / "seed_42")
        assert set(model.config.label2id) == set(CLASSES)
    folders = {name.split("/")[0] for name, _ in trained}
    assert folders == {"fine_tuning", "contrastive", "class_names_fine_tuning"}
    # frozen is frozen
    start, probed = (
        load_file(folder / "model.safetensors") for folder in (Path(options[3]), out / "probe" / "seed_42")
    )
    assert all(torch.equal(start[name], probed[name]) for name in start if not name.startswith("classifier"))
    assert "classifier.weight" in probed and results["test_accuracy"] == max(
        results[f"{name}_test_accuracy"] for name in methods
    )
    text = (out / "comparison.md").read_text()
    assert "6 classes with 2 labelled rows each" in text and "| class_names |" in text
    assert results["kept"]["method"] in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--n_way", 9), "6 classes.*`n_way=9`.*not enough to draw from"),
        (("--queries", 30, "--n_way", 2), r"these have fewer.*`\w+` \(9 rows\)"),
        (("--base_classes", 5, "--methods", "protonet"), "`--base_classes 5` of 6 classes.*from 2 to 4"),
        ((*EPISODES, *TRAINING, "--methods", "protonet", "--train_k_shot", 9), "have fewer.*6 rows"),
        (
            (*EPISODES, *TRAINING, "--methods", "protonet", "--gradient_accumulation_steps", 3),
            "torn apart.*multiple of 3",
        ),
        ((*EPISODES, "--pooling", "none"), '`pooling="none"` is none that makes one row.*Choose from mean, cls, last'),
        (("--pooling", "mean", "--adapter", "lora"), "`--adapter` with `--pooling mean`.*Train without the adapter"),
        (
            (*EPISODES, *TRAINING, "--pooling", "mean", "--methods", "anil", "--meta_parameters", "lora"),
            "`--meta_parameters` with `--pooling mean`",
        ),
        (("--views", 2), "`--views 2`.*count as several"),
        (("--mode", "classes", "--samples_per_class", 7), "samples_per_class=7.*6 rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(run, options, no_training, words, match):
    with pytest.raises(ValueError, match=match):
        run("few_shot", *options, *words)


def test_every_seed_draws_other_rows(run, tmp_path, options):
    words = (*options, "--mode", "classes", "--samples_per_class", 1, "--methods", "probe", "--seeds", 2)
    results: Any = run("few_shot", *words)
    assert len(results["probe_test_accuracy_by_seed"]) == 2
    heads = [load_file(tmp_path / "out" / f"nearest_mean/seed_{seed}" / "model.safetensors") for seed in (42, 43)]
    assert not torch.equal(*(own["classifier.weight"] for own in heads))
    before = (tmp_path / "out" / "probe" / "seed_43" / "model.safetensors").stat().st_mtime_ns
    assert run("few_shot", *words) == results
    assert (tmp_path / "out" / "probe" / "seed_43" / "model.safetensors").stat().st_mtime_ns == before


def test_class_names_of_images_need_a_text_tower(run, images, image_model, no_training):
    words = ("--dataset_name", images, "--model_name_or_path", image_model, "--mode", "classes")
    with pytest.raises(ValueError, match="cannot be given class names"):
        run("few_shot", *words, "--samples_per_class", 2, "--methods", "class_names")


def test_without_a_head_s_features_no_model_is_kept(run, tmp_path, images, image_model):
    words = ("--dataset_name", images, "--model_name_or_path", image_model, "--pooling", "mean")
    results = run("few_shot", *words, *EPISODES, "--methods", "nearest_mean")
    assert "kept" not in results and not (tmp_path / "out" / "config.json").exists()
    assert "No model is kept" in (tmp_path / "out" / "comparison.md").read_text()
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["nearest_mean_1_shot_accuracy"] > 0


def test_models_of_texts_pool_as_they_are_told_before_and_after_training(run, tmp_path, options):
    words = (*options, *EPISODES, *TRAINING, "--pooling", "mean", "--methods", "protonet,anil")
    run("few_shot", *words)
    out = tmp_path / "out"
    for folder in (out, out / "protonet" / "seed_42", out / "anil" / "seed_42"):
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder)
        assert is_sentence_classifier(model) and model.config.pooling == "mean"
        assert (folder / "sentence_encoder.py").is_file()
    assert "`trust_remote_code=True`" in (out / "comparison.md").read_text()
    assert "`trust_remote_code=True`" in (out / "README.md").read_text()


def test_few_labels_of_pooled_tokens(run, tmp_path, options):
    words = (*options, "--mode", "classes", "--samples_per_class", 2, "--max_steps", 1, "--pooling", "mean")
    results: Any = run("few_shot", *words, "--methods", "probe,fine_tuning,contrastive,class_names")
    out = tmp_path / "out"
    kept: Any = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert is_sentence_classifier(kept) and set(kept.config.label2id) == set(CLASSES)
    # the probe is a head on the mean of the tokens of the pretrained model
    start: Any = AutoModelForSequenceClassification.from_pretrained(options[3]).eval()
    probed: Any = AutoModelForSequenceClassification.from_pretrained(out / "probe" / "seed_42").eval()
    ids = torch.tensor([[2, 10, 4, 12, 11, 4, 3]])
    features = start.bert(ids).last_hidden_state.mean(1)
    torch.testing.assert_close(probed(ids).logits, probed.classifier(features), rtol=1e-4, atol=1e-6)
    assert results["test_accuracy"] == results[f"{results['kept']['method']}_test_accuracy"]
    assert "`trust_remote_code=True`" in (out / "comparison.md").read_text()
    first = (out / "probe" / "seed_42" / "model.safetensors").stat().st_mtime_ns
    run("few_shot", *words[:-1], "cls", "--methods", "probe")  # another model: nothing is taken from before
    assert (out / "probe" / "seed_42" / "model.safetensors").stat().st_mtime_ns != first
