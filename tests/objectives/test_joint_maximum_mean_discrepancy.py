"""JMMD on batches: predictions count, rows are tokens, gradients reach both variables."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer import JointMaximumMeanDiscrepancy, MaximumMeanDiscrepancy, TransferBatch, attach
from hf_transfer.functional.mmd import joint_maximum_mean_discrepancy
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.domain_checks import check_degenerate_batches, check_one_graph


def batch(domain=(0, 1, 1, 0, 1), shift=1.0):
    generator = torch.Generator().manual_seed(0)
    rows, d = len(domain), torch.tensor(domain)
    features = torch.randn(rows, 4, generator=generator) + shift * d.unsqueeze(1)
    logits = torch.randn(rows, 3, generator=generator)
    return TransferBatch(features.requires_grad_(), logits.requires_grad_(), torch.full((rows,), -100), d)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {"bandwidths": [None, 1.68], "num_kernels": [5, 1]}),
        ({"num_kernels": 2, "bandwidth": 3.0}, {"bandwidths": [3.0, 1.68], "num_kernels": [2, 1]}),
        ({"prediction_bandwidth": None}, {"bandwidths": [None, None], "num_kernels": [5, 1]}),
        ({"biased": True, "factor": 3.0}, {"bandwidths": [None, 1.68], "num_kernels": [5, 1], "biased": True}),
    ],
)
def test_the_options_reach_the_formula(options, given):
    data = batch()
    probabilities = data.logits.exp() / data.logits.exp().sum(1, keepdim=True)
    expected = joint_maximum_mean_discrepancy(
        [data.features, probabilities], data.domain, factor=options.get("factor", 2.0), **given
    )
    assert JointMaximumMeanDiscrepancy(**options)(data).item() == pytest.approx(expected.item(), abs=1e-6)


def test_equal_predictions_leave_the_discrepancy_of_the_features():
    data = batch()
    same = TransferBatch(data.features, torch.ones_like(data.logits), data.labels, data.domain)
    assert JointMaximumMeanDiscrepancy()(same).item() == pytest.approx(MaximumMeanDiscrepancy()(data).item(), abs=1e-6)


def test_crossed_predictions_are_seen():
    """Features and predictions agree in each alone: only together do the domains differ."""
    features = torch.tensor([[0.0], [9.0]] * 6)
    agree = torch.tensor([[99.0, 0.0], [0.0, 99.0]] * 6)
    domain = torch.arange(12) // 6
    crossed = torch.where((domain == 1).unsqueeze(1), agree.flip(1), agree)
    labels = torch.full((12,), -100)
    objective = JointMaximumMeanDiscrepancy(biased=True)
    assert objective(TransferBatch(features, agree, labels, domain)).item() == pytest.approx(0, abs=1e-6)
    assert objective(TransferBatch(features, crossed, labels, domain)).item() > 0.2
    # one kernel each: 2 times (1 / 2 for equal features) times (1 - the kernel of opposite predictions), less the rest
    near, far = math.exp(-81.0), math.exp(-2 / 1.68)
    objective = JointMaximumMeanDiscrepancy(biased=True, num_kernels=1, bandwidth=1.0)
    expected = 2 * (1 + near * far) / 2 - 2 * (far + near) / 2
    assert objective(TransferBatch(features, crossed, labels, domain)).item() == pytest.approx(expected, abs=1e-6)


def test_gradients_reach_features_and_logits():
    data = batch()
    JointMaximumMeanDiscrepancy()(data).backward()
    assert data.features.grad.any() and data.logits.grad.any()
    step = -data.features.grad
    assert (step[data.domain == 0].mean(0) - step[data.domain == 1].mean(0)).mean() > 0


def test_rows_of_a_token_classifier_are_its_tokens():
    torch.manual_seed(0)
    model = tiny_token_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [JointMaximumMeanDiscrepancy()])
    seen = []
    objective = attachment.objectives["joint_maximum_mean_discrepancy"]
    objective.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    inputs = batch_for(model)
    model(**inputs).loss.backward()
    counted = inputs["attention_mask"].bool()
    (data,) = seen
    flat = TransferBatch(
        data.features[counted],
        data.logits[counted],
        torch.full((int(counted.sum()),), -100),
        inputs["domain"].unsqueeze(1).expand_as(counted)[counted],
    )
    expected = JointMaximumMeanDiscrepancy()(flat).item()
    assert attachment.terms["joint_maximum_mean_discrepancy"].item() == pytest.approx(expected, abs=1e-6)


# said by torch 2.13 itself where it traces an autograd function; drop when it no longer does
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_in_one_graph():
    check_one_graph(JointMaximumMeanDiscrepancy())


def test_degenerate_batches():
    values = check_degenerate_batches(JointMaximumMeanDiscrepancy(), 250)
    assert max(values) <= 2 and min(values) < 0 < max(values)
    assert min(check_degenerate_batches(JointMaximumMeanDiscrepancy(biased=True), 100)) > -1e-5


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_models_without_a_distribution_over_classes_are_refused(problem):
    model = tiny_bert(problem_type=problem, **({"num_labels": 1} if problem == "regression" else {}))
    with pytest.raises(ValueError, match="JointMaximumMeanDiscrepancy on a (regression|model with several labels)"):
        attach(model, [JointMaximumMeanDiscrepancy()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_bandwidth": -1.0}, "`prediction_bandwidth=-1.0`: a Gaussian kernel has a positive width"),
        ({"num_kernels": 0}, "`num_kernels=0`: without a kernel JointMaximumMeanDiscrepancy"),
        ({"num_domains": 0}, "`num_domains=0`: with one domain"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        JointMaximumMeanDiscrepancy(**options)
