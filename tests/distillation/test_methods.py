"""Names of methods of distillation and what they stand for."""

from __future__ import annotations

import pytest

from hf_transfer import objectives
from hf_transfer.distillation.methods import ACRONYMS, ALONE, VOCABULARY, Method, known_parts, learns_from_teacher
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.teacher import Teacher
from tests.models import tiny_bert


@pytest.fixture(scope="module")
def teacher():
    return Teacher(tiny_bert())


def test_every_acronym_is_a_class_of_the_library():
    known = known_parts()
    assert {name: known[name].__name__ for name in ACRONYMS} == ACRONYMS


def test_every_objective_with_a_teacher_can_be_named():
    known = set(known_parts().values())
    for name in objectives.__all__:
        made = getattr(objectives, name)
        if issubclass(made, TeacherObjective):
            assert made in known, name


@pytest.mark.parametrize("name", ACRONYMS)
def test_every_acronym_parses_and_asks_the_teacher_that_the_run_has(name, teacher):
    method = VOCABULARY.parse(name)
    assert method.name == name and method.asks_teacher and not method.is_reference and not method.needs_domains
    (term,) = method.objectives(teacher=teacher, num_domains=2)
    assert isinstance(term, TeacherObjective) and term.teacher is teacher


def test_names_of_one_class_differ_in_its_options(teacher):
    found = {name: VOCABULARY.parse(name).objectives(teacher=teacher)[0].divergence for name in ("kd", "jsd", "mse")}
    assert found == {"kd": "kl", "jsd": "jsd", "mse": "mse"}
    changed = Method("x", (VOCABULARY.part("jsd", {"beta": 0.25}, where=""),))
    (term,) = changed.objectives(teacher=teacher)
    assert (term.divergence, term.beta) == ("jsd", 0.25)
    with pytest.raises(ValueError, match="`kd` and `mse` are one class"):
        VOCABULARY.parse("kd+mse")


def test_joined_names_may_leave_the_teacher_alone():
    assert VOCABULARY.parse("l2sp").asks_teacher is False
    joined = VOCABULARY.parse("kd+l2sp+dann")
    assert joined.asks_teacher and joined.needs_domains
    assert [learns_from_teacher(part) for part in joined.parts] == [True, False, False]


def test_the_student_alone_is_a_run_without_terms():
    assert VOCABULARY.parse(ALONE).is_reference and not VOCABULARY.parse(ALONE).objectives(teacher=None)
    with pytest.raises(ValueError, match="joins `alone`.*reference run.*`--methods alone,kd`"):
        VOCABULARY.parse("kd+alone")


@pytest.mark.parametrize(
    ("text", "message"),
    [("kdd", "names `kdd`.*Did you mean `kd`"), ("kd+kd", "twice"), ("co_tuning", "is no method")],
)
def test_names_that_cannot_be_meant(text, message):
    with pytest.raises(ValueError, match=message):
        VOCABULARY.parse(text)


def test_a_value_is_refused_before_there_is_a_teacher():
    with pytest.raises(ValueError, match="temperature=0"):
        VOCABULARY.part("kd", {"temperature": 0}, where="`--loss a`")
    with pytest.raises(ValueError, match="gives `kd` the option `temprature`.*Did you mean `temperature`"):
        VOCABULARY.part("kd", {"temprature": 2}, where="`--loss a`")


def test_shortcuts_reach_terms_with_a_teacher_that_set_nothing_themselves(teacher):
    own = VOCABULARY.part("dkd", {"temperature": 3.0}, where="")
    method = Method("x", (VOCABULARY.part("kd", where=""), own, VOCABULARY.part("l2sp", where="")))
    kd, dkd, l2sp = method.with_defaults(weight=0.25, temperature=8.0).objectives(teacher=teacher)
    assert (kd.weight, kd.temperature, dkd.weight, dkd.temperature) == (0.25, 8.0, 0.25, 3.0)
    assert l2sp.weight == objectives.L2SP().weight
    untouched = method.with_defaults(weight=None, temperature=None)
    assert [part.options for part in untouched.parts] == [{}, {"temperature": 3.0}, {}]


def test_a_contrastive_temperature_is_another_quantity():
    crd = VOCABULARY.parse("crd").with_defaults(weight=None, temperature=8.0)
    assert crd.parts[0].options == {}
