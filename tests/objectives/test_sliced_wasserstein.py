"""SWD on batches: the directions of a step, what it lowers, and batches for which it is not defined."""

from __future__ import annotations

import pytest
import torch

from hf_transfer import SlicedWasserstein, TransferBatch, attach
from hf_transfer.functional.optimal_transport import projections, sliced_wasserstein
from tests.models import batch_for, tiny_bert
from tests.objectives.domain_checks import check_degenerate_batches, check_one_graph


def batch(domain=(0, 1, 1, 0, 1), shift=2.0, progress: float | torch.Tensor = 0.5):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(len(domain), 4, generator=generator) + shift * torch.tensor(domain).unsqueeze(1)
    return TransferBatch(features=features.requires_grad_(), domain=torch.tensor(domain), progress=progress)


@pytest.mark.parametrize("options", [{}, {"num_projections": 7}, {"power": 1}])
def test_the_options_reach_the_formula(options):
    data = batch()
    directions = projections(4, options.get("num_projections", 128), 0.5, like=data.features)
    masks = [(data.domain == k).float() for k in range(2)]
    expected = sliced_wasserstein(data.features, *masks, directions, power=options.get("power", 2)).item()
    assert SlicedWasserstein(**options)(data).item() == pytest.approx(expected, rel=1e-6)


def test_a_shift_costs_its_square_over_the_width():
    data = batch(domain=(0, 0, 0))
    shift = torch.tensor([1.0, -2.0, 3.0, 0.0])
    both = TransferBatch(torch.cat([data.features, data.features + shift]), domain=torch.arange(6) // 3)
    assert SlicedWasserstein(num_projections=5000)(both).item() == pytest.approx(14 / 4, rel=0.1)


def test_directions_are_new_in_each_step_and_the_same_when_it_is_repeated():
    objective = SlicedWasserstein(num_projections=4)
    values = [objective(batch(progress=torch.tensor(step / 1000))).item() for step in range(5)]
    assert len(set(values)) == 5
    torch.manual_seed(99)
    again = SlicedWasserstein(num_projections=4)  # as after a resume, or on another rank
    assert [again(batch(progress=step / 1000)).item() for step in range(5)] == pytest.approx(values, rel=0.2)
    assert [again(batch(progress=torch.tensor(step / 1000))).item() for step in range(5)] == values


def test_it_draws_no_random_numbers():
    """Dropout and the sampler see the numbers they would without it."""
    state = torch.get_rng_state()
    SlicedWasserstein()(batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(SlicedWasserstein().state_dict())


def test_descent_moves_the_source_towards_the_target():
    data = batch()
    SlicedWasserstein()(data).backward()
    step = -data.features.grad
    assert (step[data.domain == 0].mean(0) > 0).all() and (step[data.domain == 1].mean(0) < 0).all()


def test_three_domains_give_the_mean_over_their_pairs():
    data = batch(domain=(0, 1, 2, 0, 1, 2, 2, 0))
    pairs = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        chosen = (data.domain == a) | (data.domain == b)
        domain = (data.domain[chosen] == b).long()
        pair = TransferBatch(features=data.features[chosen], domain=domain, progress=0.5)
        pairs.append(SlicedWasserstein()(pair).item())
    assert SlicedWasserstein(num_domains=3)(data).item() == pytest.approx(sum(pairs) / 3, rel=1e-5)


def test_the_trainers_progress_chooses_the_directions():
    torch.manual_seed(0)
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    attachment = attach(model, [SlicedWasserstein(num_projections=2, taps=("head", 0))])
    terms = []
    for progress in (0.1, 0.2, 0.1):
        attachment.progress = progress
        model(**batch_for(model))
        terms.append(attachment.terms["sliced_wasserstein"].item())
    assert terms[0] == terms[2] != terms[1]


def test_compiles_in_one_graph():
    check_one_graph(SlicedWasserstein(num_projections=6))


@pytest.mark.parametrize(("power", "count"), [(2, 250), (1, 50)])
def test_degenerate_batches(power, count):
    values = check_degenerate_batches(SlicedWasserstein(num_projections=8, power=power), count)
    assert min(values) == 0 < max(values)


@pytest.mark.parametrize("domain", [(0, 0, 0), (1, 1), (0,)])
def test_one_domain_gives_an_exact_zero_with_a_graph(domain):
    data = batch(domain)
    loss = SlicedWasserstein()(data)
    loss.backward()
    assert loss.item() == 0 and not data.features.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_projections": 0}, "`num_projections=0`: without a direction nothing is compared. Give 1 or more"),
        ({"power": 3}, "`power=3`: the cost is the distance or its square.*Give 1 or 2"),
        ({"num_domains": 1}, "`num_domains=1`: with one domain"),
    ],
)
def test_constructor_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SlicedWasserstein(**options)
