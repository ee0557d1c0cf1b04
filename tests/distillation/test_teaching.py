"""The teacher of a recipe: when it is fine-tuned first, what it scores, and when an earlier one is found again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertModel

from hf_transfer.compare.results import Results
from hf_transfer.data.loading import TransferData
from hf_transfer.distillation import teaching
from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments
from hf_transfer.distillation.methods import TEACHER
from hf_transfer.distillation.teaching import Teaching
from hf_transfer.recipe_arguments import DataArguments
from tests.models import bert_config, tiny_bert, tiny_token_bert
from tests.test_models import saved, tokenizer


def named(*names: str) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": numbers}


def split(rows: int) -> Dataset:
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    texts = ["good", "bad", "good good", "bad good bad"] * rows
    return Dataset.from_dict({"text": texts[:rows], "label": [0, 1, 1, 0, 1, 1, 0, 1][:rows]}, features=kinds)


def data(*, test: bool = True) -> TransferData:
    return TransferData(
        split(8), split(5), split(8) if test else None, "text-classification", ("text",), ("no", "yes")
    )


def make(folder, tmp_path, *, options: dict[str, Any] | None = None, rows: Any = None, **loop: Any) -> Teaching:
    args = DistillationLoopArguments(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, **loop)
    recipe = DistillationArguments(str(folder), "data", student_blocks="1", **(options or {}))
    return Teaching(recipe, data() if rows is None else rows, DataArguments(), args)


def teacher_in(folder, model: Any):
    return saved(folder, model, tokenizer())


# --- whether it is fine-tuned


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: tiny_bert(**named("yes", "no")), None),
        (lambda: tiny_bert(num_labels=2), None),  # without names its outputs are the classes
        (lambda: tiny_bert(**named("no", "yes", "maybe")), "it has 3 outputs, the data asks for 2"),
        (lambda: tiny_bert(**named("no", "never")), "its classes are not those of the data"),
        (lambda: tiny_token_bert(**named("no", "yes")), "its checkpoint has no head for text-classification"),
        (lambda: BertModel(bert_config(num_labels=2)), "its checkpoint has no head for text-classification"),
    ],
)
def test_why_it_is_fine_tuned_first(tmp_path, model, reason):
    folder = teacher_in(tmp_path / "teacher", model())
    assert make(folder, tmp_path).reason == reason
    assert make(folder, tmp_path, options={"train_teacher": "true"}).reason == "`--train_teacher true`"
    assert make(folder, tmp_path, options={"train_teacher": "false"}).reason is None


# --- taken as it is


def test_its_head_is_brought_into_the_order_of_the_data_and_scored_by_hand(tmp_path):
    model: Any = tiny_bert(**named("yes", "no"), initializer_range=0.5).eval()
    folder, rows = teacher_in(tmp_path / "teacher", model), data()
    with torch.no_grad():
        logits = [
            model(input_ids=torch.tensor([tokenizer()(text)["input_ids"]])).logits[0] for text in rows.train["text"]
        ]
    right = [(1 - int(row.argmax())) == label for row, label in zip(logits, rows.train["label"], strict=True)]
    assert 0 < sum(right) < 8 and sum(right) != 4, "a head in the wrong order would score the same"
    found = make(folder, tmp_path)
    taught: Any
    taught, cell = found.teach()
    assert (cell.method, cell.seed, cell.folder) == (TEACHER, 42, ".")
    assert cell.scores["test_accuracy"] == pytest.approx(sum(right) / 8)  # the same eight rows
    assert cell.scores["eval_accuracy"] == pytest.approx(sum(right[:5]) / 5)
    assert not any("runtime" in name or name == "epoch" for name in cell.scores)
    batch = {"input_ids": torch.tensor([[1, 2]])}
    with torch.no_grad():
        torch.testing.assert_close(taught.eval()(**batch).logits, model(**batch).logits[:, [1, 0]])
    assert not (tmp_path / "out" / TEACHER / "model.safetensors").exists()


def test_without_test_rows_it_is_scored_on_the_validation_rows(tmp_path):
    folder = teacher_in(tmp_path / "teacher", tiny_bert(**named("no", "yes")))
    _, cell = make(folder, tmp_path, rows=data(test=False)).teach()
    assert "eval_accuracy" in cell.scores and not any(name.startswith("test_") for name in cell.scores)


def test_a_teacher_that_must_be_taken_and_knows_other_classes(tmp_path):
    folder = teacher_in(tmp_path / "teacher", tiny_bert(**named("no", "never")))
    found = make(folder, tmp_path, options={"train_teacher": "false"})
    with pytest.raises(ValueError, match="has no class `yes`.*`--train_teacher true` gives it a head"):
        found.draft()


def test_a_draft_of_one_that_is_to_be_fine_tuned_has_the_head_of_the_student(tmp_path):
    folder = teacher_in(tmp_path / "teacher", BertModel(bert_config()))
    model: Any
    model, processor = make(folder, tmp_path).draft()
    assert model.classifier.out_features == 2 and model.config.id2label == {0: "no", 1: "yes"}
    assert processor("bad")["input_ids"] == [2] and not (tmp_path / "out").exists()


def test_revision_and_trust_reach_whoever_loads(tmp_path, monkeypatch):
    folder = teacher_in(tmp_path / "teacher", tiny_bert(**named("no", "yes")))
    seen = []
    auto = teaching.AUTO_MODELS["text-classification"]
    monkeypatch.setattr(
        auto, "from_pretrained", lambda name, **options: seen.append(options) or tiny_bert(**named("no", "yes"))
    )
    make(folder, tmp_path, options={"teacher_revision": "v2", "trust_remote_code": True}).draft()
    assert seen == [{"revision": "v2", "trust_remote_code": True}]


# --- fine-tuned first


@pytest.fixture
def trained(monkeypatch):
    """What every fine-tuning of a teacher was given, in place of which a model is saved at once."""
    found: list[Any] = []

    class Fake:
        def __init__(self, dataset, methods, model_args, data_args, args, *, validate):
            assert dataset == "data" and validate
            self.args = args
            found.append(args)

        def run(self):
            torch.manual_seed(len(found))
            teacher_in(self.args.output_dir, tiny_bert(**named("no", "yes")))
            return {"eval_accuracy": 0.5 + len(found) / 10, "eval_loss": float("nan"), "eval_runtime": 3.0}

    monkeypatch.setattr(teaching, "FineTuning", Fake)
    return found


@pytest.fixture
def base(tmp_path):
    return teacher_in(tmp_path / "base", BertModel(bert_config()))


def test_it_is_fine_tuned_once_and_found_by_the_next_run(tmp_path, base, trained):
    first: Any
    first, cell = make(base, tmp_path).teach()
    assert cell.scores == {"eval_accuracy": 0.6, "eval_loss": None} and len(trained) == 1
    again: Any
    again, same = make(base, tmp_path).teach()
    assert same == cell and len(trained) == 1
    assert torch.equal(again.classifier.weight, first.classifier.weight)
    assert Results(tmp_path / "out" / TEACHER, {}, write=False).path.is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"resume": False}},
        {"options": {"teacher_epochs": 2.0}},
        {"options": {"teacher_learning_rate": 1e-2}},
        {"seed": 3},
        {"weight_decay": 0.5},
    ],
)
def test_it_is_fine_tuned_anew_where_it_would_be_another(tmp_path, base, trained, changes):
    make(base, tmp_path).teach()
    _, cell = make(base, tmp_path, **changes).teach()
    assert len(trained) == 2 and cell.scores["eval_accuracy"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"methods": ["dkd"], "temperature": 8.0, "seeds": 3}},
        {"options": {"distillation_weight": 2.0, "measure": False}},
        {"logging_steps": 7},
    ],
)
def test_what_concerns_students_alone_leaves_it(tmp_path, base, trained, changes):
    make(base, tmp_path).teach()
    make(base, tmp_path, **changes).teach()
    assert len(trained) == 1


def test_it_is_fine_tuned_anew_where_its_model_is_gone(tmp_path, base, trained):
    make(base, tmp_path).teach()
    (tmp_path / "out" / TEACHER / "config.json").unlink()
    make(base, tmp_path).teach()
    assert len(trained) == 2


def test_its_loop_has_rates_of_its_own_and_leaves_that_of_the_students(tmp_path, base, trained):
    options = {"teacher_learning_rate": 1e-2, "teacher_epochs": 2.0}
    found = make(base, tmp_path, options=options, max_steps=9, learning_rate=1e-4, seed=5, push_to_hub=True)
    found.teach()
    (own,) = trained
    assert (own.learning_rate, own.num_train_epochs, own.max_steps) == (1e-2, 2.0, -1)
    assert (own.seed, own.push_to_hub, own.output_dir) == (5, False, str(tmp_path / "out" / TEACHER))
    assert (found.args.learning_rate, found.args.max_steps, found.args.push_to_hub) == (1e-4, 9, True)
    make(base, tmp_path / "other", max_steps=9, learning_rate=1e-4).teach()
    assert (trained[1].learning_rate, trained[1].max_steps) == (1e-4, 9)
