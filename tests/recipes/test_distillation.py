"""recipes/distillation.py as a user runs it, in this process, on tiny models and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Trainer,
    pipeline,
)

from hf_transfer.teacher import Teacher
from tests.models import tiny_bert
from tests.recipes.conftest import RECIPES, saved_text_model, write_reviews


STEPS = ("--max_steps", 3, "--learning_rate", 0.01, "--measure", "false", "--eval_strategy", "no")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def identical(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT for the classes of the reviews, in another order than theirs."""
    names = {"id2label": {0: "pos", 1: "neg"}, "label2id": {"pos": 0, "neg": 1}, "num_labels": 2}
    return saved_text_model(tmp_path_factory.mktemp("teacher"), lambda **options: tiny_bert(**names, **options))


@pytest.fixture
def options(teacher, reviews):
    return "--teacher_name_or_path", teacher, "--dataset_name", reviews, "--student_blocks", 1


@pytest.fixture
def steps(monkeypatch):
    """Folder, rows, and whether there were objectives, of every training step."""
    found = []
    plain = Trainer.training_step

    def counted(self, model, inputs, *args, **options):
        name = "/".join(Path(self.args.output_dir).parts[-2:])
        found.append((name, len(inputs["labels"]), len(self.objectives)))
        return plain(self, model, inputs, *args, **options)

    monkeypatch.setattr(Trainer, "training_step", counted)
    return found


def test_the_yaml_beside_it_trains_the_teacher_and_reports(run, tmp_path):
    results: Any = run(
        "distillation",
        *("--config", RECIPES / "distillation.yaml", "--max_steps", 2, "--teacher_epochs", 0.1),
        *("--samples_per_class", 3, "--max_samples", 40, "--max_eval_samples", 12),
    )
    out = tmp_path / "out"
    assert {f"{name}_test_accuracy" for name in ("teacher", "alone", "kd")} <= results.keys()
    assert results["test_accuracy"] == results[f"{results['kept']['method']}_test_accuracy"]
    costs = results["costs"]
    assert costs["teacher"]["parameters"] > costs["student"]["parameters"] > 0
    assert costs["student"]["bytes"] == (out / "model.safetensors").stat().st_size
    assert costs["teacher"]["bytes"] == (out / "teacher" / "model.safetensors").stat().st_size
    classify: Any = pipeline("image-classification", model=str(out), device="cpu")
    assert set(classify.model.config.label2id) == set("0123456789")
    text = (out / "comparison.md").read_text()
    assert "| teacher |" in text and "| kd |" in text and "## Cost" in text
    assert (out / "distillation.png").stat().st_size > 0


def test_the_teacher_s_head_is_read_in_the_order_of_the_data(run, tmp_path, options, teacher, steps):
    results = run("distillation", *options, *STEPS, "--learning_rate", 0, "--head_lr", 0)
    assert not [name for name, *_ in steps if "teacher" in name]  # it is taken as it is
    model: Any = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(teacher)
    texts = [f"the book is very {word}" for word in ("good", "bad")]
    right = model(**tokenizer(texts, return_tensors="pt")).logits.argmax(-1) == torch.tensor([0, 1])
    assert results["teacher_test_accuracy"] == right.float().mean()  # the test rows are these two, twice
    student: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.id2label == {0: "neg", 1: "pos"}
    assert torch.equal(student.classifier.weight, model.classifier.weight[[1, 0]])  # untrained, it is a piece of it


def test_every_run_starts_alike_and_takes_the_same_steps(run, tmp_path, options, steps):
    run("distillation", *options, *STEPS, "--methods", "kd,dkd+l2sp")
    assert steps == [
        (f"{method}/seed_42", 4, terms)
        for method, terms in (("alone", 0), ("kd", 1), ("dkd+l2sp", 2))
        for _ in range(3)
    ]
    runs = tmp_path / "out"
    assert not identical(runs / "alone" / "seed_42", runs / "kd" / "seed_42")
    run("distillation", *options, *STEPS, "--distillation_weight", 0, out="nothing")
    assert identical(tmp_path / "nothing" / "kd" / "seed_42", runs / "alone" / "seed_42")


def test_a_teacher_without_a_head_is_fine_tuned_once(run, tmp_path, base_model, reviews, steps):
    options = ("--teacher_name_or_path", base_model, "--dataset_name", reviews, "--student_blocks", "first", *STEPS)
    straight: Any = run("distillation", *options, "--methods", "kd")
    assert [name for name, *_ in steps[:3]] == ["out/teacher"] * 3 and len(steps) == 9
    steps.clear()
    assert run("distillation", *options, "--methods", "kd") == straight and not steps

    run("distillation", *options, "--methods", "kd,dkd", "--temperature", 8)
    assert {name for name, *_ in steps} == {"kd/seed_42", "dkd/seed_42"}  # the student alone is as it was
    steps.clear()
    run("distillation", *options, "--methods", "kd", "--teacher_epochs", 1)
    assert [name for name, *_ in steps[:3]] == ["out/teacher"] * 3 and len(steps) == 9
    assert (tmp_path / "out" / "results.previous.json").is_file()


