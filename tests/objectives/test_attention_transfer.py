"""AT on models: against loops over pixels and tokens, across sizes and architectures, and every refusal."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import AttentionTransfer, attach
from tests.models import batch_for, tiny_bert, tiny_resnet, tiny_vit


QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def returned(model, names, batch):
    """What modules of a model return, in the mode it is in."""
    kept, hooks = {}, []
    for name in names:

        def keep(module, args, output, name=name):
            kept[name] = (output[0] if isinstance(output, tuple) else output).detach().double()

        hooks.append(model.get_submodule(name).register_forward_hook(keep))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "domain")}
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return kept


def attention(states, p):
    """The direction of the map, of a list of positions that each are a list of values."""
    energy = [sum(abs(float(value)) ** p for value in values) / len(values) for values in states]
    length = math.sqrt(sum(q * q for q in energy))
    return [q / length for q in energy]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_maps_against_loops(p):
    torch.manual_seed(0)
    teacher, student = tiny_resnet(hidden_sizes=[12, 20], depths=[2, 2]).eval(), tiny_resnet().train()
    objective = AttentionTransfer(teacher, p=p)
    attachment = attach(student, [objective])
    batch = batch_for(student)
    student(**batch)
    ours = returned(student, objective.pairs, batch)
    theirs = returned(teacher, objective.pairs.values(), batch)
    expected = 0.0
    for own, other in objective.pairs.items():
        for row in range(4):
            sides = [states[row].flatten(1).T.tolist() for states in (ours[own], theirs[other])]
            maps = [attention(side, p) for side in sides]
            positions = len(maps[0])
            expected += sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / positions / 4 / 2
    assert attachment.terms["attention_transfer"].item() == pytest.approx(expected, rel=1e-4)
    assert not list(objective.parameters())


def test_tokens_against_loops():
    torch.manual_seed(0)
    teacher, student = tiny_bert(hidden_size=24).eval(), tiny_bert(**QUIET).train()
    objective = AttentionTransfer(teacher, layers="last")
    attachment = attach(student, [objective])
    batch = batch_for(student)
    student(**batch)
    name = "bert.encoder.layer.2"
    ours, theirs = (returned(model, [name], batch)[name] for model in (student, teacher))
    expected = 0.0
    for row in range(4):
        count = int(batch["attention_mask"][row].sum())
        maps = [attention(states[row, :count].tolist(), 2) for states in (ours, theirs)]
        expected += sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / count / 4
    # LayerNorm gives every token nearly the same energy: the value is small, its digits are fewer
    assert attachment.terms["attention_transfer"].item() == pytest.approx(expected, rel=1e-2, abs=1e-12)


def test_padding_does_not_count():
    torch.manual_seed(0)
    student = tiny_bert(**QUIET).train()
    attachment = attach(
        student, [AttentionTransfer(tiny_bert(hidden_size=24), layers={0: "bert.encoder.layer.0.intermediate"})]
    )
    batch = batch_for(student)
    student(**batch)
    expected = attachment.terms["attention_transfer"]
    longer = dict(batch)
    longer["input_ids"] = torch.cat([batch["input_ids"], torch.full((4, 3), 7)], 1)
    longer["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 3))
    student(**longer)
    assert expected > 1e-5
    torch.testing.assert_close(attachment.terms["attention_transfer"], expected)


def test_zero_exactly_while_the_student_is_the_teacher_and_nearer_after_steps():
    torch.manual_seed(0)
    student = tiny_resnet().eval()
    attachment = attach(student, [AttentionTransfer(student)])
    student.train()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # the teacher's statistics
    student(**batch_for(student))
    assert attachment.terms["attention_transfer"].item() == 0
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    values = []
    for _ in range(15):
        student(**batch_for(student)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(attachment.terms["attention_transfer"].item())
    assert 0 < values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("pair", [(tiny_vit, tiny_resnet), (tiny_resnet, tiny_vit), (tiny_vit, tiny_vit)])
def test_between_convolutions_and_transformers(pair):
    torch.manual_seed(0)
    student, teacher = (make() for make in pair)
    objective = AttentionTransfer(teacher, layers={0: 0})
    attachment = attach(student.train(), [objective])
    batch = {**batch_for(student), "pixel_values": torch.randn(4, 3, 8, 8)}
    student(**batch).loss.backward()
    assert 0 < attachment.terms["attention_transfer"] <= 2 / 4
    assert any(parameter.grad.any() for parameter in student.parameters() if parameter.grad is not None)


def test_maps_of_different_sizes():
    torch.manual_seed(0)
    student = tiny_resnet().train()
    attachment = attach(student, [AttentionTransfer(tiny_resnet(), layers={0: 0, "resnet.embedder": -1})])
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["attention_transfer"] > 0


def test_refusals():
    with pytest.raises(ValueError, match="`p=0.5` is below 1.*gradient.*infinite.*paper's 2.0"):
        AttentionTransfer(tiny_resnet(), p=0.5)
    student = tiny_resnet().train()
    attach(student, [AttentionTransfer(tiny_resnet(), layers="last")])
    batch = {**batch_for(student), "pixel_values": torch.randn(4, 3, 4, 4)}
    with pytest.raises(ValueError, match="one position in common.*nothing is learned.*earlier blocks"):
        student(**batch)
