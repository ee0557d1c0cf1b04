"""Whether transfer helped: planted gains and losses, class by class, and what is undecided."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.compare.judging.recommending import standing
from hf_transfer.compare.judging.verdicts import FEW_ROWS, class_verdicts, judge
from tests.compare.scored_runs import drawn, planned, right, run


def verdict(shares, **options):
    return judge(standing(planned(shares, **options)))


def test_positive_beats_both():
    found = verdict({"majority": 0.3, "scratch": 0.5, "full": 0.8, "probe": 0.7}, seeds=2)
    assert found.verdict == "positive" and found.against_scratch.decided and found.against_majority.decided
    assert found.sentence.startswith("Transfer helps: full (0.800) beats training from scratch by 0.300, ")
    assert " and the majority class by 0.500, " in found.sentence and "seed" not in found.sentence
    assert verdict({"scratch": 0.5, "full": 0.8}).verdict == "positive"  # no majority class was run


def test_negative_is_worse_than_one():
    found = verdict({"majority": 0.3, "scratch": 0.8, "full": 0.5})
    assert found.verdict == "negative" and found.against_scratch.mean == pytest.approx(-0.3)
    assert found.sentence.startswith("Transfer hurts: full (0.500), the best that starts from a pretrained model, is")
    assert "worse than training from scratch (difference -0.300, " in found.sentence
    assert "majority" not in found.sentence and "One seed was run" in found.sentence
    found = verdict({"majority": 0.8, "scratch": 0.3, "full": 0.5})
    assert found.verdict == "negative" and "worse than the majority class" in found.sentence
    assert "Nothing beats the majority class: no strategy is worth taking." in found.sentence


def test_undecided():
    found = verdict({"majority": 0.3, "scratch": 0.5, "full": 0.51})
    assert found.verdict == "undecided"
    assert "full (0.510) cannot be told from training from scratch (difference 0.010, " in found.sentence
    assert "the majority class" not in found.sentence
    found = verdict({"majority": 0.3, "full": 0.9})
    assert found.verdict == "undecided" and "there is no run from scratch" in found.sentence
    assert found.against_scratch is None and found.classes == []
    found = verdict({"scratch": 0.3})
    assert found.verdict == "undecided" and "no strategy that starts from the pretrained model" in found.sentence


def test_planted_negative_transfer_is_called_negative():
    generator, negative, positive = np.random.default_rng(0), 0, 0
    shares = {"majority": 0.3, "scratch": 0.7, "full": 0.6, "probe": 0.55}
    for table in range(20):
        runs = drawn(generator, shares, seeds=3, rows=400, effect=0.01)
        found = judge(standing(runs, seed=table))
        negative += found.verdict == "negative"
        positive += found.verdict == "positive"
    assert negative >= 19 and positive == 0


def test_no_transfer_is_hardly_ever_called_positive_or_negative():
    generator, called = np.random.default_rng(1), 0
    shares = {"scratch": 0.7, "full": 0.7, "lora": 0.7, "probe": 0.7}
    for table in range(60):
        runs = drawn(generator, shares, seeds=3, rows=100, effect=0.02)
        called += judge(standing(runs, seed=table)).verdict != "undecided"
    assert called <= 8  # of 60 at 5%: more have a probability below 0.01


def test_seeds_that_both_have_are_counted_for_the_warning():
    runs = planned({"scratch": 0.5, "full": 0.8}, seeds=3)
    assert "One seed" not in judge(standing(runs)).sentence
    runs["m", "scratch"] = {1: right(0.5)}
    assert "One seed was run: this is said of these trained models" in judge(standing(runs)).sentence


def by_class(parts, *, labels):
    return {("m", name): {0: run(scores, labels=labels)} for name, scores in parts.items()}


def test_class_by_class():
    labels = np.repeat([0, 1, 2, 3], [40, 40, 40, FEW_ROWS - 1])
    full, scratch = np.ones(len(labels)), np.zeros(len(labels))
    full[40:80], scratch[60:120] = 0, 1  # class 1 loses half, class 2 is right in both
    found = judge(standing(by_class({"full": full, "scratch": scratch}, labels=labels)), label_names=["a", "b", "c"])
    told = [(one.label, one.rows, one.difference.mean, one.verdict) for one in found.classes]
    assert told == [
        ("a", 40, 1.0, "positive"),
        ("b", 40, -0.5, "negative"),
        ("c", 40, 0.0, "undecided"),
        ("3", FEW_ROWS - 1, 1.0, "undecided"),
    ]
    assert found.classes[-1].difference.low is None  # too few to say


def test_rows_of_folds_are_counted_once_each():
    parts = {s: np.arange(20 * s, 20 * s + 20) for s in range(3)}
    labels = np.repeat([0, 1], 10)
    runs = {
        ("m", name): {s: right(share, 20, ids=ids, labels=labels) for s, ids in parts.items()}
        for name, share in (("full", 0.5), ("scratch", 0.0))
    }
    found = class_verdicts(runs, ("m", "full"), ("m", "scratch"))
    assert [(one.label, one.rows, one.difference.mean) for one in found] == [("0", 30, 1.0), ("1", 30, 0.0)]


def test_many_equal_classes_are_hardly_ever_decided():
    generator, wrong = np.random.default_rng(0), 0
    labels = np.arange(300) % 10
    for table in range(40):
        runs = drawn(generator, {"full": 0.7, "scratch": 0.7}, seeds=1, rows=300)
        runs = {key: {0: run(own[0].scores, labels=labels)} for key, own in runs.items()}
        found = class_verdicts(runs, ("m", "full"), ("m", "scratch"), seed=table)
        wrong += any(one.verdict != "undecided" for one in found)
    assert wrong <= 6  # of 40 at 5%: more have a probability below 0.01


def test_tokens_have_no_classes_of_rows():
    assert verdict({"scratch": 0.5, "full": 0.8}).classes == []
