from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_transfer.teacher.top_k import half_precision_bound, keep_top_k, restore_top_k, top_k_bound


def naive_kl(teacher, student, temperature):
    """`T^2 KL` of one row in plain Python."""
    p = [math.exp((z - max(teacher)) / temperature) for z in teacher]
    q = [(u - max(student)) / temperature for u in student]
    p = [value / sum(p) for value in p]
    log_total = math.log(sum(math.exp(u) for u in q))
    return temperature**2 * sum(a * (math.log(a) - (u - log_total)) for a, u in zip(p, q, strict=True) if a > 0)


def rows(seed=0, count=40):
    """Teacher and student logits: random of several scales, flat, one-hot, a tie at the border, a heavy rest."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        classes = int(random.integers(3, 12))
        teacher = random.standard_normal(classes) * random.choice([0.1, 1.0, 5.0, 30.0])
        yield teacher, random.standard_normal(classes) * random.choice([0.1, 3.0, 20.0])
    for classes in (3, 10):
        flat, peak = np.zeros(classes), np.eye(classes)[0] * 50
        # the mass of the rest in one class, which the student denies most
        heavy = np.full(classes, -40.0)
        heavy[:3] = [1.0, 0.9, 0.9]
        denied = np.zeros(classes)
        denied[2] = -30.0
        yield from ((flat, denied), (peak, denied), (heavy, denied), (heavy, -denied))


def test_kept_numbers_by_hand():
    values, indices, rest = keep_top_k(torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 3.0, 3.0, 0.0]]), 2)
    assert indices.tolist() == [[1, 2], [0, 1]] and values.tolist() == [[2.0, 1.0], [3.0, 3.0]]
    expected = [math.log(1 + math.exp(-1)), math.log(math.exp(3) + 1)]
    torch.testing.assert_close(rest, torch.tensor(expected))
    assert (values.dtype, indices.dtype, rest.dtype) == (torch.float32, torch.int64, torch.float32)


@pytest.mark.parametrize("k", [0, 4, 9])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match="nothing would be left out, or nothing kept. Give a number from 1 to 3"):
        keep_top_k(torch.zeros(2, 4), k)


def test_stored_probabilities_are_exact_at_temperature_one_and_the_rest_even():
    logits = torch.randn(3, 5, 9) * 4
    values, indices, rest = keep_top_k(logits, 3)
    restored = restore_top_k(values, indices.int(), rest, 9)
    assert restored.shape == logits.shape and restored.dtype == torch.float32
    true, kept = logits.softmax(-1), restored.softmax(-1)
    torch.testing.assert_close(kept.gather(-1, indices), true.gather(-1, indices), atol=1e-6, rtol=1e-5)
    left_out = torch.ones_like(kept).scatter(-1, indices, 0.0).bool()
    shares = kept[left_out].view(3, 5, 6)
    torch.testing.assert_close(shares, shares[..., :1].expand_as(shares))
    torch.testing.assert_close(shares.sum(-1), true[left_out].view(3, 5, 6).sum(-1), atol=1e-6, rtol=1e-5)


def test_one_class_left_out_is_restored():
    logits = torch.randn(4, 6)
    torch.testing.assert_close(restore_top_k(*keep_top_k(logits, 5), 6), logits)


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0, 3.0]])
    restored = restore_top_k(*keep_top_k(logits, 1), 4)
    assert restored.isfinite().all() and restored.softmax(-1)[0, 0] == 1.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_the_loss_stays_within_the_bound(temperature):
    tightest = []
    for teacher, student in rows():
        for k in {1, 2, len(teacher) - 1}:
            values, indices, rest = keep_top_k(torch.from_numpy(teacher), k)
            restored = restore_top_k(values, indices, rest, len(teacher)).tolist()
            true, kept = (naive_kl(z, student, temperature) for z in (teacher.tolist(), restored))
            span = float(student.max() - student.min())
            bound = float(top_k_bound(values, rest, len(teacher), student_range=span, temperature=temperature))
            # restored logits are rounded to float32
            assert abs(true - kept) <= bound * (1 + 1e-6) + 1e-6 * temperature**2 * (1 + span + np.abs(teacher).max())
            tightest.append(abs(true - kept) / max(bound, 1e-9))
    assert 0.1 < max(tightest)  # not so wide that it says nothing


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_stays_within_its_bound(temperature):
    for teacher, _ in rows():
        logits = torch.from_numpy(teacher)
        for k in {1, len(teacher) - 1}:
            values, indices, rest = keep_top_k(logits, k)
            restored = restore_top_k(values, indices, rest, len(teacher)).double()
            difference = ((restored / temperature).softmax(-1) - (logits / temperature).softmax(-1)).abs().sum()
            # 2 tau, with tau of the docstring in plain Python
            n, r = len(teacher) - k, float(1 - logits.softmax(-1).gather(-1, indices).sum())
            kept = float((logits.softmax(-1).gather(-1, indices) ** (1 / temperature)).sum())
            outside = max(1.0, n ** (1 - 1 / temperature)) * max(r, 0.0) ** (1 / temperature)
            assert float(difference) <= 2 * outside / (kept + outside) + 2e-6


def test_half_precision_stays_within_its_bound():
    worst = 0.0
    for teacher, student in rows():
        stored = teacher.astype(np.float16).astype(float)
        bound = float(half_precision_bound(torch.from_numpy(teacher), torch.from_numpy(student)))
        for temperature in (0.5, 1.0, 4.0):
            moved = abs(
                naive_kl(teacher.tolist(), student, temperature) - naive_kl(stored.tolist(), student, temperature)
            )
            assert moved <= bound + 1e-9
            worst = max(worst, moved / bound)
    assert worst > 0.05
