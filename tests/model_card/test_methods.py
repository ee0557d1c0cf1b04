"""Objectives and callbacks in the words of a card."""

from __future__ import annotations

import pytest

from hf_transfer import L2SP, DomainAdversarial, FocalLoss, GradualUnfreezing, LabelSmoothing, Mixout, Objective
from hf_transfer import objectives as every
from hf_transfer.model_card.methods import about, formula, paper_of, settings_of, terms_of
from hf_transfer.objective import Objectives
from hf_transfer.schedules import warmup


def test_formula_is_that_of_the_objectives():
    objectives = Objectives([FocalLoss(), L2SP(weight=0.01), LabelSmoothing(), DomainAdversarial(weight=warmup())])
    assert formula(terms_of(objectives)) == str(objectives)


def test_task_loss_is_named():
    assert (
        formula(terms_of(Objectives([L2SP(weight=1.0)])), task="cross-entropy")
        == "loss = task + l2sp\ntask = cross-entropy"
    )


def test_schedule_of_ones_own_shows_no_address():
    objectives = Objectives([L2SP(weight=lambda progress: 2 * progress)])
    assert formula(terms_of(objectives)) == "loss = task + <lambda> * l2sp"


def test_term_has_the_settings_without_the_weight():
    (term,) = terms_of(Objectives([DomainAdversarial(hidden_size=8, weight=0.5)]))
    assert (term.name, term.method, term.weight) == ("domain_adversarial", "DomainAdversarial", "0.5")
    assert term.settings == {"hidden_size": "8", "num_domains": "2", "strength": "warmup(gamma=10.0, peak=1.0)"}
    assert "1505.07818" in term.paper


def test_change_of_the_task_loss_has_no_weight():
    (term,) = terms_of(Objectives([LabelSmoothing(smoothing=0.2)]))
    assert term.weight == "" and term.settings["smoothing"] == "0.2"


def test_names_of_terms_are_those_of_the_log():
    assert [term.name for term in terms_of(Objectives([L2SP(), L2SP()]))] == ["l2sp", "l2sp_2"]


@pytest.mark.parametrize("name", every.__all__)
def test_every_objective_says_what_it_is(name):
    made = object.__new__(getattr(every, name))
    assert about(made).endswith(".") and "\n" not in about(made)


def test_class_of_ones_own_borrows_no_words():
    class Mine(Objective):
        pass

    assert about(Mine()) == "" and paper_of(Mine()) == ""


def test_callbacks_have_papers_and_settings():
    assert "1801.06146" in paper_of(GradualUnfreezing())
    assert settings_of(Mixout(probability=0.5))["probability"] == "0.5"
