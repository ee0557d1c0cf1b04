"""Options of the recipe: what they make, and what is refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from hf_transfer.distillation.arguments import DistillationArguments, DistillationLoopArguments


def arguments(**options: Any) -> DistillationArguments:
    student = {} if any(name.startswith("student_") for name in options) else {"student_blocks": "2"}
    return DistillationArguments(**{"teacher_name_or_path": "big", "dataset_name": "d", **student, **options})


def names(recipe: DistillationArguments) -> list[str]:
    return [method.name for method in recipe.runs]


def test_runs_are_the_student_alone_and_every_method(tmp_path):
    assert names(arguments()) == ["alone", "kd"]
    assert names(arguments(alone=False, methods=["kd, dkd", "kd+dist"])) == ["kd", "dkd", "kd+dist"]
    (tmp_path / "mine.yaml").write_text("kd: {temperature: 3.0}\nl2sp: 0.1\n")
    recipe = arguments(loss=[str(tmp_path / "mine.yaml")], temperature=8.0, distillation_weight=0.5)
    assert names(recipe) == ["alone", "mine"]
    assert recipe.runs[1].description() == {"kd": {"temperature": 3.0, "weight": 0.5}, "l2sp": {"weight": 0.1}}


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("3", 3), ("0,2,5", [0, 2, 5]), ("4,", [4]), ("every_other", "every_other"), ("first", "first"), (None, None)],
)
def test_blocks(text, blocks):
    options = {"student_name_or_path": "small"} if text is None else {"student_blocks": text}
    assert arguments(**options).blocks == blocks


def test_the_config_of_a_new_student_is_json():
    recipe = arguments(student_from_scratch="vit", student_config='{"hidden_size": 8}')
    assert recipe.student_config == {"hidden_size": 8}
    with pytest.raises(ValueError, match="is no JSON object"):
        arguments(student_from_scratch="vit", student_config="hidden_size=8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_blocks": None}, "No student is given.*Pass one of `--student_blocks`"),
        ({"student_blocks": "2", "student_from_scratch": "vit"}, "`?--student_blocks and --student_from_scratch name"),
        ({"student_config": {"a": 1}, "student_blocks": "2"}, "`--student_config` without `--student_from_scratch`"),
        ({"student_tokenizer": "a", "student_name_or_path": "b"}, "`--student_tokenizer` without"),
        ({"seeds": 0}, "`--seeds 0` trains nothing"),
        ({"teacher_epochs": 0.0}, "`--teacher_epochs 0.0` trains no teacher"),
        ({"teacher_learning_rate": -1.0}, "`--teacher_learning_rate -1.0` trains no teacher"),
        ({"train_teacher": "maybe"}, "`--train_teacher maybe` does not say"),
        ({"methods": ["kd", "kd"]}, "`kd` is named twice"),
        ({"methods": ["kd+dann"]}, "brings two domains together.*--unlabelled_dataset"),
        ({"temperature": 0.0}, "temperature=0"),
    ],
)
def test_what_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        arguments(**options)


def test_a_loss_is_not_called_like_the_teacher(tmp_path):
    (tmp_path / "teacher.yaml").write_text("kd: 1.0\n")
    with pytest.raises(ValueError, match="is called like the teacher.*Rename"):
        arguments(loss=[str(tmp_path / "teacher.yaml")])


def test_domains_may_be_brought_together_where_there_are_two():
    assert names(arguments(methods=["kd+dann"], unlabelled_dataset=["other"])) == ["alone", "kd+dann"]


def test_yaml_says_true_with_a_capital():
    assert arguments(train_teacher="True").train_teacher == "true"


def loop(tmp_path, **options: Any) -> DistillationLoopArguments:
    return DistillationLoopArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_the_best_epoch_is_that_of_the_best_score(tmp_path):
    args = loop(tmp_path)
    args.choose_by_score("text-classification")
    assert (args.metric_for_best_model, args.greater_is_better) == ("accuracy", True)
    own = args.for_run(str(tmp_path / "kd"), 3)
    assert (own.metric_for_best_model, own.seed, own.push_to_hub) == ("accuracy", 3, False)
    named = loop(tmp_path, metric_for_best_model="loss")
    named.choose_by_score("text-classification")
    assert named.metric_for_best_model == "loss" and named.greater_is_better is False
    without = loop(tmp_path, eval_strategy="no")
    without.choose_by_score("regression")
    assert not without.load_best_model_at_end and without.metric_for_best_model is None


def test_a_checkpoint_of_no_particular_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`--resume_from_checkpoint` with several runs"):
        arguments().check(loop(tmp_path, resume_from_checkpoint="checkpoint-3"))
