"""Co-Tuning against the cross-entropy and the class means written out, what `fit` learns, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from hf_transfer import ModelSpec, TransferArguments, TransferBatch, TransferTrainer, attach
from hf_transfer.checkpoint import OBJECTIVES_NAME
from hf_transfer.functional.category_relationship import calibration_temperature, reverse_relationship
from hf_transfer.objectives.regularization.co_tuning import CoTuning
from tests.invariants.run import rows
from tests.models import NUM_LABELS, TINY, batch_for, lora, tiny_bert, tiny_token_bert


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SOURCE_CLASSES = 5


def a_source(**options):
    source = tiny_bert(num_labels=SOURCE_CLASSES, **options).eval()
    torch.nn.init.normal_(source.classifier.weight, std=2.0)
    return source


def fitted(source=None, student=None, count=3, **options):
    """A fitted objective attached to a student, and the batches it was fitted on."""
    source = a_source() if source is None else source
    student = tiny_bert(**QUIET).train() if student is None else student
    objective = CoTuning(source, **options)
    attachment = attach(student, [objective])
    batches = [batch_for(student, 8, seed=seed) for seed in range(count)]
    objective.fit(student, batches)
    return objective, student, attachment, batches


def predictions(source, batches):
    with torch.no_grad():
        outputs = [source(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits for b in batches]
    return torch.cat(outputs), torch.cat([batch["labels"] for batch in batches])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_fit_learns_the_mean_calibrated_prediction_of_each_class(temperature):
    source = a_source()
    objective, _, _, batches = fitted(source, temperature=temperature)
    logits, labels = predictions(source, batches)
    for target in range(NUM_LABELS):
        members = [row for row, label in zip(logits.tolist(), labels.tolist(), strict=True) if label == target]
        mean = [0.0] * SOURCE_CLASSES
        for row in members:
            total = sum(math.exp(value / temperature) for value in row)
            for number, value in enumerate(row):
                mean[number] += math.exp(value / temperature) / total / len(members)
        assert objective.relationship[target].tolist() == pytest.approx(mean, rel=1e-5)
    assert objective.relationship.sum(1).tolist() == pytest.approx([1.0] * NUM_LABELS)


def test_fit_in_the_reverse_way():
    source = a_source()
    objective, _, _, batches = fitted(source, relationship_from="reverse")
    logits, labels = predictions(source, batches)
    expected = reverse_relationship(torch.softmax(logits, -1), labels, NUM_LABELS)
    torch.testing.assert_close(objective.relationship, expected)
    assert objective.relationship.sum(1).tolist() == pytest.approx([1.0] * NUM_LABELS)


def test_value_against_the_cross_entropy_written_out():
    objective, student, attachment, batches = fitted()
    batch = {**batches[0], "labels": torch.tensor([0, 2, -100, 1, 1, -100, 0, 2])}
    student(**batch)
    with torch.no_grad():
        pooled = student.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        logits = objective.source_head(pooled).double()
    expected, count = 0.0, 0
    for row, label in enumerate(batch["labels"].tolist()):
        if label != -100:
            total = sum(math.exp(value) for value in logits[row].tolist())
            targets = objective.relationship[label].tolist()
            expected -= sum(p * (v - math.log(total)) for p, v in zip(targets, logits[row].tolist(), strict=True))
            count += 1
    assert attachment.terms["co_tuning"].item() == pytest.approx(expected / count, rel=1e-5)
    assert count == 6


def test_is_the_entropy_of_the_relationship_where_the_head_says_it():
    objective, *_ = fitted()
    row = objective.relationship[0]
    with torch.no_grad():
        objective.source_head.weight.zero_()
        objective.source_head.bias.copy_(row.log())
    batch = TransferBatch(features=torch.randn(4, 16), labels=torch.zeros(4, dtype=torch.long))
    entropy = -(row * row.log()).sum()
    assert objective(batch).item() == pytest.approx(entropy.item(), rel=1e-5)


def test_gradient_in_float64():
    objective, *_ = fitted()
    objective.double()
    labels = torch.tensor([0, 1, -100, 2])
    features = torch.randn(4, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: objective(TransferBatch(features=f, labels=labels)), features)
    value = objective(TransferBatch(features=features, labels=labels))
    gradients = torch.autograd.grad(value, [features, objective.source_head.weight])
    kept = labels != -100
    error = torch.softmax(objective.source_head(features), -1) - objective.relationship[labels.clamp(min=0)]
    error = (error * kept.unsqueeze(1)).detach() / 3
    torch.testing.assert_close(gradients[0], error @ objective.source_head.weight.detach())
    torch.testing.assert_close(gradients[1], error.T @ features.detach())
    assert not gradients[0][2].any()


def test_unlabelled_rows_teach_nothing():
    source = a_source()
    first, *_, batches = fitted(source)
    second = CoTuning(source)
    student = tiny_bert()
    attach(student, [second])
    more = batch_for(student, 8, seed=9)
    second.fit(student, [*batches, {**more, "labels": torch.full((8,), -100)}])
    assert torch.equal(first.relationship, second.relationship)


def test_no_labelled_row_is_an_exact_zero_with_a_graph():
    objective, student, attachment, batches = fitted()
    loss = student(**{**batches[0], "labels": torch.full((8,), -100)}).loss
    assert attachment.terms["co_tuning"].item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in objective.source_head.parameters())


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("adapted", [False, True])
def test_only_the_student_and_the_head_get_a_gradient(kind, adapted):
    source, student = TINY[kind](), TINY[kind]()
    if adapted:
        targets = r".*(query|q_proj|c_attn|convolution)"
        student = lora(student, targets, **({"fan_in_fan_out": True} if kind == "gpt2" else {}))
    objective, student, attachment, batches = fitted(source, student.train())
    student(**batches[0]).loss.backward()
    assert attachment.terms["co_tuning"] > 0
    assert all(p.grad is not None and p.grad.any() for p in objective.source_head.parameters())
    trained = [p for n, p in student.named_parameters() if p.requires_grad and "transfer_objectives" not in n]
    assert any(p.grad is not None and p.grad.any() for p in trained), "nothing reaches the student"
    assert all(p.grad is None for p in (*source.parameters(), *objective.source.model.parameters()))
    attachment.drain()
    student(**{name: value[:1] for name, value in batches[0].items()}).loss.backward()  # one row


def test_tokens_are_rows():
    source = tiny_token_bert(num_labels=SOURCE_CLASSES).eval()
    torch.nn.init.normal_(source.classifier.weight)
    student = tiny_token_bert(**QUIET).train()
    objective, _, _, batches = fitted(source, student, count=1)
    labels = batches[0]["labels"]
    with torch.no_grad():
        logits = source(input_ids=batches[0]["input_ids"], attention_mask=batches[0]["attention_mask"]).logits
    wanted = torch.softmax(logits[labels == 1], -1).mean(0)
    torch.testing.assert_close(objective.relationship[1], wanted)


def test_calibrate_reads_source_labels():
    source = a_source()
    objective = CoTuning(source)
    batches = [{**batch_for(source, 8, seed=seed), "labels": torch.arange(8) % SOURCE_CLASSES} for seed in range(3)]
    logits, labels = predictions(source, batches)
    assert objective.calibrate(batches) == calibration_temperature(logits, labels) == objective.temperature
    assert objective.config()["temperature"] == objective.temperature


# state


def trainer_for(folder, source, **options):
    torch.manual_seed(0)
    args = TransferArguments(
        output_dir=str(folder),
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **options,
    )
    return TransferTrainer(tiny_bert(), args, objectives=[CoTuning(source)], train_dataset=rows(16, 0, True, False))


def test_trainer_fits_and_the_checkpoint_holds_head_and_relationship(tmp_path):
    source = a_source()
    trainer = trainer_for(tmp_path, source)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-4" / OBJECTIVES_NAME)
    assert set(saved) == {f"co_tuning.{key}" for key in ("relationship", "source_head.weight", "source_head.bias")}
    assert saved["co_tuning.relationship"].sum(1).tolist() == pytest.approx([1.0] * NUM_LABELS)
    assert set(load_file(tmp_path / "checkpoint-4" / "model.safetensors")) == set(tiny_bert().state_dict())
    assert any("loss_co_tuning" in entry for entry in trainer.state.log_history)


def test_resume_is_a_straight_run_bit_for_bit(tmp_path):
    source = a_source()
    straight = trainer_for(tmp_path / "straight", source)
    straight.train()
    resumed = trainer_for(tmp_path / "resumed", source)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    expected, found = straight.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_loaded_relationship_needs_no_fit():
    source = a_source()
    objective, *_ = fitted(source)
    other = CoTuning(source).build(ModelSpec(feature_dim=16, num_labels=NUM_LABELS))
    other.load_state_dict(objective.state_dict())
    batch = TransferBatch(features=torch.randn(4, 16), labels=torch.tensor([0, 1, 2, 0]))
    assert torch.equal(other(batch), objective(batch))


# what is refused


def test_forward_before_fit_is_refused():
    student = tiny_bert().train()
    attach(student, [CoTuning(a_source())])
    with pytest.raises(RuntimeError, match="has not seen the training data.*not known.*call `objective.fit"):
        student(**batch_for(student))
    objective = student.transfer_objectives["co_tuning"]
    objective.load_state_dict(objective.state_dict())  # the state of an objective that was not fitted either
    with pytest.raises(RuntimeError, match="has not seen the training data"):
        student(**batch_for(student))


def test_a_class_without_rows_is_refused():
    student = tiny_bert()
    objective = CoTuning(a_source())
    attach(student, [objective])
    batch = batch_for(student, 4)
    with pytest.raises(ValueError, match="has no row of class 1, 2: CoTuning learns from the rows.*Add rows"):
        objective.fit(student, [{**batch, "labels": torch.tensor([0, 0, -100, 0])}])
    with pytest.raises(ValueError, match="labels up to 4 for 3 classes.*`num_labels`"):
        objective.fit(student, [{**batch, "labels": torch.tensor([0, 1, 2, 4])}])
    with pytest.raises(ValueError, match="has no batch.*cannot learn the relationship.*Give rows"):
        objective.fit(student, [])


def test_labels_for_tokens_and_a_source_for_examples_are_refused():
    student = tiny_token_bert()
    objective = CoTuning(a_source())
    attach(student, [objective])
    with pytest.raises(ValueError, match="predictions of shape.*labels of shape.*same kind of task"):
        objective.fit(student, [batch_for(student)])


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_sources_and_students_without_one_class_a_row_are_refused(problem):
    with pytest.raises(ValueError, match=f"is made for {problem}.*no distribution over source classes.*DELTA"):
        CoTuning(tiny_bert(problem_type=problem))
    with pytest.raises(
        ValueError, match=f"CoTuning on a model for {problem}.*there is none.*LearningWithoutForgetting"
    ):
        attach(tiny_bert(problem_type=problem), [CoTuning(a_source())])


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match='`relationship_from="both"` is no way.*Give "direct" or "reverse"'):
        CoTuning(tiny_bert(), relationship_from="both")
    with pytest.raises(ValueError, match="`temperature=0.0` is not positive.*Give a positive number"):
        CoTuning(tiny_bert(), temperature=0.0)
    with pytest.raises(ValueError, match="features 32 wide.*16 wide"):
        attach(tiny_bert(), [CoTuning(tiny_bert(hidden_size=32))])
