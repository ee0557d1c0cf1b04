"""LMMD on batches: which rows are which side, what is constant, and classes that are missing."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import LocalMaximumMeanDiscrepancy, TransferBatch, attach
from hf_transfer.functional.mmd import local_maximum_mean_discrepancy
from hf_transfer.schedules import warmup
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.domain_checks import check_degenerate_batches, check_one_graph


LABELS = (0, 1, 2, 0, 1, 2)


def batch(labels=(*LABELS, -100, -100, -100, -100), certain=4.0):
    generator = torch.Generator().manual_seed(0)
    rows, labels = len(labels), torch.tensor(labels)
    features = torch.randn(rows, 4, generator=generator) + 2 * (labels < 0).unsqueeze(1)
    logits = torch.randn(rows, 3, generator=generator) + certain * torch.eye(3)[torch.arange(rows) % 3]
    return TransferBatch(features.requires_grad_(), logits.requires_grad_(), labels)


@pytest.mark.parametrize("options", [{}, {"num_kernels": 2, "factor": 3.0}, {"bandwidth": 0.5}])
def test_labels_weigh_labelled_rows_and_predictions_the_others(options):
    data = batch()
    source, target = torch.zeros(10, 3), torch.zeros(10, 3)
    for i in range(10):
        if i < 6:
            source[i, LABELS[i]] = 1
        else:
            target[i] = data.logits[i].detach().softmax(0)
    expected = local_maximum_mean_discrepancy(data.features, source, target, **options).item()
    assert LocalMaximumMeanDiscrepancy(**options)(data).item() == pytest.approx(expected, rel=1e-6)


def test_the_predictions_are_constants():
    data = batch()
    LocalMaximumMeanDiscrepancy()(data).backward()
    assert data.logits.grad is None and data.features.grad.any()


def test_predictions_of_labelled_rows_do_not_matter():
    data = batch()
    other = data.logits.detach().clone()
    other[:6] = -other[:6]
    changed = TransferBatch(data.features, other, data.labels)
    assert LocalMaximumMeanDiscrepancy()(changed).item() == LocalMaximumMeanDiscrepancy()(data).item()


def test_descent_moves_each_class_to_its_own():
    data = batch(certain=99.0)
    LocalMaximumMeanDiscrepancy()(data).backward()
    for c in range(3):
        source = (data.labels == c).nonzero().flatten()
        target = [i for i in range(6, 10) if i % 3 == c]
        towards = data.features[target].mean(0) - data.features[source].mean(0)
        assert -(data.features.grad[source].mean(0) * towards).sum() > 0


def test_its_weight_grows_from_zero():
    objective = LocalMaximumMeanDiscrepancy()
    assert objective.weight == warmup(gamma=10.0)
    assert objective.weight_at(0.0) == 0 and float(objective.weight_at(1.0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("labels", [LABELS, (-100,) * 4, (0,), (-100,), (1, 1, -100)])
def test_without_a_class_on_both_sides_an_exact_zero_with_a_graph(labels):
    data = batch(labels=labels, certain=99.0)
    if len(labels) == 3:
        data = TransferBatch(data.features, torch.tensor([[9.0, 0, 0]] * 3), data.labels)
    loss = LocalMaximumMeanDiscrepancy()(data)
    loss.backward()
    assert loss.item() == 0 and not data.features.grad.any()


def test_rows_of_a_token_classifier_are_its_tokens():
    """Tokens with a label are source; tokens of an example without any are target; other tokens are neither."""
    torch.manual_seed(0)
    model = tiny_token_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [LocalMaximumMeanDiscrepancy()])
    seen = []
    objective = attachment.objectives["local_maximum_mean_discrepancy"]
    objective.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    inputs = batch_for(model)
    inputs["labels"][1::2] = -100
    inputs["labels"][0::2, :2] = -100  # special tokens of labelled examples
    model(**inputs).loss.backward()
    (data,) = seen
    counted = inputs["attention_mask"].bool()
    counted[0::2] &= inputs["labels"][0::2] >= 0
    flat = TransferBatch(data.features[counted], data.logits[counted], inputs["labels"][counted])
    term = attachment.terms["local_maximum_mean_discrepancy"].item()
    assert term == pytest.approx(LocalMaximumMeanDiscrepancy()(flat).item(), rel=1e-5) and term > 0


# said by torch 2.13 itself where it traces an autograd function; drop when it no longer does
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_in_one_graph():
    check_one_graph(LocalMaximumMeanDiscrepancy())


def test_degenerate_batches():
    values = check_degenerate_batches(LocalMaximumMeanDiscrepancy(), 250)
    assert -1e-5 < min(values) and 0.5 < max(values) <= 2 + 1e-5


def test_no_domain_is_needed():
    assert LocalMaximumMeanDiscrepancy.columns == ()


def test_regression_is_refused():
    with pytest.raises(ValueError, match="LocalMaximumMeanDiscrepancy on a regression.*Leave it out"):
        attach(tiny_bert(num_labels=1), [LocalMaximumMeanDiscrepancy()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kernels": -1}, "`num_kernels=-1`: without a kernel LocalMaximumMeanDiscrepancy"),
        ({"factor": 0.5}, "`factor=0.5`: the bandwidths are to grow"),
        ({"bandwidth": -2.0}, "`bandwidth=-2.0`: a Gaussian kernel has a positive width"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LocalMaximumMeanDiscrepancy(**options)
