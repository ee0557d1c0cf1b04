"""Which output of a teacher is which class: by name, by number, by a mapping, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from hf_transfer import ModelSpec, Teacher, TransferBatch
from hf_transfer.teacher.labels import check_rule, class_names, class_order, kind_of_task
from tests.models import tiny_bert, tiny_token_bert, tiny_vit


def named(*names, make=tiny_bert, **options):
    options["num_labels"] = len(names)
    return make(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}, **options)


def spec_of(model):
    return ModelSpec(feature_dim=16, num_labels=model.config.num_labels, model=model)


def order(teacher, student, rule="name"):
    outputs = teacher.config.num_labels
    return class_order(class_names(teacher.config, outputs), outputs, spec_of(student), rule, teacher="T")


def test_every_order_of_the_same_names_is_undone():
    names = ["cat", "dog", "fish"]
    for shuffled in itertools.permutations(names):
        found = order(named(*shuffled), named(*names)) or [0, 1, 2]
        assert [shuffled[place] for place in found] == names


@pytest.mark.parametrize(
    "variants", [("POSITIVE", "Very Negative"), ("positive", "very_negative"), ("Positive", "very-negative")]
)
def test_case_and_separators_do_not_matter(variants):
    assert order(named(*variants), named("VERY NEGATIVE", "positive")) == [1, 0]


def test_names_that_differ_only_in_case_are_told_apart():
    assert order(named("us", "US"), named("US", "us")) == [1, 0]


def test_without_names_the_numbers_count():
    assert order(tiny_bert(num_labels=4), tiny_bert(num_labels=4)) is None
    with pytest.raises(ValueError, match="T has 5 classes and the student 4.*only their numbers.*config.id2label"):
        order(tiny_bert(num_labels=5), tiny_bert(num_labels=4))


def test_a_name_on_one_side_only_is_a_guess():
    with pytest.raises(ValueError, match='The classes of the teacher have names.*`a`, `b`.*labels="position"'):
        order(named("a", "b"), tiny_bert(num_labels=2))
    with pytest.raises(ValueError, match="The classes of the student have names.*set `teacher.config.id2label`"):
        order(tiny_bert(num_labels=2), named("a", "b"))
    assert order(named("a", "b"), tiny_bert(num_labels=2), "position") is None
    with pytest.raises(ValueError, match="has 3 classes and the student 2"):
        order(named("a", "b", "c"), named("a", "b"), "position")


def test_classes_that_the_student_lacks_are_left_out():
    assert order(named("a", "b", "c", "d"), named("d", "b")) == [3, 1]


def test_different_sets_are_listed():
    with pytest.raises(ValueError, match="T has no class `c` of the student; it has `z` that the student lacks"):
        order(named("a", "b", "z"), named("a", "b", "c"))
    with pytest.raises(ValueError, match="no class `c` of the student; it has no class that the student lacks"):
        order(named("a", "b"), named("a", "b", "c"))
    many = [f"c{i}" for i in range(20)]
    with pytest.raises(ValueError, match=r"`c5` and 14 more of the student"):
        order(named("x", "y"), named(*many))


def test_a_mapping_names_them():
    teacher, student = named("NEG", "POS", "neutral"), named("positive", "negative")
    assert order(teacher, student, {"NEG": "negative", "pos": "Positive"}) == [1, 0]
    assert order(tiny_bert(num_labels=2), student, {"LABEL_0": "positive", "LABEL_1": "negative"}) is None
    assert order(named("a", "b"), tiny_bert(num_labels=2), {"a": "LABEL_1", "b": "LABEL_0"}) == [1, 0]
    # `b` is taken by what is mapped to it
    assert order(named("a", "b"), named("b", "c"), {"a": "b", "b": "c"}) is None
    with pytest.raises(ValueError, match="T has no class `POZ`, which `labels=` names: it has `NEG`, `POS`"):
        order(teacher, student, {"POZ": "positive"})
    with pytest.raises(ValueError, match="The student has no class `good`.*it has `positive`, `negative`"):
        order(teacher, student, {"POS": "good"})
    with pytest.raises(ValueError, match="gives positive to several classes.*Map one class to each"):
        check_rule({"a": "positive", "b": "positive"})
    with pytest.raises(ValueError, match="`labels='number'` does not say which.*Give \"name\""):
        Teacher(tiny_bert(), labels="number")


def test_a_single_value_has_no_name():
    assert order(named("score"), tiny_bert(num_labels=1)) is None
    assert kind_of_task(tiny_bert(num_labels=1).config, 1) == "regression"


@pytest.mark.parametrize(
    ("teacher", "student", "said"),
    [
        (tiny_token_bert, tiny_bert, "predicts a class for each token and the student one thing for each example"),
        (tiny_bert, tiny_token_bert, "predicts one thing for each example and the student a class for each token"),
        (lambda: tiny_bert(num_labels=1), tiny_bert, "is for regression and the student for single_label"),
        (
            lambda: tiny_bert(problem_type="multi_label_classification"),
            tiny_bert,
            "is for multi_label_classification and the student for single_label_classification.*problem_type = ",
        ),
        (
            lambda: tiny_bert(problem_type="single_label_classification"),
            lambda: tiny_bert(num_labels=1),
            "is for single_label_classification and the student for regression",
        ),
    ],
)
def test_another_kind_of_task_is_refused(teacher, student, said):
    with pytest.raises(ValueError, match=said):
        Teacher(teacher()).bind(spec_of(student()), logits=True)
    Teacher(teacher()).bind(spec_of(student()), logits=False)  # features are features


def test_the_same_kind_is_taken():
    multi = {"problem_type": "multi_label_classification"}
    Teacher(tiny_bert(**multi)).bind(spec_of(tiny_bert(**multi)), logits=True)
    Teacher(tiny_bert()).bind(spec_of(tiny_bert(**multi)), logits=True)
    Teacher(tiny_vit()).bind(spec_of(tiny_bert(problem_type="single_label_classification")), logits=True)


def test_logits_come_in_the_order_of_the_student():
    teacher, student = named("c", "x", "a", "b"), named("a", "b", "c")
    asked = Teacher(teacher)
    asked.bind(spec_of(student), logits=True)
    batch = TransferBatch(features=torch.zeros(2, 16), inputs={"input_ids": torch.randint(1, 50, (2, 5))})
    with torch.no_grad():
        expected = teacher.eval()(**batch.inputs).logits
    assert torch.equal(asked(batch).logits, expected[:, [2, 3, 0]])
    stored = TransferBatch(features=torch.zeros(2, 16), columns={"teacher_logits": expected})
    assert torch.equal(asked(stored).logits, expected[:, [2, 3, 0]]), "stored logits are in the teacher's own order"
