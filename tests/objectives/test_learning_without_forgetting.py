"""LwF against the divergence written out, what trains and what is saved, and which sources are refused."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from hf_transfer import ModelSpec, TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.checkpoint import OBJECTIVES_NAME
from hf_transfer.objectives.regularization.learning_without_forgetting import LearningWithoutForgetting
from hf_transfer.source import Source
from tests.invariants.run import rows
from tests.models import TINY, batch_for, bert_config, lora, tiny_bert, tiny_token_bert


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SOURCE_CLASSES = 5


def softmax(values, temperature):
    total = sum(math.exp(value / temperature) for value in values)
    return [math.exp(value / temperature) / total for value in values]


def source_and_student(**options):
    return tiny_bert(num_labels=SOURCE_CLASSES, **options).eval(), tiny_bert(**options).train()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_against_the_divergence_written_out(temperature):
    source, student = source_and_student(**QUIET)
    objective = LearningWithoutForgetting(source, temperature=temperature)
    attachment = attach(student, [objective])
    torch.nn.init.normal_(objective.source_head.weight, std=0.3)
    batch = batch_for(student)
    student(**batch)
    with torch.no_grad():
        then = source(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
        pooled = student.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        now = (pooled @ objective.source_head.weight.T + objective.source_head.bias).double()
    expected = 0.0
    for row in range(4):
        p, q = softmax(then[row].tolist(), temperature), softmax(now[row].tolist(), temperature)
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    term = attachment.terms["learning_without_forgetting"]
    assert term.item() == pytest.approx(temperature**2 * expected / 4, rel=1e-4) and term.item() > 1e-3


@pytest.mark.parametrize("kind", TINY)
def test_is_zero_when_the_student_is_the_source(kind):
    student = TINY[kind]().eval()
    objective = LearningWithoutForgetting(student)
    attachment = attach(student, [objective])
    student.training = True  # objectives run; dropout and BatchNorm stay in evaluation mode
    student(**batch_for(student))
    assert attachment.terms["learning_without_forgetting"].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("adapted", [False, True])
def test_only_the_student_and_the_head_get_a_gradient(kind, adapted):
    source = TINY[kind]()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    student = TINY[kind]()
    if adapted:
        targets = r".*(query|q_proj|c_attn|convolution)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    objective = LearningWithoutForgetting(source)
    attach(student.train(), [objective])
    student(**batch_for(student, labelled=False)).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.source_head.parameters())
    trained = [p for n, p in student.named_parameters() if p.requires_grad and "transfer_objectives" not in n]
    assert any(p.grad is not None and p.grad.any() for p in trained), "nothing reaches the student"
    held = objective.source.model
    assert all(p.grad is None for p in (*source.parameters(), *held.parameters()))
    for name, value in held.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, before[name]), name


def test_gradient_with_respect_to_the_features_in_float64():
    source = tiny_bert(**QUIET)
    objective = LearningWithoutForgetting(source).build(ModelSpec(feature_dim=16, num_labels=3)).double()
    inputs = {"input_ids": torch.randint(1, 50, (3, 4))}
    features = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    head = objective.source_head

    def term(features):
        return objective(TransferBatch(features=features, inputs=inputs))

    assert torch.autograd.gradcheck(term, features)
    (gradient,) = torch.autograd.grad(term(features), head.weight)
    p, q = (torch.softmax(z / 2, -1) for z in (objective.source(inputs).logits.double(), head(features).detach()))
    torch.testing.assert_close(gradient, 2 * (q - p).T @ features.detach() / 3)


def test_padded_tokens_do_not_count():
    source, student = tiny_token_bert(num_labels=SOURCE_CLASSES).eval(), tiny_token_bert(**QUIET).train()
    objective = LearningWithoutForgetting(source)
    attachment = attach(student, [objective])
    batch = batch_for(student)
    student(**batch)
    first = attachment.terms["learning_without_forgetting"].item()
    with torch.no_grad():  # what pad tokens look like changes nothing
        for model in (student, objective.source.model):
            model.bert.embeddings.word_embeddings.weight[0] += 5
    student(**batch)
    assert attachment.terms["learning_without_forgetting"].item() == pytest.approx(first, rel=1e-5) and first > 0


def test_no_token_that_counts_is_an_exact_zero_with_a_graph():
    source = tiny_token_bert()
    objective = LearningWithoutForgetting(source).build(ModelSpec(feature_dim=16, num_labels=3))
    features = torch.randn(2, 4, 16, requires_grad=True)
    batch = TransferBatch(
        features=features,
        attention_mask=torch.zeros(2, 4, dtype=torch.long),
        inputs={"input_ids": torch.ones(2, 4, dtype=torch.long)},
    )
    value = objective(batch)
    value.backward()
    assert value.item() == 0 and not features.grad.any()
    assert objective.source_head.weight.grad is not None and not objective.source_head.weight.grad.any()


def test_several_labels_a_row_are_a_yes_or_no_each():
    source = tiny_bert(num_labels=1, problem_type="multi_label_classification", **QUIET).eval()
    student = tiny_bert(**QUIET).train()
    objective = LearningWithoutForgetting(source, temperature=1.0)
    attachment = attach(student, [objective])
    torch.nn.init.normal_(objective.source_head.weight, std=1.0)
    batch = batch_for(student)
    student(**batch)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        p = torch.sigmoid(source(**inputs).logits).double()
        q = torch.sigmoid(objective.source_head(student.bert(**inputs).pooler_output)).double()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1).mean()
    assert attachment.terms["learning_without_forgetting"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_descending_it_alone_brings_back_what_was_forgotten():
    source = tiny_bert(num_labels=SOURCE_CLASSES).eval()
    torch.nn.init.normal_(source.classifier.weight)
    student = tiny_bert(num_labels=SOURCE_CLASSES, **QUIET)
    student.load_state_dict(source.state_dict())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    objective = LearningWithoutForgetting(source)
    attachment = attach(student.train(), [objective])
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    batch, values = batch_for(student, 8, labelled=False), []
    for _ in range(15):
        student(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["learning_without_forgetting"].item())
    assert values[-1] < 0.2 * values[0]


def test_the_source_is_in_no_checkpoint_and_the_head_in_the_objectives_own(tmp_path):
    source, student = source_and_student(**QUIET)
    args = TransferArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    objective = LearningWithoutForgetting(source)
    trainer = TransferTrainer(student, args, objectives=[objective], train_dataset=rows(8, 0, True, False))
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    saved = load_file(checkpoint / OBJECTIVES_NAME)
    prefix = "learning_without_forgetting.source_head"
    assert set(saved) == {f"{prefix}.weight", f"{prefix}.bias"}
    assert not torch.equal(saved[f"{prefix}.weight"], source.classifier.weight), "the head does not train"
    assert set(load_file(checkpoint / "model.safetensors")) == set(tiny_bert().state_dict())
    assert not [name for name, _ in student.named_modules() if ".source." in name or name.endswith(".source")]
    for name, value in objective.source.model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


def test_state_round_trip():
    source, student = source_and_student()
    first, second = LearningWithoutForgetting(source), LearningWithoutForgetting(source)
    spec = ModelSpec(feature_dim=16, num_labels=3)
    torch.nn.init.ones_(first.build(spec).source_head.weight)
    second.build(spec).load_state_dict(first.state_dict())
    assert torch.equal(second.source_head.weight, first.source_head.weight)
    assert second.build(spec).source_head.weight.equal(source.classifier.weight), "built anew for another model"


def test_describes_itself():
    objective = LearningWithoutForgetting(tiny_bert(), temperature=3.0)
    assert LearningWithoutForgetting(**objective.config()).config() == objective.config()
    assert "Source(BertForSequenceClassification)" in repr(objective)


# what is refused


def test_a_source_without_a_head_is_refused():
    with pytest.raises(ValueError, match=r"Source\(BertModel\) has no classification head.*Give the checkpoint"):
        LearningWithoutForgetting(BertModel(bert_config()))


@pytest.mark.parametrize("options", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "regression"}])
def test_a_regression_is_refused(options):
    with pytest.raises(ValueError, match="is a regression.*no distribution.*Give a classifier.*DELTA"):
        LearningWithoutForgetting(tiny_bert(**options))


def test_another_width_is_refused():
    source = tiny_bert(hidden_size=32)
    with pytest.raises(ValueError, match="features 32 wide.*16 wide.*same architecture"):
        attach(tiny_bert(), [LearningWithoutForgetting(source)])


@pytest.mark.parametrize("makes", [(tiny_bert, tiny_token_bert), (tiny_token_bert, tiny_bert)])
def test_tokens_and_examples_do_not_mix(makes):
    source, student = (make() for make in makes)
    attach(student.train(), [LearningWithoutForgetting(Source(source))])
    with pytest.raises(ValueError, match="predictions of shape.*one classifies tokens.*same kind of task"):
        student(**batch_for(student))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"`temperature={temperature}` is not positive.*divided.*Give a positive"):
        LearningWithoutForgetting(tiny_bert(), temperature=temperature)