def test_nothing_of_the_teacher_is_saved(run, tmp_path, options, teacher):
    before = weights(teacher)
    run("distillation", *options, *STEPS, "--methods", "kd+hint+attention", "--alone", "false")
    after, student = weights(teacher), weights(tmp_path / "out")
    assert all(torch.equal(after[name], before[name]) for name in before)
    plain: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.keys() == plain.state_dict().keys() and student.keys() < before.keys()
    assert plain.config.num_hidden_layers == 1
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "comparison.md", "all_results.json", "results.json"} <= files
    classify: Any = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    assert classify("the book is good")[0]["label"] in ("pos", "neg")


def test_what_is_kept_on_disk_is_what_the_teacher_says(run, tmp_path, image_model, images, monkeypatch):
    seen: list[bool] = []
    plain = Teacher.__call__

    def asked(self, batch):
        seen.append("teacher_logits" in batch.columns)
        return plain(self, batch)

    monkeypatch.setattr(Teacher, "__call__", asked)
    options = ("--teacher_name_or_path", image_model, "--dataset_name", images, "--student_blocks", 1, *STEPS)
    expected = {"kept": (True, ()), "asked": (False, ("--cache_teacher", "false"))}
    expected["augmented"] = (False, ("--augmentation", "light"))
    for name, (kept, words) in expected.items():
        seen.clear()
        run("distillation", *options, *words, "--alone", "false", out=name)
        assert set(seen) == {kept}, name
    assert identical(tmp_path / "kept", tmp_path / "asked")


def test_a_student_of_another_architecture_and_tokenizer(run, tmp_path, options, teacher, tmp_path_factory):
    folder = saved_text_model(tmp_path_factory.mktemp("small"), lambda **o: tiny_bert(hidden_size=8, **o))
    other = json.loads((folder / "tokenizer.json").read_text())
    words = other["model"]["vocab"]
    other["model"]["vocab"] = {**words, "good": words["bern"], "bern": words["good"]}
    (folder / "tokenizer.json").write_text(json.dumps(other))
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokenizer("good")["input_ids"] != AutoTokenizer.from_pretrained(teacher)("good")["input_ids"]
    for name, cached in {"kept": "true", "asked": "false"}.items():
        run(
            "distillation",
            *(*options[:4], "--student_name_or_path", folder, *STEPS, "--methods", "kd", "--alone", "false"),
            *("--cache_teacher", cached),
            out=name,
        )
    one, two = weights(tmp_path / "kept"), weights(tmp_path / "asked")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "kept")("good")["input_ids"] == tokenizer("good")["input_ids"]


def test_a_student_from_scratch(run, tmp_path, options, teacher):
    words = ("--student_from_scratch", teacher, "--student_config", '{"num_hidden_layers": 1}', *STEPS)
    run("distillation", *options[:4], *words, "--methods", "kd", "--seeds", 2)
    first, second = (weights(tmp_path / "out" / "kd" / f"seed_{seed}") for seed in (42, 43))
    name = next(name for name in first if "word_embeddings" in name)
    assert not torch.allclose(first[name], second[name], atol=0.1)  # drawn anew by each seed
    words = ("--student_from_scratch", "bert", "--student_config")
    config = '{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}'
    run("distillation", *options[:4], *words, config, *STEPS, out="type")
    assert AutoTokenizer.from_pretrained(tmp_path / "type")("good") == AutoTokenizer.from_pretrained(teacher)("good")


def test_labels_of_unlabelled_data_are_not_read(run, tmp_path, options, steps):
    for name, labels in {"wrong": ["neg", "pos"] * 5, "absent": None}.items():
        write_reviews(tmp_path / "data" / name / "train.csv", "pan", labels, rows=10)
        run("distillation", *options, *STEPS, "--unlabelled_dataset", tmp_path / "data" / name, out=name)
    # four labelled rows in every batch, and with the teacher as many others beside them
    assert [rows for _, rows, _ in steps] == ([4] * 3 + [8] * 3) * 2
    assert identical(tmp_path / "wrong" / "kd" / "seed_42", tmp_path / "absent" / "kd" / "seed_42")


def test_domain_adaptation_beside_the_teacher(run, tmp_path, options):
    write_reviews(tmp_path / "data" / "train.csv", "pan", None, rows=10)
    results = run(
        "distillation",
        *(*options, *STEPS, "--unlabelled_dataset", tmp_path / "data", "--methods", "kd+coral", "--alone", "false"),
    )
    assert "kd+coral_test_accuracy" in results


def test_tokens(run, token_model, entities):
    results = run(
        "distillation",
        *("--teacher_name_or_path", token_model, "--dataset_name", entities, "--student_blocks", "last", *STEPS),
    )
    assert {"teacher_test_f1", "alone_test_f1", "kd_test_f1"} <= results.keys()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--student_blocks", 7), "keep_blocks=7"),
        (("--student_blocks", "0,9"), "9"),
        (("--methods", "kdd"), "`--methods` names `kdd`.*Did you mean `kd`"),
        (("--methods", "kd", "--train_teacher", "maybe"), "--train_teacher maybe"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(run, options, words, message):
    with pytest.raises(ValueError, match=message):
        run("distillation", *options, *STEPS, *words)


@pytest.mark.usefixtures("no_training")
def test_a_teacher_that_knows_other_classes(run, base_model, text_model, reviews):
    words = ("--dataset_name", reviews, "--student_blocks", 1, *STEPS, "--train_teacher", "false")
    with pytest.raises(ValueError, match="3 classes and the student 2.*--train_teacher true"):
        run("distillation", "--teacher_name_or_path", text_model, *words)
