"""The student that the options name: cut out of the teacher, pretrained, or new."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import ViTImageProcessorPil

from hf_transfer.data.loading import TransferData
from hf_transfer.distillation.arguments import DistillationArguments
from hf_transfer.distillation.students import make_student
from tests.models import tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit
from tests.test_models import saved, tokenizer


CLASSES = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def data(column: str = "text") -> TransferData:
    task: Any = f"{column}-classification"
    return TransferData(Dataset.from_dict({column: []}), None, None, task, (column,), ("no", "yes"))


def recipe(teacher="teacher", **options: Any) -> DistillationArguments:
    return DistillationArguments(str(teacher), "data", **{name: _text(value) for name, value in options.items()})


def _text(value: Any) -> Any:
    return value if isinstance(value, (dict, bool)) else str(value)


@pytest.fixture
def teacher() -> Any:
    return tiny_bert(**CLASSES)


@pytest.fixture
def words():
    return tokenizer()


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(("blocks", "kept"), [("1", [0]), ("first", [0, 1]), ("0,2", [0, 2]), ("every_other", [0, 2])])
def test_cut_out_of_the_teacher(teacher, words, blocks, kept):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student: Any
    student, processor = make_student(recipe(student_blocks=blocks), data(), teacher, words)
    assert processor is words and len(student.bert.encoder.layer) == len(kept)
    for block, number in zip(student.bert.encoder.layer, kept, strict=True):
        assert same(block, teacher.bert.encoder.layer[number])
    assert same(student.classifier, teacher.classifier) and student.config.id2label == CLASSES["id2label"]
    with torch.no_grad():
        student.classifier.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(("blocks", "message"), [("9", "9.*3"), ("2,0", "changes their order"), ("odd", "odd")])
def test_blocks_that_the_teacher_has_not(teacher, words, blocks, message):
    with pytest.raises(ValueError, match=message):
        make_student(recipe(student_blocks=blocks), data(), teacher, words)


def test_a_pretrained_student_of_another_kind(tmp_path, teacher, words):
    other: Any = tiny_resnet(**CLASSES)
    saved(tmp_path, other, ViTImageProcessorPil(size={"height": 16, "width": 16}))
    student: Any
    student, processor = make_student(recipe(student_name_or_path=tmp_path), data("image"), teacher, words)
    assert same(student, other) and processor is not words and processor.size["height"] == 16


def test_a_pretrained_student_gets_a_head_for_the_classes(tmp_path, teacher, words):
    saved(tmp_path, tiny_bert(), words)  # for three classes
    student: Any
    student, _ = make_student(recipe(student_name_or_path=tmp_path), data(), teacher, words)
    assert student.classifier.out_features == 2 and student.config.id2label == CLASSES["id2label"]


def test_revision_and_trust_reach_the_pretrained_student(tmp_path, teacher, words, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "hf_transfer.recipe_arguments.load_model", lambda *names, **options: seen.append((names[0], options))
    )
    options = {"student_name_or_path": "user/name", "student_revision": "v2", "trust_remote_code": True}
    make_student(recipe(**options), data(), teacher, words)
    assert seen == [("user/name", {"revision": "v2", "trust_remote_code": True})]


@pytest.mark.parametrize("own", [False, True])
def test_a_new_student_of_a_type_has_the_teacher_s_tokenizer_unless_another_is_named(tmp_path, teacher, own):
    saved(tmp_path / "teacher", teacher, tokenizer())
    longer = tokenizer()
    longer.add_tokens(["more", "words"])
    longer.save_pretrained(tmp_path / "other")
    options: dict[str, Any] = {"student_from_scratch": "bert", "student_config": SMALL}
    if own:
        options["student_tokenizer"] = tmp_path / "other"
    torch.manual_seed(3)
    student: Any
    student, processor = make_student(recipe(tmp_path / "teacher", **options), data(), teacher, tokenizer())
    assert student.config.vocab_size == len(processor) == (7 if own else 5)
    assert student.config.id2label == CLASSES["id2label"] and len(student.bert.encoder.layer) == 1
    torch.manual_seed(3)
    again, _ = make_student(recipe(tmp_path / "teacher", **options), data(), teacher, tokenizer())
    assert same(student, again)  # random weights are drawn from the global generator


def test_a_new_student_for_images_needs_no_tokenizer(teacher, words):
    config = {**SMALL, "image_size": 8, "patch_size": 4}
    options: Any = {"student_from_scratch": "vit", "student_config": config}
    student: Any
    student, processor = make_student(recipe("no/such", **options), data("image"), teacher, words)
    assert student.config.image_size == 8 == processor.size["height"] and student.classifier.out_features == 2


def test_the_config_of_a_checkpoint_with_random_weights(tmp_path, teacher, words):
    pretrained: Any = tiny_vit()
    saved(tmp_path, pretrained, ViTImageProcessorPil(size={"height": 8, "width": 8}))
    options: Any = {"student_from_scratch": tmp_path, "student_config": {"num_hidden_layers": 1}}
    student: Any
    student, processor = make_student(recipe(**options), data("image"), teacher, words)
    assert student.config.num_hidden_layers == 1 and student.config.hidden_size == 16
    assert not same(student.vit.embeddings, pretrained.vit.embeddings) and processor.size["height"] == 8
    assert student.classifier.out_features == 2


def test_a_tokenizer_beside_the_config_of_a_checkpoint_is_refused(tmp_path, teacher, words):
    saved(tmp_path, tiny_token_bert(), words)
    with pytest.raises(
        ValueError, match="`--student_tokenizer other` with `--student_from_scratch .*Leave it out, or"
    ):
        make_student(recipe(student_from_scratch=tmp_path, student_tokenizer="other"), data(), teacher, words)
