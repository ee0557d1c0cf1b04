"""What the head of a model makes of features."""

from __future__ import annotations

import torch
from torch import nn

from hf_transfer.features.head_logits import head_logits


def test_a_convolution_gets_a_map_of_one_place():
    head = nn.Conv2d(4, 3, 1)
    features = torch.randn(5, 4)
    expected = features @ head.weight[:, :, 0, 0].T + head.bias
    torch.testing.assert_close(head_logits(head, features), expected)
    one = nn.Sequential(nn.Conv1d(4, 3, 1))
    torch.testing.assert_close(head_logits(one, features), features @ one[0].weight[:, :, 0].T + one[0].bias)


def test_features_in_half_precision_are_brought_to_the_heads_type():
    head = nn.Linear(4, 3)
    features = torch.randn(5, 4).half()
    torch.testing.assert_close(head_logits(head, features), head(features.float()))
