"""L2-SP against the sum written out, what it holds to its start under PEFT, and its memory of that start."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, get_peft_model

from hf_transfer import L2SP, TransferBatch, attach
from tests.models import batch_for, lora, tiny_bert, tiny_resnet, tiny_vit


def term(model, objective) -> torch.Tensor:
    return objective(TransferBatch(features=torch.zeros(1, 1), model=model))


def moved(model, *, by=0.05, only=lambda name: True):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only(name) and parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("make", [tiny_bert, tiny_vit, tiny_resnet])
def test_value_and_gradient_against_the_sum_over_weights(make):
    model = make().double()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    objective = L2SP()
    attach(model, [objective])
    assert term(model, objective).item() == 0
    moved(model)
    value = term(model, objective)
    expected, beyond = 0.0, dict(model.named_parameters())
    for name, parameter in start.items():
        if not name.startswith("classifier"):
            for now, then in zip(beyond[name].flatten().tolist(), parameter.flatten().tolist(), strict=True):
                expected += 0.5 * (now - then) ** 2
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    for name, parameter in start.items():
        if name.startswith("classifier"):
            assert beyond[name].grad is None
        else:
            torch.testing.assert_close(beyond[name].grad, beyond[name].detach() - parameter)


def test_head_decay_pulls_the_head_to_zero():
    model = tiny_bert().double()
    objective = L2SP(head_decay=0.3)
    attach(model, [objective])
    expected = 0.15 * sum(p.square().sum() for p in model.classifier.parameters())
    torch.testing.assert_close(term(model, objective), expected.float().double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("init", [True, "gaussian", "pissa", "olora"])
def test_under_lora_it_is_the_distance_of_the_weights_in_effect(init):
    torch.manual_seed(0)
    base = tiny_bert()
    original = base.bert.encoder.layer[1].attention.self.query.weight.detach().clone()
    model = lora(base, ["query"], "classifier", lora_alpha=6, init_lora_weights=init)
    objective = L2SP()
    attach(model, [objective])
    assert term(model, objective).item() == pytest.approx(0, abs=1e-6)
    moved(model, by=0.3, only=lambda name: "layer.1" in name and "lora_" in name)
    layer = model.get_submodule("base_model.model.bert.encoder.layer.1.attention.self.query")
    effective = layer.base_layer.weight + layer.get_delta_weight("default")
    expected = 0.5 * (effective - original).square().sum()
    value = term(model, objective)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)
    gradients = torch.autograd.grad(value, [layer.lora_A["default"].weight, layer.lora_B["default"].weight])
    wanted = torch.autograd.grad(expected, [layer.lora_A["default"].weight, layer.lora_B["default"].weight])
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_lora_of_convolutions():
    model = lora(tiny_resnet(), r".*encoder.*convolution", "classifier")
    objective = L2SP()
    attach(model, [objective])
    moved(model, by=0.3, only=lambda name: "lora_" in name)
    expected = sum(
        0.5 * module.get_delta_weight("default").square().sum()
        for module in model.modules()
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")
    )
    torch.testing.assert_close(term(model, objective), expected, rtol=1e-4, atol=1e-6)


def test_other_adapters_are_held_to_the_values_they_start_from():
    config = IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"])
    model = get_peft_model(tiny_bert(), config)
    objective = L2SP()
    attach(model, [objective])
    assert term(model, objective).item() == 0
    moved(model, by=1.0, only=lambda name: "ia3" in name)
    expected = sum(0.5 * (p - 1).square().sum() for name, p in model.named_parameters() if "ia3" in name)
    torch.testing.assert_close(term(model, objective), expected)


def test_the_start_is_no_part_of_the_model():
    model = tiny_bert()
    attach(model, [L2SP()])
    assert set(model.transfer_objectives.state_dict()) == {"l2sp.fingerprint"}
    assert not list(model.transfer_objectives.parameters())


def test_published_half_precision_weights_are_kept_in_half_the_memory():
    model = tiny_bert().bfloat16().float()
    objective = L2SP()
    attach(model, [objective])
    assert {reference.dtype for reference in objective._references.values()} == {torch.bfloat16}
    assert term(model, objective).item() == 0


def test_frozen_parameters_are_not_remembered():
    model = tiny_bert()
    for parameter in model.bert.embeddings.parameters():
        parameter.requires_grad_(False)
    objective = L2SP()
    attach(model, [objective])
    assert not [name for name in objective._references if "embeddings" in name]


def test_resuming_from_another_start_is_refused():
    first, second = tiny_bert(), tiny_bert()
    objective, other = L2SP(), L2SP()
    attach(first, [objective])
    attach(second, [other])
    with pytest.raises(ValueError, match="L2SP from other starting weights.*same pretrained checkpoint"):
        other.load_state_dict(objective.state_dict())
    objective.load_state_dict(objective.state_dict())


def test_nothing_trainable_is_refused():
    model = tiny_bert()
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter before the head.*FreezeBackbone"):
        attach(model, [L2SP()])


def test_negative_head_decay_is_refused():
    with pytest.raises(ValueError, match="`head_decay=-0.1` is negative.*zero or a positive number"):
        L2SP(head_decay=-0.1)


def test_a_step_of_descent_goes_towards_the_start():
    model = tiny_bert().train()
    objective = L2SP(weight=1.0)
    attach(model, [objective])
    moved(model)
    before = term(model, objective).item()
    inputs = {**batch_for(model), "labels": torch.full((4,), -100)}
    model(**inputs).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert term(model, objective).item() == pytest.approx(0.25 * before, rel=1e-4)
