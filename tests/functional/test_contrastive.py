"""The supervised contrastive loss against a loop over anchors, positives and candidates."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.contrastive import contrast, supervised_contrastive, unit


def naive(features: torch.Tensor, labels: list[int], temperature: float) -> float:
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in features.tolist()]

    def similarity(i, j):
        return sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) / temperature

    anchors = [i for i, label in enumerate(labels) if label != -100]
    total = 0.0
    for i in anchors:
        others = [a for a in anchors if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            denominator = sum(math.exp(similarity(i, a)) for a in others)
            total -= sum(math.log(math.exp(similarity(i, p)) / denominator) for p in positives) / len(positives)
    return total / len(anchors)


def rows(count: int = 6, width: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, width, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize(
    "labels", [[0, 1, 0, 1, 2, 0], [0, -100, 0, 1, -100, 1], [3, 3, 3, 3, 3, 3], [0, 0, 1, 2, 3, 4]]
)
@pytest.mark.parametrize("temperature", [0.07, 0.3, 1.0])
def test_value_against_a_loop(labels, temperature):
    features = rows()
    value = supervised_contrastive(features, torch.tensor(labels), temperature)
    assert value.item() == pytest.approx(naive(features, labels, temperature), rel=1e-10)


def test_gradient_against_finite_differences():
    labels = torch.tensor([0, 1, 0, -100, 1, 2])
    assert torch.autograd.gradcheck(lambda x: supervised_contrastive(x, labels), rows())


def test_a_step_draws_a_class_together_and_drives_others_apart():
    features, labels = rows(), torch.tensor([0, 0, 1, 1, 2, 2])
    supervised_contrastive(features, labels).backward()
    before, after = (unit(x) @ unit(x).mT for x in (features.detach(), features.detach() - 0.1 * features.grad))
    same = (labels.unsqueeze(1) == labels) & ~torch.eye(6, dtype=torch.bool)
    assert (after - before)[same].mean() > 0 > (after - before)[labels.unsqueeze(1) != labels].mean()


def test_the_length_of_the_features_does_not_matter():
    features, labels = rows(), torch.tensor([0, 1, 0, 1, 2, 0])
    scaled = features * torch.arange(1, 7).unsqueeze(1)
    torch.testing.assert_close(supervised_contrastive(scaled, labels), supervised_contrastive(features, labels))


@pytest.mark.parametrize("labels", [[-100] * 4, [1, -100, -100, -100], [0, 1, 2, 3]])
def test_without_a_positive_it_is_an_exact_zero_with_zero_gradients(labels):
    features = rows(4)
    value = supervised_contrastive(features, torch.tensor(labels))
    assert value.item() == 0
    value.backward()
    assert not features.grad.any()


def test_one_row():
    features = rows(1)
    value = supervised_contrastive(features, torch.tensor([0]))
    value.backward()
    assert value.item() == 0 and not features.grad.any()


def test_unlabelled_rows_change_nothing():
    features, labels = rows(), torch.tensor([0, -100, 0, 1, -100, 1])
    kept = labels != -100
    torch.testing.assert_close(
        supervised_contrastive(features, labels), supervised_contrastive(features[kept], labels[kept])
    )


def test_zero_features_have_no_direction_and_no_gradient():
    features = torch.zeros(3, 4)
    features[2] = 1.0
    features.requires_grad_()
    supervised_contrastive(features, torch.tensor([0, 0, 1])).backward()
    assert features.grad.isfinite().all() and not features.grad[:2].any()
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_unit_does_not_hide_what_is_no_number():
    assert unit(torch.tensor([[float("nan"), 1.0]])).isnan().any()


def test_contrast_leaves_out_what_is_no_candidate():
    similarities = torch.tensor([[1.0, 2.0, 50.0]], dtype=torch.float64, requires_grad=True)
    candidates = torch.tensor([[True, True, False]])
    value = contrast(similarities, torch.tensor([[True, False, True]]), candidates)
    assert value.item() == pytest.approx(math.log(1 + math.e), rel=1e-12)
    value.sum().backward()
    assert similarities.grad[0, 2] == 0 and similarities.grad[0, 0] < 0 < similarities.grad[0, 1]


def test_contrast_of_an_anchor_without_candidates_is_zero_and_finite():
    similarities = torch.randn(2, 3, requires_grad=True)
    none = torch.zeros(2, 3, dtype=torch.bool)
    value = contrast(similarities, ~none, none)
    value.sum().backward()
    assert not value.any() and not similarities.grad.any()
