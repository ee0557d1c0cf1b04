"""Projections: which there are, how they start, what dtype they take, and what they leave in a step they sit out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import HintDistillation, attach
from hf_transfer.objectives.distillation.projections import check_distance, check_projection, project, projection
from tests.models import batch_for, tiny_bert


@pytest.mark.parametrize(("mode", "equal", "different"), [("auto", 0, 1), ("always", 1, 1), ("none", 0, None)])
def test_where_there_is_a_layer(mode, equal, different):
    assert isinstance(projection(4, 4, mode), nn.Linear if equal else nn.Identity)
    if different:
        layer = projection(4, 6, mode)
        assert (layer.in_features, layer.out_features) == (4, 6)
    else:
        with pytest.raises(ValueError, match='4 wide and the teacher 6.*projection="none".*no value for each'):
            projection(4, 6, mode)


def test_between_equal_widths_it_starts_as_the_identity():
    values = torch.randn(2, 3, 4)
    assert torch.equal(project(projection(4, 4, "always"), values), values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_take_the_type_of_the_layer(dtype):
    layer = projection(4, 6).to(torch.float32)
    assert project(layer, torch.randn(2, 4).to(dtype)).dtype == torch.float32
    assert project(nn.Identity(), torch.randn(2, 4).to(dtype)).dtype == dtype


def test_it_is_a_convolution_of_one_by_one_at_every_position():
    layer, maps = projection(3, 5), torch.randn(2, 3, 4, 6)
    weight = layer.weight[:, :, None, None]
    expected = nn.functional.conv2d(maps, weight, layer.bias).flatten(2).transpose(1, 2)
    torch.testing.assert_close(project(layer, maps.flatten(2).transpose(1, 2)), expected)


def test_idle_projections_have_a_gradient_of_zero():
    student = tiny_bert().train()
    objective = HintDistillation(tiny_bert(hidden_size=24))
    attach(student, [objective])
    zero = objective.idle({1})
    zero.backward()
    assert zero.item() == 0
    for number, layer in enumerate(objective.projections):
        assert (layer.weight.grad is None) == (number == 1)
        assert number == 1 or not (layer.weight.grad.any() or layer.bias.grad.any())


def test_building_twice_starts_anew():
    objective = HintDistillation(tiny_bert(hidden_size=24))
    for depth in (3, 2):
        student = tiny_bert(num_hidden_layers=depth).train()
        with attach(student, [objective]):
            student(**batch_for(student)).loss.backward()
        assert len(objective.projections) == len(objective.pairs) == depth


def test_a_student_in_half_precision():
    student = tiny_bert().bfloat16().train()
    objective = HintDistillation(tiny_bert(hidden_size=24))
    attachment = attach(student, [objective])
    student(**batch_for(student)).loss.backward()
    assert attachment.terms["hint_distillation"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match='`projection="linear"` is unknown.*Give "auto"'):
        check_projection("linear")
    with pytest.raises(ValueError, match='`distance="l1"` is unknown.*Give "mse"'):
        check_distance("l1")
