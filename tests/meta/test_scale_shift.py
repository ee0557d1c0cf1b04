"""Scale and shift: put in, trained, folded back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hf_transfer.adapters import add_adapter
from hf_transfer.meta.scale_shift import add_scale_shift, fold_scale_shift, scale_shift_state, without_scale_shift
from tests import models
from tests.meta.rows import model_of


def inputs_for(model: nn.Module):
    batch = models.batch_for(model)
    return {name: batch[name] for name in batch if name not in ("labels", "domain")}


def moved(kind: str) -> nn.Module:
    model = add_scale_shift(model_of(kind)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in scale_shift_state(model).values():
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return model


@pytest.mark.parametrize("kind", ["bert", "vit", "resnet"])
def test_at_first_nothing_changes_and_only_they_and_the_head_train(kind):
    model = model_of(kind).eval()
    before = model(**inputs_for(model)).logits
    add_scale_shift(model)
    torch.testing.assert_close(model(**inputs_for(model)).logits, before)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in trained if "classifier" not in name} == scale_shift_state(model).keys()
    assert not any("classifier" in name for name in scale_shift_state(model))


@pytest.mark.parametrize("kind", ["bert", "vit", "resnet"])
def test_folded_the_model_is_ordinary_and_computes_the_same(kind):
    plain = model_of(kind)
    model = moved(kind)
    with torch.no_grad():
        expected = model(**inputs_for(model)).logits
    assert not torch.allclose(expected, plain.eval()(**inputs_for(plain)).logits, atol=1e-3)
    assert fold_scale_shift(model) is model
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(model(**inputs_for(model)).logits.detach(), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_formula():
    model = moved("bert")
    layer = model.bert.encoder.layer[0].attention.self.query
    scale, shift = layer.parametrizations.weight[0].scale, layer.parametrizations.bias[0].shift
    assert scale.shape == (16, 1) and shift.shape == (16,)
    torch.testing.assert_close(layer.weight, layer.parametrizations.weight.original * scale)
    torch.testing.assert_close(layer.bias, layer.parametrizations.bias.original + shift)
    convolution = moved("resnet").resnet.encoder.stages[1].layers[0].layer[0].convolution
    assert convolution.parametrizations.weight[0].scale.shape == (*convolution.weight.shape[:2], 1, 1)


@pytest.mark.parametrize("folded", [False, True])
def test_without_them_for_a_while(folded):
    model = moved("vit")
    plain = model_of("vit").state_dict()
    before = {name: (value, value.detach().clone()) for name, value in model.named_parameters()}
    expected = fold_scale_shift(copy.deepcopy(model)).state_dict() if folded else plain
    with pytest.raises(KeyError), without_scale_shift(model, folded=folded):
        within = model.state_dict()
        assert within.keys() == plain.keys()
        assert all(torch.equal(value, expected[name]) for name, value in within.items())
        raise KeyError
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is value and torch.equal(value, was) for name, (value, was) in before.items())


def test_what_cannot_be_is_refused():
    model = add_scale_shift(model_of("bert"))
    with pytest.raises(ValueError, match="has scale and shift already: .* `fold_scale_shift"):
        add_scale_shift(model)
    with pytest.raises(ValueError, match=r"no scale and shift: .* `add_scale_shift\(model\)`"):
        fold_scale_shift(model_of("bert"))
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="has an adapter of PEFT: .* `merge_adapter"):
        add_scale_shift(add_adapter(model_of("bert")))
