"""KD in a model: against loops for every kind of prediction, its gradient, and that it never falls silent."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hf_transfer import (
    DomainAdversarial,
    LogitDistillation,
    ModelSpec,
    TransferArguments,
    TransferTrainer,
    attach,
    mix_domains,
)
from hf_transfer.teacher import Teacher
from tests.invariants.run import rows
from tests.models import TINY, batch_for, lora, tiny_bert, tiny_gpt2, tiny_resnet, tiny_token_bert, tiny_vit
from tests.objectives.prediction_checks import batch_with, built


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def softmax(values, temperature=1.0):
    total = sum(math.exp(value / temperature) for value in values)
    return [math.exp(value / temperature) / total for value in values]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def opinionated(make, **options):
    """A model that was not initialised to say the same of every row."""
    torch.manual_seed(3)
    model = make(**options).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def term_and_logits(student, teacher, batch, **options):
    """The term of a training forward, and what student and teacher predict, in float64."""
    objective = LogitDistillation(teacher, **options)
    with attach(student.train(), [objective]) as attachment:
        logits = student(**batch).logits.detach()
        term = attachment.terms["logit_distillation"].item()
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "domain")}
    with torch.no_grad():
        return term, logits.double(), teacher(**inputs).logits.double()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_text_against_the_divergence_written_out(temperature):
    teacher, student = opinionated(tiny_bert), tiny_bert(**QUIET)
    batch = batch_for(student, labelled=False)
    term, z, t = term_and_logits(student, teacher, batch, temperature=temperature)
    expected = sum(kl(*(softmax(x[row].tolist(), temperature) for x in (t, z))) for row in range(4)) / 4
    assert term == pytest.approx(temperature**2 * expected, rel=1e-4) and term > 1e-3


def test_squared_error_of_logits():
    teacher, student = opinionated(tiny_bert), tiny_bert(**QUIET)
    term, z, t = term_and_logits(student, teacher, batch_for(student), divergence="mse", temperature=7.0)
    assert term == pytest.approx((z - t).square().sum().item() / 12, rel=1e-4) and term > 1e-3


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_jensen_shannon(beta):
    teacher, student = opinionated(tiny_bert), tiny_bert(**QUIET)
    term, z, t = term_and_logits(student, teacher, batch_for(student), divergence="jsd", beta=beta)
    expected = 0.0
    for row in range(4):
        q, p = (softmax(x[row].tolist(), 2.0) for x in (t, z))
        m = [beta * a + (1 - beta) * b for a, b in zip(q, p, strict=True)]
        mixed = beta * kl(q, m) + (1 - beta) * kl(p, m)
        expected += {0.0: kl(q, p), 1.0: kl(p, q)}.get(beta, mixed)
    assert term == pytest.approx(4 * expected / 4, rel=1e-4) and term > 1e-4


def test_tokens_that_are_padding_do_not_count():
    teacher, student = opinionated(tiny_token_bert), tiny_token_bert(**QUIET)
    batch = batch_for(student)
    batch["labels"][:, 0] = -100  # a token without a label counts all the same
    term, z, t = term_and_logits(student, teacher, batch, temperature=1.0)
    kept = [(row, place) for row in range(4) for place in range(6) if batch["attention_mask"][row, place]]
    expected = sum(kl(softmax(t[i].tolist()), softmax(z[i].tolist())) for i in kept) / len(kept)
    assert len(kept) == 20 and term == pytest.approx(expected, rel=1e-4) and term > 1e-3


@pytest.mark.parametrize("outputs", [1, 3])
def test_several_labels_are_a_sum_of_yes_and_no(outputs):
    kind = {"num_labels": outputs, "problem_type": "multi_label_classification"}
    teacher, student = opinionated(tiny_bert, **kind), tiny_bert(**kind, **QUIET)
    batch = {**batch_for(student), "labels": torch.randint(2, (4, outputs)).float()}
    term, z, t = term_and_logits(student, teacher, batch)
    expected = 0.0
    for q, p in zip(*(torch.sigmoid(x / 2).flatten().tolist() for x in (t, z)), strict=True):
        expected += kl([q, 1 - q], [p, 1 - p])
    assert term == pytest.approx(4 * expected / 4, rel=1e-4) and term > 1e-3


@pytest.mark.parametrize("options", [{"num_labels": 1}, {"num_labels": 2, "problem_type": "regression"}])
@pytest.mark.parametrize("divergence", ["kl", "jsd", "mse"])
def test_a_regression_is_a_squared_error_and_never_a_silent_zero(options, divergence):
    teacher, student = opinionated(tiny_bert, **options), tiny_bert(**options, **QUIET)
    labels = torch.randn(4, options["num_labels"]).squeeze(1)
    batch = {**batch_for(student), "labels": labels}
    term, z, t = term_and_logits(student, teacher, batch, divergence=divergence)
    assert term == pytest.approx((z - t).square().mean().item(), rel=1e-4) and term > 1e-3


def test_a_decoder_that_classifies_texts_has_one_row_a_text():
    teacher, student = opinionated(tiny_gpt2), tiny_gpt2(resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0)
    term, z, t = term_and_logits(student, teacher, batch_for(student), temperature=1.0)
    assert z.shape == (4, 3)
    expected = sum(kl(softmax(t[row].tolist()), softmax(z[row].tolist())) for row in range(4)) / 4
    assert term == pytest.approx(expected, rel=1e-4) and term > 1e-3


@pytest.mark.parametrize("kind", TINY)
def test_is_zero_when_the_student_is_the_teacher(kind):
    student = TINY[kind]().eval()
    objective = LogitDistillation(student)
    attachment = attach(student, [objective])
    student.training = True  # objectives run; dropout and BatchNorm stay in evaluation mode
    student(**batch_for(student))
    assert attachment.terms["logit_distillation"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("adapted", [False, True])
def test_a_gradient_reaches_the_student_and_only_it(kind, adapted):
    """A library that copies the student's logits into a new tensor sends none."""
    teacher, student = opinionated(TINY[kind]), TINY[kind]()
    if adapted:
        targets = r".*(query|q_proj|c_attn|convolution)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    held = Teacher(teacher)
    attach(student.train(), [LogitDistillation(held)])
    student(**batch_for(student, labelled=False)).loss.backward()  # the task loss is an exact zero
    trained = [p for p in student.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.any() for p in trained), "nothing reaches the student"
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
    assert all(p.grad is None for p in (*teacher.parameters(), *held.model.parameters()))


