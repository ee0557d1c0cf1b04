"""Rules written as functions: what they are called with, what they may return, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from hf_transfer import ModelSpec, Rule, TransferBatch
from hf_transfer.rules import implies
from hf_transfer.rules.rule import MOST_LABELS


def batch_with(**inputs) -> TransferBatch:
    return TransferBatch(
        features=torch.zeros(4, 2), inputs=inputs, columns={"shout": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    )


def shouting_is_bad(inputs, probabilities):
    return implies(inputs["shout"], probabilities[:, 0])


def test_is_evaluated_at_certain_predictions_only():
    seen = []

    def rule(inputs, probabilities):
        seen.append((dict(inputs), probabilities.clone()))
        return probabilities[:, 1]

    ids = torch.ones(4, 3)
    truths = Rule(rule).class_truths(batch_with(input_ids=ids), torch.rand(4, 3).softmax(-1))
    assert truths.tolist() == [[0, 1, 0]] * 4
    assert [p.tolist() for _, p in seen] == [[row] * 4 for row in ([1, 0, 0], [0, 1, 0], [0, 0, 1])]
    assert all(set(inputs) == {"input_ids", "shout"} and inputs["input_ids"] is ids for inputs, _ in seen)


def test_reads_columns_of_the_batch():
    truths = Rule(shouting_is_bad, columns=["shout"]).class_truths(batch_with(), torch.full((4, 2), 0.5))
    assert truths.tolist() == [[1, 1], [1, 0], [1, 0], [1, 1]]


def test_each_token_is_a_row():
    rule = Rule(lambda inputs, probabilities: 1 - probabilities[..., 2])
    truths = rule.class_truths(batch_with(), torch.rand(4, 5, 3))
    assert truths.shape == (4, 5, 3) and (truths == torch.tensor([1.0, 1.0, 0.0])).all()


def test_comparisons_are_truths():
    rule = Rule(lambda inputs, probabilities: probabilities.argmax(-1) != 1)
    assert rule.class_truths(batch_with(), torch.rand(4, 3))[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("labels", [None, (2, 0), ("c", "a")])
def test_states_of_several_labels(labels):
    def never_both(inputs, probabilities):
        return 1 - probabilities[:, 0] * probabilities[:, 2]

    names = {"label2id": {"a": 0, "b": 1, "c": 2}, "id2label": {0: "a", 1: "b", 2: "c"}}
    from tests.models import tiny_bert

    spec = ModelSpec(feature_dim=16, num_labels=3, model=tiny_bert(**names))
    rule = Rule(never_both, labels=labels).build(spec)
    (factor,) = rule.label_truths(batch_with(), torch.rand(4, 3))
    assert factor.labels == ((0, 1, 2) if labels is None else (2, 0))
    for state in itertools.product((0, 1), repeat=3):
        number = sum(state[label] << bit for bit, label in enumerate(factor.labels))
        assert (factor.truths[:, number] == float(not (state[0] and state[2]))).all()


def test_labels_that_are_not_tied_keep_the_models_own_probabilities():
    seen = []

    def rule(inputs, probabilities):
        seen.append(probabilities.clone())
        return probabilities[:, 1]

    own = torch.rand(4, 3)
    Rule(rule, labels=[1]).build(ModelSpec(feature_dim=2, num_labels=3)).label_truths(batch_with(), own)
    assert [p[:, 1].tolist() for p in seen] == [[0] * 4, [1] * 4]
    assert all(torch.equal(p[:, [0, 2]], own[:, [0, 2]]) for p in seen)


def test_too_many_labels_at_once():
    rule = Rule(lambda inputs, probabilities: probabilities[:, 0], name="first")
    with pytest.raises(ValueError, match=r"`first` looks at 11 labels.*2048 ways.*Name the labels.*at most 10"):
        rule.label_truths(batch_with(), torch.rand(4, MOST_LABELS + 1))


def test_a_subclass_defines_the_truth_itself():
    class Second(Rule):
        def truth(self, batch, probabilities):
            return probabilities[..., 1]

    rule = Second(confidence=0.5)
    assert (rule.name, rule.confidence) == ("Second", 0.5)
    assert rule.class_truths(batch_with(), torch.rand(2, 2)).tolist() == [[0, 1]] * 2


def test_names():
    assert Rule(shouting_is_bad).name == "shouting_is_bad"
    assert Rule(lambda inputs, probabilities: probabilities[:, 0]).name == "rule"
    assert repr(Rule(shouting_is_bad, name="loud")) == "Rule(loud, confidence=1.0)"
    rule = Rule(shouting_is_bad)
    assert Rule.of(rule) is rule and Rule.of(shouting_is_bad).confidence == 1.0


@pytest.mark.parametrize("given", [None, "text"])
def test_no_function(given):
    with pytest.raises(TypeError, match=r"has no function: there is nothing to evaluate.*\(inputs, probabilities\)"):
        Rule(given)


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_confidence_outside_its_range(confidence):
    with pytest.raises(ValueError, match=r"`confidence=.*` of rule `r` is outside \[0, 1\].*Give 1.0"):
        Rule(shouting_is_bad, name="r", confidence=confidence)


@pytest.mark.parametrize(
    ("returned", "seen"),
    [
        (lambda p: p, r"\(4, 3\)"),
        (lambda p: p[:2, 0], r"\(2,\)"),
        (lambda p: p[:, 0].mean(), r"\(\)"),
        (lambda p: 0.5, "float"),
    ],
)
def test_truths_of_another_shape(returned, seen):
    rule = Rule(lambda inputs, probabilities: returned(probabilities), name="r")
    with pytest.raises(ValueError, match=rf"`r` returns {seen} for probabilities of shape \(4, 3\).*Return a tensor"):
        rule.class_truths(batch_with(), torch.rand(4, 3))


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan")])
def test_truths_outside_their_range_are_refused_once_and_cut_afterwards(value):
    rule = Rule(shouting_is_bad, name="r")
    with pytest.raises(ValueError, match=r"`r` has truth values from .* outside \[0, 1\].*Return probabilities"):
        rule.checked(torch.tensor([0.5, value]))
    assert rule.checked(torch.tensor([0.0, 1.0])).tolist() == [0, 1]
    assert rule.checked(torch.tensor([-0.1, 1.2])).tolist() == [0, 1]  # never read back again
