"""The fingerprint against a loop, and what it tells apart."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.fingerprint import fingerprint, whole


def test_against_a_loop():
    torch.manual_seed(0)
    tensors = [torch.randn(3, 2), torch.randn(5), torch.randn(1, 2, 2)]
    squares, ordered = 0.0, 0.0
    for number, tensor in enumerate(tensors, 1):
        square = sum(value * value for value in tensor.flatten().tolist())
        squares += square
        ordered += number * math.sqrt(square)
    assert fingerprint(tensors).tolist() == pytest.approx([squares, ordered], rel=1e-6)


def test_order_and_values_count():
    first, second = torch.tensor([1.0]), torch.tensor([2.0])
    assert not torch.equal(fingerprint([first, second]), fingerprint([second, first]))
    assert not torch.equal(fingerprint([first]), fingerprint([first + 1e-3]))


def test_half_precision_is_not_summed_in_half_precision():
    many = torch.ones(4096, dtype=torch.bfloat16)
    assert fingerprint([many]).tolist() == [4096.0, 64.0]


def test_a_tensor_that_is_not_sharded_is_itself():
    parameter = torch.nn.Parameter(torch.ones(2))
    assert whole(parameter) is parameter
