"""recipes/feature_extraction.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load, load_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    pipeline,
)

from hf_transfer.data.loading import load_splits
from hf_transfer.features import load_probe
from tests.hub_server import HubServer
from tests.models import tiny_gpt2
from tests.recipes.conftest import RECIPES, image_folder, saved_text_model


def cached_shards() -> list[Path]:
    return sorted(Path(constants.HF_HOME).glob("hf_transfer/features/*/*.arrow"))


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch):
    """Call it, and from then on no model runs."""

    def forbid() -> None:
        def call(self, *args, **kwargs):
            pytest.fail("the model ran although its features are cached")

        monkeypatch.setattr(PreTrainedModel, "__call__", call)

    return forbid


def test_the_yaml_beside_it_probes_its_digits(run, tmp_path):
    results = run("feature_extraction", "--config", RECIPES / "feature_extraction.yaml", "--max_eval_samples", 60)
    settings = yaml.safe_load((RECIPES / "feature_extraction.yaml").read_text())
    assert results["probe"] in {"logistic", "ridge", "nearest_class_mean"}
    assert set(results["probes"]) == set(settings["probes"])
    best = max(results["probes"][kind]["eval_accuracy"] for kind in ("logistic", "ridge", "nearest_class_mean"))
    assert results["eval_accuracy"] == best > 0.3  # ten classes
    out = tmp_path / "out"
    model = AutoModelForImageClassification.from_pretrained(out)
    assert model.config.id2label == dict(enumerate(load_splits(settings["dataset_name"]).label_names))
    assert "| block" in (out / "layers.md").read_text() and (out / "layers.png").read_bytes()[:4] == b"\x89PNG"


def test_image_folder_becomes_an_ordinary_classifier(run, tmp_path, images, image_model):
    results = run(
        "feature_extraction",
        *("--model_name_or_path", image_model, "--dataset_name", images, "--probes", "logistic", "mlp"),
    )
    assert results["probe"] == "logistic" and results["test_accuracy"] == results["eval_accuracy"] == 1.0
    assert results["probes"]["mlp"]["test_accuracy"] >= 0.5
    classify = pipeline("image-classification", model=str(tmp_path / "out"), device="cpu")
    assert classify(str(images / "test" / "dog" / "0.png"))[0]["label"] == "dog"
    assert classify(str(images / "test" / "cat" / "0.png"))[0]["label"] == "cat"
    before, after = load_file(image_model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in after if "classifier" not in name and not torch.equal(before[name], after[name])]


def test_a_second_run_does_not_run_the_model(run, tmp_path, reviews, text_model, no_forward):
    options = ("--model_name_or_path", text_model, "--dataset_name", reviews)
    first = run("feature_extraction", *options)
    shards = cached_shards()
    no_forward()
    second = run("feature_extraction", *options, "--probes", "ridge", "logistic", out="second")
    assert cached_shards() == shards
    assert second["probes"]["logistic"]["test_accuracy"] == first["test_accuracy"] == 1.0


def test_logits_of_the_saved_model_are_those_of_the_saved_probe(run, tmp_path, reviews, text_model):
    run("feature_extraction", "--model_name_or_path", text_model, "--dataset_name", reviews)
    out = tmp_path / "out"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    seen: list[torch.Tensor] = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model(**tokenizer(["the book is very good", "the book"], padding=True, return_tensors="pt")).logits
    expected = torch.as_tensor(load_probe(out / "probes" / "logistic").logits(seen[0].numpy()))
    torch.testing.assert_close(logits.double(), expected.double(), rtol=1e-4, atol=1e-4)


def test_tokens(run, tmp_path, entities, token_model):
    results = run("feature_extraction", "--model_name_or_path", token_model, "--dataset_name", entities)
    assert results["test_accuracy"] == 1.0
    find = pipeline("token-classification", model=str(tmp_path / "out"), device="cpu")
    assert [(row["word"], row["entity"]) for row in find("anna is very fine") if row["entity"] != "O"] == [
        ("anna", "B-PER")
    ]
    assert set(AutoModelForTokenClassification.from_pretrained(tmp_path / "out").config.label2id) == {
        "B-LOC",
        "B-PER",
        "O",
    }


def test_real_labels(run, tmp_path, text_model):
    file = tmp_path / "pairs.csv"
    lines = [f"the book,is {('good', 'bad')[i % 2]},{i % 2}.5" for i in range(12)]
    file.write_text("\n".join(["sentence1,sentence2,label", *lines]) + "\n")
    results = run(
        "feature_extraction",
        *("--model_name_or_path", text_model, "--dataset_name", file, "--validation_fraction", 0.25),
    )
    assert results["eval_mse"] < 0.05 and results["probe"] == "ridge"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """A GPT-2, whose head has no bias, with a tokenizer."""
    return saved_text_model(tmp_path_factory.mktemp("decoder"), lambda **_: tiny_gpt2(bos_token_id=2, eos_token_id=3))


def test_a_head_without_bias(run, tmp_path, reviews, decoder):
    options = ("--model_name_or_path", decoder, "--dataset_name", reviews)
    results = run("feature_extraction", *options, "--probes", "nearest_class_mean", "ridge", "logistic")
    assert results["probe"] in {"ridge", "logistic"} and "nearest_class_mean" in results["probes"]
    classify = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    correct = [row["label"] for row in classify(["the book is very good", "the book is very bad"])] == ["pos", "neg"]
    assert correct is (results["test_accuracy"] == 1.0)


def test_class_means_alone_are_no_head_without_bias(run, reviews, decoder, no_forward):
    no_forward()
    with pytest.raises(ValueError, match="whose head has no bias.*Add logistic or ridge"):
        run(
            "feature_extraction",
            *("--model_name_or_path", decoder, "--dataset_name", reviews, "--probes", "nearest_class_mean"),
        )


def test_classifiers_are_not_for_real_labels(run, tmp_path, text_model, no_forward):
    no_forward()
    file = tmp_path / "rated.csv"
    file.write_text("text,label\n" + "".join(f"the book {i},{i}.5\n" for i in range(8)))
    with pytest.raises(ValueError, match="logistic.*real-valued labels.*Choose ridge"):
        run(
            "feature_extraction",
            *("--model_name_or_path", text_model, "--dataset_name", file, "--probes", "logistic", "ridge"),
        )


def test_without_a_validation_split_several_probes_hold_rows_out(run, tmp_path, image_model):
    folder = image_folder(tmp_path / "data", ("train", "test"))
    options = ("--model_name_or_path", image_model, "--dataset_name", folder)
    alone = run("feature_extraction", *options)
    assert not [key for key in alone if key.startswith("eval_")] and alone["train_samples"] == 12
    several = run("feature_extraction", *options, "--probes", "ridge", "logistic", out="several")
    assert "eval_accuracy" in several
    assert several["train_samples"] == 12  # the chosen one is fitted again on all of them


def test_augmented_views_are_rows_to_learn_from(run, tmp_path, images, image_model):
    options = ("--model_name_or_path", image_model, "--dataset_name", images, "--augmentation", "light", "--views", 3)
    assert run("feature_extraction", *options)["train_samples"] == 36


def test_seeds_draw_rows_of_their_own(run, tmp_path, images, image_model):
    options = ("--model_name_or_path", image_model, "--dataset_name", images, "--samples_per_class", 2)
    results = run("feature_extraction", *options, "--seeds", 3)
    assert results["seeds"] == [42, 43, 44] and len(results["test_accuracy_by_seed"]) == 3
    assert (tmp_path / "out" / "seed_43" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--probes", "knn"), "none of these is linear"),
        (("--seeds", 0), "fits nothing"),
        (("--seeds", 2, "--push_to_hub", "--hub_model_id", "me/probe"), "a model for each seed"),
        (("--views", 2), "--augmentation none"),
        (("--augmentation", "light"), "--views 1"),
        (("--views", 0), "no row to learn from"),
    ],
)
def test_refused_before_the_model_runs(run, images, image_model, no_forward, options, message):
    no_forward()
    with pytest.raises(ValueError, match=message):
        run("feature_extraction", "--model_name_or_path", image_model, "--dataset_name", images, *options)


def test_layers_want_rows_to_judge_by(run, tmp_path, image_model):
    folder = image_folder(tmp_path / "data", ("train",))
    with pytest.raises(ValueError, match="ranked by the rows they were fitted on"):
        run("feature_extraction", "--model_name_or_path", image_model, "--dataset_name", folder, "--layers")


def test_results_are_strict_json(run, tmp_path, images, image_model):
    run("feature_extraction", "--model_name_or_path", image_model, "--dataset_name", images)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    json.loads((tmp_path / "out" / "all_results.json").read_text(), parse_constant=refuse)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as in tests/test_push_to_hub.py
def test_pushed_it_is_a_model_on_the_hub(run, reviews, text_model, tmp_path):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        run(
            "feature_extraction",
            *("--model_name_or_path", text_model, "--dataset_name", reviews, "--push_to_hub"),
            *("--hub_model_id", "user/probed", "--hub_token", hub.token, "--hub_private_repo", "true"),
        )
        files = hub.files("user/probed")
        assert load(files["model.safetensors"])["classifier.weight"].equal(
            load_file(tmp_path / "out" / "model.safetensors")["classifier.weight"]
        )
        assert {"config.json", "tokenizer.json", "README.md"} <= set(files)
        assert hub.repository("user/probed").private
        assert not [name for name, content in files.items() if hub.token.encode() in content]
