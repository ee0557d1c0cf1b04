"""Entropies and class confusion against the formulas written out, and where other ways to compute them break down."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.entropy import (
    class_confusion,
    diversity,
    entropy,
    information_maximization,
    mean_entropy,
    prediction_entropies,
)


SCALARS = [mean_entropy, diversity, information_maximization, class_confusion]


def logits_of(rows=7, classes=4, scale=2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return (scale * torch.randn(rows, classes, dtype=torch.float64, generator=generator)).requires_grad_()


def probabilities_of(logits, temperature=1.0) -> list[list[float]]:
    result = []
    for row in logits.tolist():
        exponentials = [math.exp(value / temperature) for value in row]
        result.append([value / sum(exponentials) for value in exponentials])
    return result


def naive_entropy(p) -> float:
    return -sum(value * math.log(value) for value in p if value > 0)


def naive_mean(rows) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def naive_confusion(logits, temperature) -> float:
    """The paper's four steps, one sum after the other."""
    p = probabilities_of(logits, temperature)
    n, classes = len(p), len(p[0])
    weights = [1 + math.exp(-naive_entropy(row)) for row in p]
    weights = [n * weight / sum(weights) for weight in weights]
    assert sum(weights) / n == pytest.approx(1)
    total = 0.0
    for j in range(classes):
        correlation = [sum(weights[i] * p[i][j] * p[i][k] for i in range(n)) for k in range(classes)]
        total += sum(abs(correlation[k] / sum(correlation)) for k in range(classes) if k != j)
    return total / classes


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_entropy_against_the_sum(classes):
    logits = logits_of(classes=classes)
    expected = [naive_entropy(p) for p in probabilities_of(logits)]
    assert entropy(logits).tolist() == pytest.approx(expected, rel=1e-12)
    assert mean_entropy(logits).item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 1000])
@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
def test_uniform_logits_have_the_entropy_log_c(classes, level):
    assert entropy(torch.full((classes,), level)).item() == pytest.approx(math.log(classes), rel=1e-6)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_one_class_alone_has_the_entropy_zero_exactly(size):
    logits = (size * torch.eye(3)).requires_grad_()
    value = entropy(logits)
    assert torch.equal(value, torch.zeros(3))
    value.sum().backward()
    assert torch.equal(logits.grad, torch.zeros(3, 3))


def test_small_entropies_keep_their_digits_where_logarithms_of_probabilities_lose_the_gradient():
    """At a gap of 120 the smaller probability is zero in float32, but its logarithm is not."""
    gap = torch.tensor([60.0, 120.0])
    logits = torch.stack([gap, torch.zeros(2)], -1).requires_grad_()
    value = entropy(logits)
    assert value[0].item() == pytest.approx(60 * math.exp(-60), rel=0.05)
    value.sum().backward()
    assert logits.grad.isfinite().all()
    p = logits.detach().clone().requires_grad_()
    (naive,) = torch.autograd.grad(torch.special.entr(p.softmax(-1)).sum(), p)
    assert not naive.isfinite().all()  # the other way to have no 0 * log 0 in the value


def test_a_class_that_is_ruled_out_has_no_part():
    logits = torch.tensor([[1.0, 2.0, float("-inf")]], requires_grad=True)
    value = entropy(logits)
    assert value.item() == pytest.approx(entropy(torch.tensor([1.0, 2.0])).item())
    value.sum().backward()
    assert logits.grad[0, :2].any() and logits.grad[0, 2] == 0


