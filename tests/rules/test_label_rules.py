"""Hierarchy and exclusion against logic written out over all sets of labels."""

from __future__ import annotations

import itertools

import pytest
import torch

from hf_transfer import LabelHierarchy, ModelSpec, MutualExclusion, TransferBatch
from hf_transfer.rules.rule import MOST_LABELS
from tests.models import tiny_bert


NAMES = {"label2id": {"cat": 0, "dog": 1, "animal": 2}, "id2label": {0: "cat", 1: "dog", 2: "animal"}}
NOTHING = TransferBatch(features=torch.zeros(1, 4))


def spec_of(**options) -> ModelSpec:
    return ModelSpec(feature_dim=16, num_labels=3, model=tiny_bert(**NAMES, **options))


def holds(rule, count: int) -> dict[tuple[int, ...], bool]:
    """For each set of labels, whether all factors of a rule are true there."""
    factors = rule.label_truths(NOTHING, torch.full((1, count), 0.5))
    result = {}
    for state in itertools.product((0, 1), repeat=count):
        truths = [f.truths[sum(state[label] << bit for bit, label in enumerate(f.labels))].item() for f in factors]
        assert set(truths) <= {0.0, 1.0}
        result[state] = all(truths)
    return result


@pytest.mark.parametrize(
    "parents", [{"cat": "animal", "dog": "animal"}, {0: 2, "dog": 2}, {"cat": ["animal"], 1: [2]}]
)
def test_hierarchy(parents):
    rule = LabelHierarchy(parents).build(spec_of(problem_type="multi_label_classification"))
    for (cat, dog, animal), truth in holds(rule, 3).items():
        assert truth == ((not cat or bool(animal)) and (not dog or bool(animal)))


def test_several_parents():
    rule = LabelHierarchy({0: [1, 2]}).build(spec_of())
    for (child, first, second), truth in holds(rule, 3).items():
        assert truth == (not child or bool(first and second))


def test_exclusion():
    rule = MutualExclusion([["cat", "dog", 2]], confidence=0.5).build(spec_of())
    assert rule.confidence == 0.5
    for state, truth in holds(rule, 3).items():
        assert truth == (sum(state) <= 1)


def test_two_groups_are_apart():
    spec = ModelSpec(feature_dim=4, num_labels=4)
    for (a, b, c, d), truth in holds(MutualExclusion([[0, 1], [3, 2]]).build(spec), 4).items():
        assert truth == (a + b <= 1 and c + d <= 1)


def test_a_large_group_is_taken_in_pairs():
    count = MOST_LABELS + 1
    rule = MutualExclusion([list(range(count))]).build(ModelSpec(feature_dim=4, num_labels=count))
    factors = rule.label_truths(NOTHING, torch.full((1, count), 0.5))
    assert len(factors) == count * (count - 1) // 2
    assert all(factor.truths.tolist() == [1, 1, 1, 0] for factor in factors)


RULES = [MutualExclusion([[0, 1]]), LabelHierarchy({0: 1})]


@pytest.mark.parametrize("rule", RULES)
def test_one_class_a_row_is_refused(rule):
    message = f"`{type(rule).__name__}` on a model that gives one class a row.*exclude.*Load the model with"
    with pytest.raises(ValueError, match=message):
        rule.build(spec_of(problem_type="single_label_classification"))
    with pytest.raises(ValueError, match=message):  # where the model does not say, at the first batch
        rule.build(spec_of()).class_truths(NOTHING, torch.full((1, 3), 0.3))


@pytest.mark.parametrize("groups", [[], [["cat"]], [["cat", "cat"]], ["cat", "dog"], [["cat", "dog"], []]])
def test_groups_that_exclude_nothing(groups):
    with pytest.raises(ValueError, match="labels exclude others, never themselves.*Give lists of two or more"):
        MutualExclusion(groups)


@pytest.mark.parametrize("parents", [{}, {"cat": "cat"}, {"cat": []}])
def test_hierarchies_that_imply_nothing(parents):
    with pytest.raises(ValueError, match="no implication between two labels.*Give child and parent"):
        LabelHierarchy(parents)


@pytest.mark.parametrize("rule", [MutualExclusion([["cat", "cow"]]), LabelHierarchy({"cow": "animal"})])
def test_unknown_names(rule):
    with pytest.raises(ValueError, match="speaks of label 'cow'"):
        rule.build(spec_of())
