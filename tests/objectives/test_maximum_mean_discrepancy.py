"""MK-MMD on batches: what it reads, what it lowers, and batches for which it is not defined."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import MaximumMeanDiscrepancy, TransferBatch, attach
from hf_transfer.functional.mmd import maximum_mean_discrepancy
from tests.models import batch_for, tiny_bert, tiny_token_bert
from tests.objectives.domain_checks import check_degenerate_batches, check_one_graph


def batch(domain=(0, 1, 1, 0, 1), shift=2.0, width=4):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(domain), width, generator=generator) + shift * torch.tensor(domain).unsqueeze(1)
    return TransferBatch(features=features.requires_grad_(), domain=torch.tensor(domain))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_kernels": 3, "factor": 4.0},
        {"bandwidth": 2.0},
        {"biased": True},
        {"num_domains": 4, "biased": True},
    ],
)
def test_the_options_reach_the_formula(options):
    data = batch()
    expected = maximum_mean_discrepancy(data.features, data.domain, **options)
    assert MaximumMeanDiscrepancy(**options)(data).item() == expected.item()
    if options and options.get("num_domains") is None:
        assert expected.item() != pytest.approx(MaximumMeanDiscrepancy()(data).item(), abs=1e-4)


def test_descent_moves_the_source_towards_the_target():
    data = batch()
    MaximumMeanDiscrepancy()(data).backward()
    step = -data.features.grad
    assert (step[data.domain == 0].mean(0) > 0).all() and (step[data.domain == 1].mean(0) < 0).all()


def test_several_taps_add_up():
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs, terms = batch_for(model, 8), {}
    for taps in ("head", "block.0", "bert.encoder.layer.2", ("head", "block.0", -1)):
        with attach(model, [MaximumMeanDiscrepancy(taps=taps)]) as attachment:
            model(**inputs)
            terms[taps] = attachment.terms["maximum_mean_discrepancy"].item()
    *single, together = terms.values()
    assert together == pytest.approx(sum(single), rel=1e-4) and len(set(single)) == 3


def test_token_classifiers_have_one_feature_per_row():
    """The mean over the tokens that count: padding changes nothing."""
    torch.manual_seed(0)
    model = tiny_token_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    inputs = batch_for(model, 6)
    attachment = attach(model, [MaximumMeanDiscrepancy()])
    model(**inputs)
    first = attachment.terms["maximum_mean_discrepancy"].item()
    inputs["input_ids"][1::2, 4:] = 7
    model(**inputs)
    assert attachment.terms["maximum_mean_discrepancy"].item() == pytest.approx(first, abs=1e-6)


def test_labels_are_not_read():
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [MaximumMeanDiscrepancy()])
    terms = []
    for labels in (torch.tensor([0, 1, 2, 0]), torch.tensor([2, -100, 1, -100]), torch.full((4,), -100)):
        model(**{**batch_for(model), "labels": labels})
        terms.append(attachment.terms["maximum_mean_discrepancy"].item())
    assert terms[0] == terms[1] == terms[2] != 0


# said by torch 2.13 itself where it traces an autograd function; drop when it no longer does
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_in_one_graph():
    check_one_graph(MaximumMeanDiscrepancy(num_domains=3))


@pytest.mark.parametrize(("options", "count"), [({}, 1000), ({"biased": True}, 100), ({"bandwidth": 1.0}, 100)])
def test_degenerate_batches(options, count):
    values = check_degenerate_batches(MaximumMeanDiscrepancy(**options), count)
    assert max(values) <= 2 and any(value > 0.1 for value in values)
    low = min(values)
    assert low > -1e-5 if options.get("biased") else low < 0


@pytest.mark.parametrize("domain", [(0, 0, 0), (1, 1, 1), (0, 1, 1), (0,)])
def test_too_few_rows_give_an_exact_zero_with_a_graph(domain):
    data = batch(domain=domain)
    loss = MaximumMeanDiscrepancy()(data)
    loss.backward()
    assert loss.item() == 0 and not data.features.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kernels": 0}, "`num_kernels=0`: without a kernel MaximumMeanDiscrepancy has nothing.*Give 1 or more"),
        ({"factor": 1.0}, "`factor=1.0`: the bandwidths are to grow.*hides the others.*`num_kernels=1`"),
        ({"factor": float("nan")}, "`factor=nan`: the bandwidths are to grow"),
        ({"bandwidth": 0.0}, "`bandwidth=0.0`: a Gaussian kernel has a positive width.*`None` for the mean"),
        ({"num_domains": 1}, "`num_domains=1`: with one domain there is nothing to compare"),
        ({"taps": ()}, "names no place to compare the domains at"),
        ({"weight": -1.0}, "`weight=-1.0` is negative"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        MaximumMeanDiscrepancy(**options)


def test_domain_out_of_range_is_refused_at_the_first_batch():
    with pytest.raises(ValueError, match=r"from 0 to 2, but MaximumMeanDiscrepancy compares 2.*\(num_domains=3\)"):
        MaximumMeanDiscrepancy()(batch(domain=(0, 1, 2)))
