"""Distances and divergences against loops in plain Python, their gradients, and their degenerate cases."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.source_knowledge import (
    attention_of_increases,
    channel_distances,
    masked_mean,
    soft_cross_entropy,
)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def double(*shape, grad=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def test_distance_of_feature_maps_against_a_loop():
    maps, reference = double(2, 3, 4, 5, grad=True), double(2, 3, 4, 5)
    value = channel_distances(maps, reference)
    m, r = maps.tolist(), reference.tolist()
    for channel in range(3):
        expected = sum(
            (m[row][channel][y][x] - r[row][channel][y][x]) ** 2
            for row in range(2)
            for y in range(4)
            for x in range(5)
        )
        assert value[channel].item() == pytest.approx(expected / (2 * 4 * 5), rel=1e-12)
    value.sum().backward()
    torch.testing.assert_close(maps.grad, 2 * (maps.detach() - reference) / 40)


def test_distance_of_tokens_counts_those_of_the_mask_only():
    maps, reference = double(3, 4, 2, grad=True), double(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    value = channel_distances(maps, reference, mask)
    m, r = maps.tolist(), reference.tolist()
    for channel in range(2):
        expected = 0.0
        for row in range(3):
            tokens = [token for token in range(4) if mask[row, token]]
            squares = [(m[row][token][channel] - r[row][token][channel]) ** 2 for token in tokens]
            expected += sum(squares) / max(1, len(squares))
        assert value[channel].item() == pytest.approx(expected / 3, rel=1e-12)
    value.sum().backward()
    assert not maps.grad[mask == 0].any() and maps.grad[mask == 1].all()


def test_padding_of_infinite_values_leaves_no_trace():
    maps = torch.zeros(1, 2, 1)
    maps[0, 1] = float("inf")
    maps.requires_grad_()
    value = channel_distances(maps, torch.zeros(1, 2, 1), torch.tensor([[1, 0]]))
    value.sum().backward()
    assert value.item() == 0 and maps.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3)])
def test_distance_without_a_fitting_mask_is_the_mean_over_positions(shape):
    maps, reference = double(*shape), double(*shape)
    for mask in (None, torch.ones(2, 7)):
        value = channel_distances(maps, reference, mask)
        torch.testing.assert_close(value, (maps - reference).square().reshape(-1, 3).mean(0))


def test_attention_against_a_loop():
    increases = [0.001, -0.002, 0.004, 0.0]
    mean = sum(increases) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in increases) / 4)
    expected = [4 * weight for weight in softmax([(value - mean) / deviation / 5 for value in increases])]
    assert attention_of_increases(torch.tensor(increases, dtype=torch.float64)).tolist() == pytest.approx(expected)


def test_attention_is_scale_free_and_averages_to_one():
    increases = double(7)
    weights = attention_of_increases(increases, temperature=1.0)
    torch.testing.assert_close(weights, attention_of_increases(1e-4 * increases + 3, temperature=1.0))
    assert weights.mean().item() == pytest.approx(1)
    assert weights.argsort().tolist() == increases.argsort().tolist()
    assert attention_of_increases(torch.full((3,), 0.7)).tolist() == [1, 1, 1]


def test_masked_mean_counts_the_rows_of_the_mask():
    rows = double(2, 3, grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 0, 1]])
    expected = sum(rows[i, j].item() for i, j in ((0, 0), (0, 1), (1, 2))) / 3
    assert masked_mean(rows, mask).item() == pytest.approx(expected, rel=1e-12)
    assert masked_mean(rows, None).item() == pytest.approx(rows.mean().item(), rel=1e-12)
    nothing = masked_mean(rows, torch.zeros(2, 3))
    nothing.backward()
    assert nothing.item() == 0 and not rows.grad.any()


def test_soft_cross_entropy_against_a_loop():
    logits, targets = double(3, 4, grad=True), torch.softmax(double(3, 4), -1)
    mask = torch.tensor([True, False, True])
    value = soft_cross_entropy(logits, targets, mask)
    expected = 0.0
    for row in (0, 2):
        q = softmax(logits[row].tolist())
        expected -= sum(p * math.log(b) for p, b in zip(targets[row].tolist(), q, strict=True))
    assert value.item() == pytest.approx(expected / 2, rel=1e-12)
    value.backward()
    wanted = (torch.softmax(logits.detach(), -1) - targets) / 2 * mask.unsqueeze(1)
    torch.testing.assert_close(logits.grad, wanted)
    assert soft_cross_entropy(logits, targets, torch.zeros(3)).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(dtype):
    logits, reference = torch.randn(4, 3).to(dtype), torch.randn(4, 3).to(dtype)
    assert channel_distances(logits, reference).dtype == torch.float32
    assert soft_cross_entropy(logits, torch.softmax(reference.float(), -1)).dtype == torch.float32