@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_gradient_equals_the_closed_form(temperature):
    logits, teacher = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 4).double()
    objective = built(LogitDistillation, teacher, temperature=temperature)
    objective(batch_with(logits)).backward()
    p, q = (torch.softmax(x.detach() / temperature, -1) for x in (logits, teacher))
    torch.testing.assert_close(logits.grad, temperature * (p - q) / 5)


def test_weight_is_the_usual_share_of_the_task_loss():
    a, temperature = 0.1, 3.0
    teacher, student = opinionated(tiny_bert), tiny_bert(**QUIET).train()
    with attach(student, [LogitDistillation(teacher, temperature=temperature, weight=(1 - a) / a)]) as attachment:
        total = student(**batch_for(student)).loss.item()
        task, term = (attachment.terms[name].item() for name in ("task", "logit_distillation"))
    usual = a * task + (1 - a) * term  # the term has its square of the temperature in it
    assert a * total == pytest.approx(usual, rel=1e-6)


def test_all_rows_unlabelled_is_pure_distillation():
    teacher, student = opinionated(tiny_vit), tiny_vit()
    with attach(student.train(), [LogitDistillation(teacher)]) as attachment:
        loss = student(**batch_for(student, labelled=False)).loss
        assert attachment.terms["task"] == 0 and loss == attachment.terms["logit_distillation"] > 0


def test_follows_the_teacher_without_any_label():
    teacher = opinionated(tiny_resnet)
    student = tiny_resnet(hidden_sizes=[4, 8])
    objective = LogitDistillation(teacher, temperature=1.0)
    attachment = attach(student.train(), [objective])
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    batch, values = batch_for(student, 8, labelled=False), []
    for _ in range(40):
        student(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["logit_distillation"].item())
    assert values[-1] < 0.2 * values[0]


def test_across_domains_with_domain_adaptation_and_adapters(tmp_path):
    """The unlabelled target rows are taught by the teacher while the domains are drawn together."""
    student = lora(tiny_bert(**QUIET), ["query", "value"], "classifier")
    teacher = opinionated(tiny_bert)
    held = Teacher(teacher)
    objective = LogitDistillation(held, rows="unlabelled", domains=(1,))
    args = TransferArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=8,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        save_strategy="no",
    )
    data = mix_domains(rows(16, 0, True, False), rows(16, 1, False, False))
    trainer = TransferTrainer(
        student, args, objectives=[objective, DomainAdversarial(hidden_size=8)], train_dataset=data
    )
    before = {name: value.clone() for name, value in held.model.state_dict().items()}
    trainer.train()
    logged = [entry["loss_logit_distillation"] for entry in trainer.state.log_history if "loss_task" in entry]
    assert len(logged) == 2 and all(value > 1e-4 for value in logged)
    assert all(torch.equal(value, before[name]) for name, value in held.model.state_dict().items())
    assert not [name for name, _ in trainer.model.named_modules() if "teacher" in name]


def test_a_smaller_student_of_another_architecture():
    teacher = opinionated(tiny_bert)
    student = tiny_gpt2().train()
    batch = batch_for(student)
    with attach(student, [LogitDistillation(teacher)]) as attachment:
        student(**batch).loss.backward()
        assert attachment.terms["logit_distillation"] > 0


def test_describes_itself():
    objective = LogitDistillation(tiny_bert(), temperature=3.0, divergence="jsd", domains=[1])
    assert LogitDistillation(**objective.config()).config() == objective.config()
    assert "divergence=jsd" in repr(objective) and "domains=(1,)" in repr(objective)


def test_needs_no_built_model_for_plain_classes():
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    objective = LogitDistillation(BertForSequenceClassification(config)).build(ModelSpec(8, 3))
    batch = batch_with(torch.randn(2, 3), [0, 1])
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
    assert objective(replace(batch, inputs=inputs)) > 0


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_a_beta_outside_its_range_is_refused(beta):
    with pytest.raises(ValueError, match=rf"`beta={beta}` is outside \[0, 1\].*share of the teacher.*Give 0.5"):
        LogitDistillation(tiny_bert(), beta=beta)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="`divergence='js'` is no choice.*Give one of 'kl', 'mse', 'jsd'"):
        LogitDistillation(tiny_bert(), divergence="js")
