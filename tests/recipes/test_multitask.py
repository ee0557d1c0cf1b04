"""recipes/multitask.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json

import pytest
from transformers import pipeline

from tests.recipes.conftest import RECIPES, write_reviews


STEPS = ("--num_train_epochs", 2, "--learning_rate", 0.01)


@pytest.fixture
def pans(tmp_path):
    """Reviews of pans by stars."""
    folder = tmp_path / "pans"
    for split, rows in (("train", 12), ("validation", 4), ("test", 4)):
        write_reviews(folder / f"{split}.csv", "pan", ["2.5", "0.5"] * (rows // 2))
    return folder


@pytest.fixture
def both_labels(tmp_path):
    """Reviews that say what is reviewed and how, with no validation split."""
    folder = tmp_path / "both"
    folder.mkdir()
    for split, rows in (("train", 20), ("test", 8)):
        lines = [
            f"the {thing} is very {mood},{thing},{mood}"
            for thing, mood in [("book", "good"), ("pan", "bad"), ("book", "bad"), ("pan", "good")] * (rows // 4)
        ]
        (folder / f"{split}.csv").write_text("\n".join(["text,thing,mood", *lines]) + "\n")
    return folder


def test_a_data_set_for_each_task(run, tmp_path, text_model, reviews, pans):
    results = run(
        "multitask",
        *("--model_name_or_path", text_model, "--task_datasets", f"mood={reviews}", f"stars={pans}", *STEPS),
        *("--seeds", 2, "--weighting", "uncertainty", "--sampling", "sqrt"),
    )
    assert {"test_mood_accuracy", "test_stars_pearson", "test_stars_mse", "eval_mean"} <= results.keys()
    assert results["seeds"] == [42, 43] and len(results["test_mood_accuracy_by_seed"]) == 2
    compared = results["comparison"]
    assert set(compared["tasks"]) == {"mood", "stars"} and compared["tasks"]["stars"]["metric"] == "mse"
    assert all(own["rows"] == 4 and own["seeds"] == 2 for own in compared["tasks"].values())
    out = tmp_path / "out"
    classify = pipeline("text-classification", model=str(out / "mood"), device="cpu")
    assert classify("the book is very good")[0]["label"] in ("pos", "neg")
    config = json.loads((out / "stars" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    card = (out / "mood" / "README.md").read_text()
    assert "trained for 2 tasks at once" in card and "`stars`" in card and "| mood | accuracy |" in card
    assert "| mood | accuracy |" in (out / "comparison.md").read_text()
    assert {path.name for path in out.iterdir()} == {"mood", "stars", "runs", "comparison.md", "all_results.json"}
    assert {path.name for path in (out / "runs").iterdir()} == {"together", "mood_alone", "stars_alone"}


def test_one_data_set_that_is_labelled_for_all_tasks_and_an_adapter(run, tmp_path, text_model, both_labels):
    results = run(
        "multitask",
        *("--model_name_or_path", text_model, "--dataset_name", both_labels, "--label_columns", "thing", "tone=mood"),
        *(*STEPS, "--adapter", "lora", "--surgery", "pcgrad", "--surgery_on", "representation"),
    )
    assert results["comparison"]["tasks"].keys() == {"thing", "tone"}
    assert results["comparison"]["tasks"]["tone"]["rows"] == 8
    names = {path.name for path in (tmp_path / "out" / "tone").iterdir()}
    assert "model.safetensors" in names and "adapter_config.json" not in names
    classify = pipeline("text-classification", model=str(tmp_path / "out" / "thing"), device="cpu")
    assert set(classify.model.config.label2id) == {"book", "pan"}
    assert "One seed" not in results and "rows alone" in (tmp_path / "out" / "comparison.md").read_text()


def test_tags_of_words_beside_classes(run, tmp_path, text_model, reviews, entities):
    results = run(
        "multitask",
        *("--model_name_or_path", text_model, "--task_datasets", f"mood={reviews}", f"names={entities}"),
        *(*STEPS, "--max_steps", 2, "--compare", "false"),
    )
    assert {"test_mood_accuracy", "test_names_f1"} <= results.keys() and "comparison" not in results
    assert not (tmp_path / "out" / "comparison.md").exists()
    tag = pipeline("token-classification", model=str(tmp_path / "out" / "names"), device="cpu")
    assert "B-PER" in tag.model.config.label2id


def test_the_yaml_beside_it(run, tmp_path):
    results = run(
        "multitask",
        *("--config", RECIPES / "multitask.yaml", "--max_steps", 2, "--max_eval_samples", 10, "--compare", "false"),
    )
    assert 0 <= results["eval_mean"] <= 1
    assert len([path for path in (tmp_path / "out").iterdir() if (path / "README.md").is_file()]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "are both missing: there is no task. Give a data set for each task"),
        (("--task_datasets", "a=x", "b=y", "--dataset_name", "z"), "name the tasks twice. Give a data set for each"),
        (("--dataset_name", "z"), "`--dataset_name` and `--label_columns` go together"),
        (("--task_datasets", "a=x"), "`--task_datasets a` is one task: there is nothing to share. Give two or more"),
        (("--task_datasets", "a=x", "a=y"), "`a` is given twice, and columns, heads and folders go by the names"),
        (("--task_datasets", "a=x", "runs=y"), "`runs` is the folder of the runs"),
        (("--task_datasets", "a=x", "plain"), "`--task_datasets plain`: `plain` is no name=value with a name"),
        (("--dataset_name", "z", "--label_columns", "a", "b c"), "`b c` is no name=value"),
        (("--task_datasets", "a=x", "b=y", "--seeds", 0), "`--seeds 0` trains nothing. Give 1 or more"),
        (
            ("--task_datasets", "a=x", "b=y", "--resume_from_checkpoint", "c"),
            "it is not said which is meant. Leave it",
        ),
        (("--dataset_name", "z", "--label_columns", "a", "b", "--samples_per_class", 2), "one would decide for all"),
    ],
)
def test_what_it_refuses_before_anything_is_loaded(run, words, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        run("multitask", "--model_name_or_path", "embedded:text", *words)


def test_what_does_not_fit_is_refused_before_training(run, no_training, text_model, reviews, pans, images):
    tasks = ("--model_name_or_path", text_model, "--task_datasets", f"mood={reviews}", f"stars={pans}")
    with pytest.raises(ValueError, match="Tasks things read images and the others text: no backbone here reads both"):
        run("multitask", *tasks[:2], "--task_datasets", f"mood={reviews}", f"things={images}")
    with pytest.raises(ValueError, match="metric_for_best_model mood_accuracy` is not reported by every run: that of"):
        run("multitask", *tasks, "--metric_for_best_model", "mood_accuracy")
    with pytest.raises(ValueError, match="on the representation under gradient accumulation"):
        surgery = ("--surgery", "nash", "--surgery_on", "representation", "--gradient_accumulation_steps", 2)
        run("multitask", *tasks, *surgery)
