"""A teacher that knows nothing is noticed, one that knows is not accused."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_transfer import Teacher, attach
from hf_transfer.teacher.inspection import judge, spread_batches
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.teacher.test_teacher import Features, Squared


@pytest.fixture
def told(caplog, monkeypatch):
    """What the package logs, from `info` on."""
    logger = logging.getLogger("hf_transfer.teacher.inspection")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    caplog.set_level(logging.INFO, logger=logger.name)
    return caplog


def inspected(teacher, student, batches):
    objective = Squared(teacher)
    attach(student, [objective])
    objective.inspect(student, batches)
    return objective


def batches_of(student, teacher, *, right: bool, count=8, values=None):
    found = []
    for seed in range(count):
        batch = batch_for(student, 8, seed=seed)
        batch.pop("domain")
        if right:
            with torch.no_grad():
                logits = teacher(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
            batch["labels"] = logits.argmax(-1) if values is None else values(logits)
        found.append(batch)
    return found


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert])
def test_an_untrained_head_is_noticed_and_a_trained_one_is_not(make, told):
    torch.manual_seed(0)
    teacher, student = make().eval(), make()
    torch.nn.init.normal_(teacher.classifier.weight, std=3.0)
    inspected(teacher, student, batches_of(student, teacher, right=True))
    assert [record.levelname for record in told.records] == ["INFO"] and "right for 100.0%" in told.text
    told.clear()
    objective = inspected(teacher, make(), batches_of(student, teacher, right=False))
    assert [record.levelname for record in told.records] == ["WARNING"]
    assert "always answering the most frequent class is for" in told.text and "it is no better" in told.text
    told.clear()
    objective.inspect(student, batches_of(student, teacher, right=False))
    assert not told.records, "once"


def test_draws_no_random_number_and_needs_labels(told):
    student, teacher = tiny_bert(), tiny_bert()
    batches = batches_of(student, teacher, right=False)
    objective = Squared(teacher)
    attach(student, [objective])
    state = torch.get_rng_state()
    objective.inspect(student, batches)
    assert torch.equal(torch.get_rng_state(), state) and told.records
    told.clear()
    for batch in batches:
        batch["labels"] = torch.full_like(batch["labels"], -100)
    inspected(teacher, tiny_bert(), batches)
    inspected(teacher, tiny_bert(), [{"input_ids": batches[0]["input_ids"]}])
    assert not told.records
    features = Features(teacher)
    attach(tiny_bert(), [features])
    features.inspect(student, batches_of(student, teacher, right=False))
    assert not told.records, "the head is of no matter to features"


def test_each_of_several_is_looked_at(told):
    good, bad, student = tiny_bert().eval(), tiny_bert().eval(), tiny_bert()
    torch.nn.init.normal_(good.classifier.weight, std=3.0)
    torch.nn.init.zeros_(bad.classifier.weight)
    inspected(Teacher([good, bad]), student, batches_of(student, good, right=True))
    assert sorted(record.levelname for record in told.records) == ["INFO", "WARNING"]


def test_several_labels_a_row_and_values(told):
    multi = {"problem_type": "multi_label_classification"}
    teacher, student = tiny_bert(**multi).eval(), tiny_bert(**multi)
    torch.nn.init.normal_(teacher.classifier.weight, std=3.0)
    inspected(teacher, student, batches_of(student, teacher, right=True, values=lambda z: (z > 0).float()))
    teacher, student = tiny_bert(num_labels=1).eval(), tiny_bert(num_labels=1)
    torch.nn.init.normal_(teacher.classifier.weight)
    inspected(teacher, student, batches_of(student, teacher, right=True, values=lambda z: z.squeeze(-1)))
    assert [record.levelname for record in told.records] == ["INFO", "INFO"] and "R^2 = 1.000" in told.text
    told.clear()
    wrong = batches_of(student, teacher, right=True, values=lambda z: -5 - z.squeeze(-1))
    inspected(teacher, tiny_bert(num_labels=1), wrong)
    assert "R^2 = -" in told.text and told.records[0].levelname == "WARNING"


def binomial_tail(right, count, rate):
    return sum(math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(right, count + 1))


@pytest.mark.parametrize("right", [20, 25, 26, 27, 28, 35, 40])
def test_the_verdict_is_a_binomial_test(right):
    labels = torch.tensor([0] * 20 + [1] * 20)
    answers = labels.clone()
    answers[right:] = 2
    verdict = judge(answers, labels)
    assert verdict.score == right / 40 and verdict.constant == 0.5
    assert verdict.knows is (binomial_tail(right, 40, 0.5) < 0.05)


def test_nothing_is_concluded_of_a_few_rows_or_of_one_class():
    assert judge(torch.zeros(19, dtype=torch.long), torch.arange(19) % 2).knows is None
    assert judge(torch.zeros(50, dtype=torch.long), torch.zeros(50, dtype=torch.long)).knows is None
    assert judge(torch.zeros(50, dtype=torch.long), torch.full((50,), -100)).rows == 0
    assert judge(torch.ones(30), torch.ones(30)).knows is None  # a constant value
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-100.0, 0.0]] * 10)
    verdict = judge(torch.ones(30, 2, dtype=torch.long), labels)
    assert verdict.rows == 50 and verdict.score == 30 / 50 and verdict.constant == 40 / 50


def test_rows_are_taken_from_all_of_sorted_data_and_only_labelled_ones():
    labels = [0] * 500 + [1] * 500 + [-100] * 1000
    data = Dataset.from_dict({"labels": labels, "number": list(range(2000))})
    seen = []
    loader = DataLoader(data, batch_size=50, collate_fn=lambda rows: {"n": torch.tensor([r["number"] for r in rows])})
    for batch in spread_batches(loader):
        seen += batch["n"].tolist()
    assert len(seen) == 256 and seen == sorted(seen) and max(seen) == 999
    assert 120 < sum(number < 500 for number in seen) < 136
    assert len(list(spread_batches([{"labels": torch.zeros(100)}] * 9))) == 3
