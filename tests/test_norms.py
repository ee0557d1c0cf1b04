"""Which layers keep running statistics."""

from __future__ import annotations

import pytest
from torch import nn

from hf_transfer.norms import has_statistics
from tests.models import tiny_bert, tiny_resnet


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.InstanceNorm2d(2, track_running_stats=True)]
)
def test_layers_with(layer):
    assert has_statistics(layer)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(2, track_running_stats=False), nn.InstanceNorm2d(2), nn.LayerNorm(2), nn.Linear(2, 2)]
)
def test_layers_without(layer):
    assert not has_statistics(layer)


def test_in_models():
    assert any(map(has_statistics, tiny_resnet().modules()))
    assert not any(map(has_statistics, tiny_bert().modules()))
