"""Several teachers: each aligned by itself, then combined; only predictions can be."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
import torch

from hf_transfer import ModelSpec, Teacher, TransferBatch, attach
from hf_transfer.teacher.several import SeveralTeachers
from tests.models import VOCABULARY, batch_for, tiny_bert, tiny_causal_llama, tiny_token_bert
from tests.teacher.test_labels import named, spec_of
from tests.teacher.test_teacher import Features, Squared, batch_of


def said(model, batch):
    with torch.no_grad():
        return model.eval()(**batch.inputs).logits


def test_the_weighted_mean_in_the_order_of_the_student():
    first, second, student = named("a", "b", "c"), named("c", "a", "b"), named("b", "a", "c")
    teacher = Teacher([first, Teacher(second)], weights=[3, 1])
    assert isinstance(teacher, SeveralTeachers) and teacher.weights == (0.75, 0.25)
    teacher.bind(spec_of(student), logits=True)
    batch = batch_of(student)
    expected = 0.75 * said(first, batch)[:, [1, 0, 2]] + 0.25 * said(second, batch)[:, [2, 1, 0]]
    torch.testing.assert_close(teacher(batch).logits, expected)
    own = teacher._run(batch).logits  # what a cache stores: in the order of the first
    torch.testing.assert_close(own[:, [1, 0, 2]], expected)
    stored = TransferBatch(features=batch.features, columns={"teacher_logits": own})
    torch.testing.assert_close(teacher(stored).logits, expected)


@pytest.mark.parametrize("make", [tiny_bert, tiny_token_bert])
def test_the_best_for_each_row(make):
    first, second, student = make(), make(), make()
    for model in (first, second):
        torch.nn.init.normal_(model.classifier.weight, std=3.0)
    objective = Squared([first, second])
    objective.teacher.combine = "best"
    attachment = attach(student.eval(), [objective])
    student.training = True
    batch = batch_for(student)
    batch["labels"][0] = -100
    logits = student(**batch).logits.detach()
    inputs = TransferBatch(features=torch.zeros(4, 1), inputs={n: batch[n] for n in ("input_ids", "attention_mask")})
    log_p = torch.stack([said(first, inputs), said(second, inputs)]).log_softmax(-1)
    expected, both = torch.zeros_like(logits), torch.stack([said(first, inputs), said(second, inputs)])
    chosen = set()
    for at in itertools.product(*map(range, logits.shape[:-1])):
        label = int(batch["labels"][at])
        losses = [-float(p[at][label]) if label != -100 else -float((p[at].exp() * p[at]).sum()) for p in log_p]
        best = losses.index(min(losses))
        chosen.add(best)
        expected[at] = both[best][at]
    assert chosen == {0, 1}, "one teacher alone would pass for the best"
    term = attachment.terms["squared"].item()
    assert term == pytest.approx((logits - expected).square().mean().item(), rel=1e-4)


def test_the_best_at_each_token_of_a_causal_model_is_told_by_the_next_token():
    """Objectives see labels that stand beside the logits already: moved again, or not at all, others would be best."""
    models: list[Any] = [tiny_causal_llama().eval() for _ in range(3)]
    teachers, student = models[:2], models[2]
    for model in teachers:
        torch.nn.init.normal_(model.lm_head.weight, std=3.0)
    ids = torch.randint(1, VOCABULARY, (6, 7))
    labels = ids.clone()
    labels[0, :4] = -100  # a prompt
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    objective = Squared(Teacher(teachers, combine="best"))
    with attach(student, [objective]) as attachment:
        student.training = True
        logits = student(**batch).logits.detach()
        term = attachment.terms["squared"].item()
    with torch.no_grad():
        both = torch.stack([model(input_ids=ids).logits for model in teachers])

    def best(shift: int) -> torch.Tensor:
        """Of every place the teacher with the lowest loss on the label so many places behind it."""
        log_p, found = both.double().log_softmax(-1), torch.zeros(6, 7, dtype=torch.long)
        for row, place in itertools.product(range(6), range(7)):
            label = int(labels[row, place + shift]) if place + shift < 7 else -100
            own = log_p[:, row, place]
            scores = -own[:, label] if label != -100 else -(own.exp() * own).sum(-1)
            found[row, place] = scores.argmin()
        return found

    def expected(shift: int) -> float:
        chosen = best(shift)
        taught = torch.where(chosen.unsqueeze(-1) == 0, both[0], both[1])
        return (logits - taught).square().mean().item()

    assert set(best(1).flatten().tolist()) == {0, 1}
    assert term == pytest.approx(expected(1), rel=1e-5)
    assert all(abs(expected(shift) / term - 1) > 1e-3 for shift in (0, 2)), "no other labels would choose otherwise"


def test_only_predictions_can_be_combined():
    teacher = Teacher([tiny_bert(), tiny_bert()])
    with pytest.raises(ValueError, match="asked for features, hidden states.*only their predictions.*one of them"):
        attach(tiny_bert(), [Features(teacher)])
    with pytest.raises(ValueError, match="asked for hidden states or attention maps"):
        teacher.require(hidden_states=["bert.encoder.layer.0"])
    for attribute in ("model", "anatomy", "source"):
        with pytest.raises(ValueError, match="Several teachers were asked for"):
            getattr(teacher, attribute)
    teacher.bind(spec_of(tiny_bert()), logits=True)
    with pytest.raises(ValueError, match="no common features"):
        _ = teacher(batch_of(tiny_bert())).features.shape


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": [1.0]}, "`weights=.*for 2 teachers.*Give one number for each"),
        ({"weights": [1.0, -1.0]}, "not negative"),
        ({"weights": [0.0, 0.0]}, "not all zero"),
        ({"weights": [1.0, float("nan")]}, "`weights="),
        ({"weights": [1.0, 2.0], "combine": "best"}, "the best one counts alone"),
        ({"combine": "median"}, "`combine='median'` is no way"),
    ],
)
def test_what_cannot_be_combined_is_refused(options, said):
    model = tiny_bert()
    with pytest.raises(ValueError, match=said):
        Teacher([model, model], **options)


def test_one_alone_is_refused_and_so_is_a_stored_best():
    with pytest.raises(ValueError, match="A list of 1 teachers.*without a list"):
        Teacher([tiny_bert()])
    best = Teacher([tiny_bert(), tiny_bert()], combine="best")
    with pytest.raises(ValueError, match="The best of several teachers is chosen by the labels"):
        best._run(batch_of(tiny_bert()))


def test_each_must_fit_the_student():
    with pytest.raises(ValueError, match="has no class `c`"):
        Teacher([named("a", "b", "c"), named("a", "b")]).bind(spec_of(named("a", "b", "c")), logits=True)
    teacher = Teacher([tiny_bert(), tiny_bert()], weights=[1, 3])
    told = json.loads(json.dumps(teacher.description()))
    assert told["weights"] == [0.25, 0.75] and len(told["teachers"]) == 2
    assert copy.deepcopy(teacher) is teacher and repr(teacher).startswith("Teacher([Teacher(")
    assert ModelSpec(4, 3) == ModelSpec(4, 3)
