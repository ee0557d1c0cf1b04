"""Rules as terms: against formulas written out, for rows and tokens, in a training, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset

from hf_transfer import (
    LabelHierarchy,
    ModelSpec,
    MutualExclusion,
    Rule,
    RuleConstraint,
    TransferArguments,
    TransferBatch,
    TransferTrainer,
    attach,
    rules,
)
from hf_transfer.rules import implies, negate
from hf_transfer.schedules import linear
from tests.models import batch_for, lora, tiny_bert, tiny_token_bert, tiny_vit


NAME = "rule_constraint"
SEVERAL = {"problem_type": "multi_label_classification"}


def first(inputs, probabilities):
    return probabilities[..., 0]


def not_last(inputs, probabilities):
    return negate(probabilities[..., -1])


def batch_of(logits, labels=None, mask=None, **fields) -> TransferBatch:
    labels = torch.full(logits.shape[:-1], -100) if labels is None else labels
    features = torch.zeros(*logits.shape[:-1], 4)
    return TransferBatch(features=features, logits=logits, labels=labels, attention_mask=mask, **fields)


def built(given, classes=3, **options) -> RuleConstraint:
    return RuleConstraint(given, **options).build(ModelSpec(feature_dim=4, num_labels=classes))


def several(logits, **fields) -> TransferBatch:
    return batch_of(logits, labels=torch.zeros_like(logits), **fields)


def projected(p, violations, strength):
    raw = [a * math.exp(-strength * v) for a, v in zip(p, violations, strict=True)]
    return [value / sum(raw) for value in raw]


def divergence(q, p):
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True) if a > 0)


def test_value_written_out():
    logits = torch.randn(5, 3, dtype=torch.float64)
    objective = built([Rule(first, confidence=0.5), not_last], strength=2.0)
    expected = 0.0
    for p in logits.softmax(-1).tolist():
        expected += divergence(projected(p, [0.0, 0.5, 0.5 + 1.0], 2.0), p) / 5
    assert objective(batch_of(logits)).item() == pytest.approx(expected, rel=1e-9) and expected > 0.01


def test_penalty_written_out():
    logits = torch.randn(5, 3, dtype=torch.float64)
    objective = built([Rule(first, confidence=0.5), not_last], form="penalty")
    p = logits.softmax(-1)
    expected = (0.5 * (1 - p[:, 0]) + p[:, 2]).mean()
    assert objective(batch_of(logits)).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("strength", [1.0, 6.0, math.inf])
def test_gradient_is_that_of_the_teacher(strength):
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    built([first], strength=strength)(batch_of(logits)).backward()
    for row in range(4):
        p = logits[row].detach().softmax(-1).tolist()
        q = projected(p, [0.0, 1.0, 1.0], min(strength, 700))
        expected = [(a - b) / 4 for a, b in zip(p, q, strict=True)]
        assert logits.grad[row].tolist() == pytest.approx(expected, abs=1e-12)


def test_rules_of_the_inputs_hold_for_the_rows_they_speak_of():
    def short_is_first(inputs, probabilities):
        return implies(inputs["attention_mask"].sum(1) < 3, probabilities[:, 0])

    logits = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    built([short_is_first])(batch_of(logits, inputs={"attention_mask": mask})).backward()
    assert logits.grad[0, 0] < 0 and not logits.grad[1].any()


def test_labelled_rows_count_like_the_others():
    logits = torch.randn(4, 3)
    objective = built([first])
    values = {objective(batch_of(logits, labels)).item() for labels in (None, torch.tensor([0, 1, 2, -100]))}
    assert len(values) == 1


def test_strength_may_be_a_schedule():
    logits = torch.randn(4, 3)
    objective = built([first], strength=linear(0.0, 4.0))
    for progress in (0.0, 0.5, 1.0):
        value = objective(batch_of(logits, progress=torch.tensor(progress)))
        assert value.item() == pytest.approx(built([first], strength=4 * progress)(batch_of(logits)).item(), abs=1e-6)


def test_tokens_are_rows_and_padding_is_left_out():
    logits = torch.randn(2, 4, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    value = built([first])(batch_of(logits, mask=mask))
    counted = torch.cat([logits[0], logits[1, :2]])
    assert value.item() == pytest.approx(built([first])(batch_of(counted)).item(), rel=1e-9)


def test_the_violation_of_each_rule_is_told():
    logits = torch.randn(3, 3)
    objective = built([first, not_last, first])
    objective(batch_of(logits))
    p = logits.softmax(-1)
    assert set(objective.diagnostics) == {"broken_first", "broken_not_last", "broken_first_2"}
    assert objective.diagnostics["broken_first"].item() == pytest.approx((1 - p[:, 0]).mean().item(), rel=1e-5)
    assert objective.diagnostics["broken_not_last"].item() == pytest.approx(p[:, 2].mean().item(), rel=1e-5)


# In a training


def test_columns_reach_the_rules_and_not_the_model():
    def loud_is_first(inputs, probabilities):
        return implies(inputs["loud"], probabilities[:, 0])

    model = tiny_bert().train()
    rule = Rule(loud_is_first, columns=["loud"])
    with attach(model, [RuleConstraint([rule])]) as attachment:
        model(**batch_for(model), loud=torch.ones(4))
        assert attachment.terms[NAME] > 0
        model(**batch_for(model), loud=torch.zeros(4))
        assert attachment.terms[NAME] == 0
        with pytest.raises(ValueError, match="RuleConstraint needs column `loud`"):
            model(**batch_for(model))


def test_in_the_trainer_with_lora(tmp_path):
    model = lora(tiny_bert(), ["query"], "classifier")
    inputs = batch_for(model, 8, labelled=False)
    data = Dataset.from_dict({**{k: v.tolist() for k, v in inputs.items() if k != "domain"}, "loud": [1.0] * 8})
    rule = Rule(lambda inputs, p: implies(inputs["loud"], p[:, 0]), name="loud", columns=["loud"])
    options = {"report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    args = TransferArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.05,
        logging_steps=1,
        **options,
    )
    trainer = TransferTrainer(model, args=args, train_dataset=data, objectives=[RuleConstraint([rule])])
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if f"loss_{NAME}" in entry]
    broken = [entry[f"{NAME}_broken_loud"] for entry in logs]
    assert len(logs) == 4 and broken[-1] < broken[0]


def test_a_thousand_degenerate_batches():
    generator = torch.Generator().manual_seed(0)

    def draw(*choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    one = [first, not_last, lambda inputs, p: 0 * p[..., 0], lambda inputs, p: p.amax(-1)]
    many = [LabelHierarchy({0: 1}), MutualExclusion([[0, 1, 2]]), MutualExclusion([[1, 2]])]
    for _ in range(1000):
        kind = draw("rows", "tokens", "labels")
        given = [draw(*(many if kind == "labels" else one)) for _ in range(draw(1, 2))]
        objective = built(given, strength=draw(0.0, 6.0, 1e4, 1e30, math.inf), form=draw("projection", "penalty"))
        shape = (draw(1, 2, 3), draw(1, 2), 3) if kind == "tokens" else (draw(1, 2, 3), 3)
        logits = (draw(0.0, 1.0, 1e4) * torch.randn(shape, generator=generator)).requires_grad_()
        if kind == "labels":
            batch = several(logits)
        elif kind == "tokens":
            batch = batch_of(logits, mask=torch.randint(0, 2, shape[:2], generator=generator))
        else:
            batch = batch_of(logits)
        value = objective(batch)
        value.backward()
        assert value.isfinite() and value > -1e-5 and logits.grad.isfinite().all()
        if kind == "tokens" and not batch.attention_mask.any():
            assert value == 0 and not logits.grad.any()


def test_no_labels_to_tell_apart_is_an_exact_zero_with_a_graph():
    logits = torch.randn(3, 4, requires_grad=True)
    value = built([lambda inputs, p: 0.3 * torch.ones(3)], 4)(batch_of(logits))
    value.backward()
    assert value.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_exported_from_both_places():
    assert rules.RuleConstraint is RuleConstraint and set(rules.__all__) <= set(dir(rules)) | {"RuleConstraint"}
    with pytest.raises(AttributeError, match="no attribute `Nothing`"):
        _ = rules.Nothing


# Refused


def test_a_single_rule_needs_no_list():
    assert [rule.name for rule in RuleConstraint(first).rules] == ["first"]


def test_no_rule():
    with pytest.raises(ValueError, match=r"RuleConstraint\(\[\]\)` has no rule.*nothing to hold.*Give functions"):
        RuleConstraint([])


def test_what_is_no_rule():
    with pytest.raises(TypeError, match="has no function"):
        RuleConstraint(["positive"])


@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_a_strength_that_draws_away(strength):
    with pytest.raises(ValueError, match="`strength=.*` is negative.*Give a positive number"):
        RuleConstraint([first], strength=strength)


def test_an_unknown_form():
    with pytest.raises(ValueError, match="`form='hard'` is unknown.*Give `projection`"):
        RuleConstraint([first], form="hard")


def test_a_regression():
    with pytest.raises(ValueError, match="RuleConstraint on a regression.*a number has none.*Leave it out"):
        attach(tiny_bert(num_labels=1), [RuleConstraint([first])])


def test_a_label_that_the_model_does_not_have():
    with pytest.raises(ValueError, match="`label_hierarchy` speaks of label 7; the model has 3"):
        attach(tiny_bert(**SEVERAL), [RuleConstraint([LabelHierarchy({7: 0})])])


def test_label_rules_on_one_class_a_row():
    model = tiny_vit().train()
    attach(model, [RuleConstraint([MutualExclusion([[0, 1]])])])
    with pytest.raises(ValueError, match="`MutualExclusion` on a model that gives one class a row"):
        model(**batch_for(model))


def test_truths_out_of_range_at_the_first_batch():
    model = tiny_token_bert().train()
    attach(model, [RuleConstraint([Rule(lambda inputs, p: 2 * p[..., 0], name="twice")])])
    with pytest.raises(ValueError, match="`twice` has truth values from 0 to 2"):
        model(**batch_for(model))


def test_class_truths_of_another_shape():
    class Odd(Rule):
        def class_truths(self, batch, probabilities):
            return probabilities[:, :2]

    with pytest.raises(
        ValueError, match=r"`class_truths` of rule `Odd` has shape \(2, 2\).*Return one for each class"
    ):
        built([Odd()])(batch_of(torch.zeros(2, 3)))
