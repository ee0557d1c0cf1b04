"""The teacher that is the student's average: its closed form, its state, what it shares and what it refuses."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from transformers.utils import logging as transformers_logging

import hf_transfer.teacher.average as module
from hf_transfer import AverageTeacher, attach
from hf_transfer.batch import ModelSpec
from hf_transfer.callbacks.average_teacher import average_teacher_callbacks
from hf_transfer.objectives.distillation.teacher_objective import TeacherObjective
from hf_transfer.teacher import Teacher
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_token_bert, tiny_vit


class Consistency(TeacherObjective):
    """Squared distance from the teacher's logits."""

    reads_teacher_logits = True

    def forward(self, batch):
        return (batch.logits - self.taught(batch).logits).square().mean()


BUILDS = {
    "bert": tiny_bert,
    "token bert": tiny_token_bert,
    "vit": tiny_vit,
    "resnet": tiny_resnet,
    "bert lora": lambda: lora(tiny_bert(), ["query"], "classifier"),
    "resnet lora": lambda: lora(tiny_resnet(), r".*encoder.*convolution", "classifier"),
    "bert in bfloat16": lambda: tiny_bert().bfloat16(),
}


def tensors(model):
    """Parameters and running statistics by name, without the objectives."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: value.detach().clone()
        for name, value in found.items()
        if value.is_floating_point() and "transfer_objectives" not in name
    }


def step(model, optimizer, seed=0):
    optimizer.zero_grad()
    loss = model(**batch_for(model, seed=seed)).loss
    loss.backward()
    optimizer.step()
    return loss


def taught(build, **options):
    torch.manual_seed(0)
    model, teacher = build().train(), AverageTeacher(**options)
    attachment = attach(model, [Consistency(teacher)])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return model, teacher, attachment, optimizer


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("name", BUILDS)
def test_the_average_after_k_steps_is_that_of_the_closed_form(name, warmup):
    model, teacher, _, optimizer = taught(BUILDS[name], decay=0.7, warmup=warmup)
    history = [tensors(model)]
    for number in range(6):
        step(model, optimizer, seed=number)
        history.append(tensors(model))
        teacher.update()
    decays = [min(0.7, (1 + t) / (10 + t)) if warmup else 0.7 for t in range(1, 7)]
    state, own = teacher.state_dict(), tensors(teacher.model)
    assert teacher.steps == 6 and any(not history[0][key].equal(own[key]) for key in own)
    for key in own:
        # w_0 prod(d) + sum_s (1 - d_s) w_s prod_{r > s} d_r
        expected, share = torch.zeros_like(own[key], dtype=torch.float64), 1.0
        for index in range(6, 0, -1):
            expected += (1 - decays[index - 1]) * share * history[index][key].double()
            share *= decays[index - 1]
        expected += share * history[0][key].double()
        average = state.get(key, own[key])
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6, msg=key)
        torch.testing.assert_close(own[key], average.to(own[key].dtype), rtol=0, atol=0)


def test_a_decay_of_zero_is_the_student_after_the_step():
    model, teacher, _, optimizer = taught(tiny_resnet, decay=0.0)
    for number in range(2):
        step(model, optimizer, seed=number)
        assert not tensors(model)["classifier.1.weight"].equal(tensors(teacher.model)["classifier.1.weight"])
        teacher.update()
        for key, value in tensors(teacher.model).items():
            torch.testing.assert_close(value, tensors(model)[key], msg=key)


def test_it_begins_as_the_student_and_says_what_the_average_says():
    # a student without dropout, so that teacher and student agree at first
    model, teacher, attachment, optimizer = taught(
        lambda: tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), decay=0.5, warmup=False
    )
    step(model, optimizer)
    assert attachment.terms["consistency"] < 1e-12
    teacher.update()
    first = copy.deepcopy(teacher.model)
    step(model, optimizer, seed=1)
    assert attachment.terms["consistency"] > 1e-8
    batch = {
        name: value for name, value in batch_for(model, seed=1).items() if name in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        expected = first(**batch).logits
        torch.testing.assert_close(teacher.source(batch).logits, expected, rtol=0, atol=0)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())


def test_it_is_no_part_of_the_student(tmp_path):
    bare = sum(p.numel() for p in tiny_bert().parameters())
    model, teacher, attachment, optimizer = taught(tiny_bert)
    step(model, optimizer)
    teacher.update()
    assert sum(p.numel() for p in model.parameters()) == bare
    assert not [name for name in model.state_dict() if "transfer_objectives" in name]
    assert all(own is not other for own in model.parameters() for other in teacher.model.parameters())
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size < 4 * bare + 20_000
    attachment.detach()


def test_lora_students_share_what_never_trains():
    model, teacher, _, _ = taught(BUILDS["bert lora"])
    student = dict(model.named_parameters())
    for name, parameter in teacher.model.named_parameters():
        assert (parameter is student[name]) == (not student[name].requires_grad), name
    assert set(teacher.state_dict()) == {name for name, parameter in student.items() if parameter.requires_grad}


def test_counters_and_other_buffers_are_the_students():
    def build():
        model = tiny_bert()
        model.register_buffer("table", torch.zeros(2))
        model.register_buffer("count", torch.zeros((), dtype=torch.long))
        return model

    model, teacher, _, _ = taught(build, decay=0.9)
    model.table.fill_(3.0)
    model.count += 5
    teacher.update()
    assert teacher.model.table.tolist() == [3, 3] and teacher.model.count == 5
    assert not {"table", "count"} & set(teacher.state_dict())


def test_half_precision_does_not_swallow_small_steps():
    model, teacher, _, _ = taught(BUILDS["bert in bfloat16"], decay=0.999, warmup=False)
    start = model.classifier.bias.detach().clone()
    with torch.no_grad():
        model.classifier.bias.add_(1)
    for _ in range(500):
        teacher.update()
    moved = (teacher.model.classifier.bias - start).float()
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.999**500), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("name", ["resnet", "bert lora", "bert in bfloat16"])
def test_its_state_brings_it_back_bit_for_bit(name):
    model, teacher, _, optimizer = taught(BUILDS[name], decay=0.8)
    for number in range(3):
        step(model, optimizer, seed=number)
        teacher.update()
    state = {key: value.clone() for key, value in teacher.state_dict().items()}
    other, second, _, _ = taught(BUILDS[name], decay=0.8)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(state, steps=teacher.steps)
    for one, two in ((teacher, model), (second, other)):
        with torch.no_grad():
            for parameter in two.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.25)
        one.update()
    assert second.steps == 4
    assert all(value.equal(tensors(second.model)[key]) for key, value in tensors(teacher.model).items())
    assert all(value.equal(second.state_dict()[key]) for key, value in teacher.state_dict().items())


def test_state_of_another_student_is_refused():
    model, teacher, _, _ = taught(tiny_bert)
    state = dict(teacher.state_dict())
    state["classifier.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"does not fit the student; they differ in classifier.bias.*as in the first"):
        teacher.load_state_dict(state, steps=1)


def test_one_teacher_for_several_objectives_is_one_copy_with_one_forward():
    torch.manual_seed(0)
    model, teacher = tiny_bert().train(), AverageTeacher()
    attach(model, [Consistency(teacher), Consistency(teacher)])
    calls = []
    teacher.model.register_forward_hook(lambda *_: calls.append(1))
    model(**batch_for(model)).loss.backward()
    assert len(calls) == 1


def test_it_goes_on_with_the_same_student_and_begins_anew_with_another():
    model, teacher, attachment, optimizer = taught(tiny_bert)
    step(model, optimizer)
    teacher.update()
    attachment.detach()
    before = tensors(teacher.model)
    with attach(model, [Consistency(teacher)]):
        assert teacher.steps == 1 and all(value.equal(before[key]) for key, value in tensors(teacher.model).items())
    other = tiny_bert()
    with attach(other, [Consistency(teacher)]):
        assert teacher.steps == 0
        assert all(value.equal(tensors(other)[key]) for key, value in tensors(teacher.model).items())


def test_stored_outputs_are_not_read_since_it_moves():
    model, teacher, _, _ = taught(tiny_bert)
    assert teacher.columns == ()


def test_restart_is_the_student_as_it_is():
    model, teacher, _, optimizer = taught(tiny_bert)
    step(model, optimizer)
    teacher.update()
    teacher.restart()
    assert teacher.steps == 0
    assert all(value.equal(tensors(model)[key]) for key, value in tensors(teacher.model).items())


def test_what_it_says_of_itself():
    teacher = AverageTeacher(0.9, warmup=False)
    assert repr(teacher) == "AverageTeacher(decay=0.9, warmup=False)"
    assert teacher.description() == {"model": "moving average of the student", "decay": 0.9, "warmup": False}
    assert copy.deepcopy(teacher) is teacher
    assert "AverageTeacher(decay=0.9" in str(Consistency(teacher).config())


@pytest.mark.parametrize("decay", [1.0, -0.1, 2])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"is outside \[0, 1\): at 1 the teacher stays.*such as 0.999"):
        AverageTeacher(decay)


def test_before_it_meets_its_student():
    teacher = AverageTeacher()
    with pytest.raises(
        AttributeError, match=r"before it meets its student: it is a copy of it. Give it to an objective"
    ):
        teacher.source  # noqa: B018
    with pytest.raises(ValueError, match=r"is attached to no student: there are no weights to average"):
        teacher.update()
    with pytest.raises(ValueError, match=r"without a student: .*Use `attach\(model, objectives\)`"):
        teacher.bind(ModelSpec(feature_dim=2, num_labels=2), logits=True)


def test_after_its_student_is_gone():
    model, teacher, attachment, optimizer = taught(tiny_bert)
    attachment.detach()
    del model, attachment, optimizer
    gc.collect()
    with pytest.raises(ValueError, match="is attached to no student"):
        teacher.update()


def test_a_student_with_other_parameters_than_before():
    model, teacher, _, _ = taught(tiny_bert)
    model.classifier = torch.nn.Linear(16, 5)
    with pytest.raises(ValueError, match=r"no longer has a `classifier.weight` of shape .*Change the model before"):
        teacher.update()


def test_a_teacher_that_is_never_updated_is_noticed(monkeypatch, caplog):
    monkeypatch.setattr(module, "_PATIENCE", 2)
    transformers_logging.set_verbosity_warning()
    transformers_logging.enable_propagation()
    try:
        model, teacher, _, optimizer = taught(tiny_bert)
        for _ in range(2):
            step(model, optimizer)
        assert not caplog.records
        step(model, optimizer)
        assert "without an update: it stays what the student was" in caplog.text
    finally:
        transformers_logging.disable_propagation()
        transformers_logging.set_verbosity_error()


def test_statistics_of_all_ranks_are_those_of_the_first(monkeypatch):
    model, teacher, _, optimizer = taught(tiny_resnet, decay=0.5, warmup=False)
    step(model, optimizer)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    sent = []

    def broadcast(flat, source):
        sent.append((len(flat), source))
        flat.copy_(torch.arange(len(flat)).float())

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    weights = tensors(model)
    before = tensors(teacher.model)
    teacher.update()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert sent == [(sum(before[name].numel() for name in statistics), 0)]
    after = tensors(teacher.model)
    received = sorted(value for name in statistics for value in after[name].flatten().tolist())
    assert received == list(range(sent[0][0]))
    for name in set(before) - set(statistics):
        torch.testing.assert_close(after[name], (before[name] + weights[name]) / 2, msg=name)


def test_among_several_teachers_it_moves_too():
    torch.manual_seed(0)
    average, fixed = AverageTeacher(0.0), Teacher(tiny_bert())
    model = tiny_bert().train()
    attachment = attach(model, [Consistency([average, fixed])])
    (callback,) = average_teacher_callbacks(attachment.objectives.by_name.values(), [])
    assert callback.teachers == (average,)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(2):
        step(model, optimizer, seed=number)
        average.update()
    assert all(value.equal(tensors(model)[key]) for key, value in tensors(average.model).items())


def test_born_again_generations_are_a_loop():
    teachers = []
    for generation in range(3):  # Furlanello et al., ICML 2018: each generation is a new model, taught by the last one
        torch.manual_seed(generation)
        model = tiny_bert().train()
        attachment = attach(model, [Consistency(teacher) for teacher in teachers[-1:]])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for seed in range(2):
            step(model, optimizer, seed=seed)
        assert ("consistency" in attachment.terms) == (generation > 0)
        attachment.detach()
        teachers.append(Teacher(model))
        with torch.no_grad():  # what is learned later does not reach the copy
            model.classifier.bias.add_(1)
        assert not teachers[-1].model.classifier.bias.equal(model.classifier.bias)