def test_diversity_is_the_entropy_of_the_mean():
    logits = logits_of()
    assert diversity(logits).item() == pytest.approx(naive_entropy(naive_mean(probabilities_of(logits))), rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_information_maximization_against_the_sums(weight):
    logits = logits_of()
    p = probabilities_of(logits)
    divergence = sum(m * math.log(m * 4) for m in naive_mean(p))
    expected = sum(map(naive_entropy, p)) / len(p) + weight * divergence
    assert information_maximization(logits, diversity_weight=weight).item() == pytest.approx(expected, rel=1e-12)


def test_information_maximization_is_zero_for_certain_and_balanced_rows_only():
    balanced = 1e4 * torch.eye(3).repeat(2, 1)
    assert information_maximization(balanced).item() == pytest.approx(0, abs=1e-6)
    assert information_maximization(balanced[:1].expand(6, 3)).item() == pytest.approx(math.log(3))
    assert information_maximization(torch.zeros(6, 3)).item() == pytest.approx(math.log(3))


def test_a_step_makes_rows_certain_and_keeps_them_apart():
    """Entropy alone sends all rows to one class from such a start; the diversity term does not."""
    start = torch.tensor([[1.0, 0.9], [1.0, 0.8], [1.0, 0.7], [1.0, 1.1]])
    ends = []
    for term in (mean_entropy, information_maximization):
        logits = start.clone()
        bias = torch.zeros(2, requires_grad=True)
        for _ in range(300):
            (gradient,) = torch.autograd.grad(term(8 * logits + bias), bias)
            bias = (bias - gradient).detach().requires_grad_()
        ends.append(prediction_entropies(8 * logits + bias))
    assert ends[0]["diversity"] < 0.1 < 0.5 < ends[1]["diversity"]


@pytest.mark.parametrize("temperature", [1.0, 2.5, 3.0])
@pytest.mark.parametrize(("rows", "classes"), [(7, 4), (2, 10), (12, 2)])
def test_class_confusion_against_the_steps_of_the_paper(rows, classes, temperature):
    logits = logits_of(rows, classes)
    expected = naive_confusion(logits, temperature)
    assert class_confusion(logits, temperature=temperature).item() == pytest.approx(expected, rel=1e-10)


def test_class_confusion_of_the_first_temperature_of_others_differs():
    """Some libraries leave the temperature at 1."""
    logits = logits_of()
    assert class_confusion(logits).item() != pytest.approx(naive_confusion(logits, 1.0), rel=0.05)


def test_weights_of_class_confusion_have_no_gradient():
    """Their derivative would be another gradient: compared with the formula at weights held fixed."""
    logits = logits_of()
    class_confusion(logits).backward()
    p = (logits.detach() / 2.5).softmax(-1)
    fixed = 1 + torch.exp(-torch.special.entr(p).sum(-1))
    free = logits.detach().clone().requires_grad_()
    p = (free / 2.5).softmax(-1)
    correlation = p.mT @ (fixed.unsqueeze(-1) * p)
    normalised = correlation / correlation.sum(1, keepdim=True)
    ((normalised.sum() - normalised.trace()) / 4).backward()
    torch.testing.assert_close(logits.grad, free.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_an_empty_class_is_no_zero_by_zero(size):
    """No row predicts the third class: its row of the matrix is 0 / 0 in float32, and 1 in the limit."""
    logits = (size * torch.eye(3)[[0, 1, 0, 1]]).requires_grad_()
    value = class_confusion(logits)
    assert value.item() == pytest.approx(1 / 3)
    value.backward()
    assert logits.grad.isfinite().all()
    p = (logits.detach() / 2.5).softmax(-1)
    correlation = p.mT @ p
    assert (correlation / correlation.sum(1, keepdim=True)).isnan().any()


def test_the_empty_class_is_the_limit_of_a_rare_one():
    values = [class_confusion(size * torch.eye(3)[[0, 1, 0, 1]].double()).item() for size in (50.0, 100.0, 1e5)]
    assert values == pytest.approx([1 / 3] * 3, rel=1e-6)


def test_certain_rows_confuse_nothing_and_a_confused_pair_is_seen():
    certain = 1e4 * torch.eye(3).repeat(2, 1)
    assert class_confusion(certain).item() == 0
    hesitating = certain.clone()
    hesitating[0, 1] = hesitating[0, 0]
    assert class_confusion(hesitating).item() > 0.05


@pytest.mark.parametrize("term", [mean_entropy, diversity, information_maximization])
def test_gradient_against_finite_differences(term):
    assert torch.autograd.gradcheck(term, logits_of(5, 3))


@pytest.mark.parametrize("term", SCALARS)
def test_rows_that_do_not_count_contribute_nothing(term):
    logits = logits_of(8)
    counted = torch.tensor([True, False, True, True, False, True, False, True])
    alone = logits.detach()[counted].requires_grad_()
    value, expected = term(logits, counted), term(alone)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(logits.grad[counted], alone.grad)
    assert not logits.grad[~counted].any()


@pytest.mark.parametrize("term", SCALARS)
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 3e38])
def test_not_even_by_what_is_no_number(term, junk):
    logits = torch.tensor([[1.0, 2.0, 0.5], [junk, -junk, 0.0], [0.3, 0.1, 0.2]], requires_grad=True)
    counted = torch.tensor([True, False, True])
    value = term(logits, counted)
    value.backward()
    assert value.item() == pytest.approx(term(logits.detach()[[0, 2]]).item(), rel=1e-6)
    assert logits.grad.isfinite().all() and not logits.grad[1].any()


@pytest.mark.parametrize("term", SCALARS)
def test_no_row_is_an_exact_zero_with_a_graph(term):
    logits = logits_of()
    value = term(logits, torch.zeros(7, dtype=torch.bool))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("term", SCALARS)
def test_an_overflow_in_a_row_that_counts_is_no_number(term):
    assert term(torch.tensor([[float("inf"), 0.0], [0.0, 0.0]])).isnan()


def test_thousand_batches_are_finite():
    generator = torch.Generator().manual_seed(0)
    for trial in range(1000):
        rows, classes = (int(torch.randint(1, 9, (1,), generator=generator)) for _ in range(2))
        scale = (0.0, 1.0, 1e2, 1e4)[trial % 4]
        logits = (scale * torch.randn(rows, classes + 1, generator=generator)).requires_grad_()
        counted = torch.rand(rows, generator=generator) < (0.0, 0.3, 1.0)[trial % 3]
        values = torch.stack([term(logits, counted) for term in SCALARS])
        values.sum().backward()
        assert values.isfinite().all() and (values > -1e-5).all(), (trial, values)
        assert logits.grad.isfinite().all() and not logits.grad[~counted].any(), trial


def test_the_log_tells_certain_from_collapsed():
    varied, collapsed = 1e4 * torch.eye(3), 1e4 * torch.eye(3)[[0, 0, 0]]
    assert prediction_entropies(varied)["diversity"].item() == pytest.approx(math.log(3))
    assert prediction_entropies(collapsed)["diversity"].item() == 0
    found = prediction_entropies(varied.requires_grad_())
    assert not any(value.requires_grad for value in found.values())
