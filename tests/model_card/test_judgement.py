"""What the figures allow to say, and nothing else."""

from __future__ import annotations

import pytest

from hf_transfer.model_card import Baseline, DataFacts, RunFacts, Score
from hf_transfer.model_card.judgement import FEW, limits_of, verdict, verdicts


def compared(difference, interval=None, metric="accuracy", split="target"):
    return verdict(Baseline("source_only", Score(metric, 0.8, split), difference, interval), "dann")


@pytest.mark.parametrize(
    "difference, interval, said",
    [
        (
            0.1,
            (0.05, 0.15),
            "By target accuracy dann is 0.100 better than `source_only` (95% interval 0.050 to 0.150).",
        ),
        (0.1, (-0.05, 0.25), "dann is not told from `source_only`: the difference is +0.100"),
        (-0.1, (-0.25, 0.05), "dann is not told from `source_only`: the difference is -0.100"),
        (-0.1, (-0.15, -0.05), "Negative transfer: by target accuracy dann is 0.100 worse than `source_only`"),
        (0.1, None, "dann is 0.100 better than `source_only` in one run each; another seed may say otherwise."),
        (
            -0.1,
            None,
            "Possibly negative transfer: by target accuracy dann is 0.100 worse than `source_only` in one run",
        ),
        (0.0, None, "Possibly negative transfer: by target accuracy dann is no better than `source_only`"),
    ],
)
def test_verdict_follows_from_difference_and_interval(difference, interval, said):
    assert said in compared(difference, interval)


def test_for_errors_less_is_better():
    assert "better" in compared(-0.1, (-0.15, -0.05), metric="mse")
    assert compared(0.1, (0.05, 0.15), metric="mse").startswith("Negative transfer")
    assert "worse" in compared(0.1, metric="loss")


def test_interval_that_touches_zero_is_no_win():
    assert "is not told" in compared(0.1, (0.0, 0.2))


def test_bounds_are_not_competitors():
    worse = Baseline("teacher", Score("accuracy", 0.9), -0.2, (-0.3, -0.1), reference=True)
    assert verdicts(RunFacts(baselines=[worse])) == []


def test_no_difference_no_sentence():
    assert verdicts(RunFacts(baselines=[Baseline("alone", Score("accuracy", 0.9))])) == []


def facts(**changes):
    defaults = {
        "task": "text-classification",
        "label_names": ["no", "yes"],
        "data": [DataFacts("mine", splits={"train": 2 * FEW, "test": 50})],
        "scores": [Score("accuracy", 0.9)],
        "seeds": [0, 1],
    }
    return RunFacts(**{**defaults, **changes})


def said(text, **changes):
    return any(text in sentence for sentence in limits_of(facts(**changes)))


def test_few_labels_are_told():
    assert not said("labelled examples")
    assert said("2 classes from 20 labelled examples, about 10 of each", data=[DataFacts("a", splits={"train": 20})])


def test_rows_whose_labels_were_not_used_do_not_count():
    data = [DataFacts("a", splits={"train": 20}), DataFacts("b", splits={"train": 900}, labels_used=False)]
    assert said("from 20 labelled examples", data=data)


def test_tokens_are_not_counted_by_rows():
    assert not said("labelled examples", task="token-classification", data=[DataFacts("a", splits={"train": 20})])


def test_one_seed_is_told():
    assert said("one seed", seeds=[0]) and not said("one seed") and not said("one seed", seeds=[0], scores=[])


def test_scores_by_validation_rows_are_told():
    assert said("no test rows", scores=[Score("accuracy", 0.9, "eval")]) and not said("no test rows")


def test_batch_norm_is_told():
    assert said("BatchNorm", running_statistics=True) and not said("BatchNorm", running_statistics=False)


def test_of_nothing_nothing_is_said():
    assert limits_of(RunFacts()) == []


def test_given_limits_come_last():
    assert limits_of(facts(limits=["Mine."]))[-1] == "Mine."
