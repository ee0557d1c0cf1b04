from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_transfer import L2SP, DomainAdversarial, attach
from hf_transfer.objectives.multitask.branching import Leaves
from hf_transfer.objectives.multitask.task_gradients import TaskGradients, shared_parameters
from tests.models import tiny_bert


def plain_sum(gram):
    return torch.ones(len(gram), dtype=gram.dtype)


def uneven(gram):
    """Not linear, and of degree zero: as the methods are."""
    return gram.sum(0) / gram.diagonal().sum()


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def losses_of(inputs):
    return torch.stack([inputs[0].square().mean(), (inputs[1] - 1).pow(3).mean()])


def contribution(gradients, body, x, coefficients):
    hidden = body(x)
    leaves = Leaves([hidden, hidden])
    return gradients.contribution(losses_of(leaves.inputs), leaves, shared_parameters(body), coefficients)


def rows_of(body, x):
    hidden = body(x)
    found = [torch.autograd.grad(loss, list(body.parameters()), retain_graph=True) for loss in losses_of([hidden] * 2)]
    return torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in found])


def data(count=8):
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def joined(pieces):
    return torch.cat([piece.flatten() for piece in pieces])


@pytest.mark.parametrize("coefficients", [plain_sum, uneven])
def test_one_micro_batch_gives_the_combination(coefficients):
    body, x = module(), data()
    parameters, pieces = contribution(TaskGradients(), body, x, coefficients)
    rows = rows_of(body, x)
    assert [id(p) for p in parameters] == [id(p) for p in body.parameters()]
    torch.testing.assert_close(joined(pieces), coefficients(rows @ rows.T) @ rows, atol=1e-6, rtol=1e-5)
    assert [piece.dtype for piece in pieces] == [torch.float64] * 4


def test_contributions_add_up_to_the_combination_of_the_sums():
    body, x = module(), data(12)
    gradients, total = TaskGradients(), 0
    for part in x.split(3):
        total = total + joined(contribution(gradients, body, part, uneven)[1])
    rows = sum(rows_of(body, part) for part in x.split(3))
    torch.testing.assert_close(total, uneven(rows @ rows.T) @ rows, atol=1e-6, rtol=1e-5)
    gradients.reset()
    again = joined(contribution(gradients, body, x, uneven)[1])
    alone = joined(contribution(TaskGradients(), body, x, uneven)[1])
    torch.testing.assert_close(again, alone)


def test_no_parameter_gets_a_gradient_on_the_way():
    body = module()
    calls = []
    for parameter in body.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: calls.append(1))
    contribution(TaskGradients(), body, data(), plain_sum)
    assert not calls and all(parameter.grad is None for parameter in body.parameters())


def test_tiny_gradients_survive_half_precision():
    torch.manual_seed(0)
    body = nn.Linear(3, 2).half()
    x = torch.randn(4, 3).half()
    leaves = Leaves([body(x).float()])
    losses = leaves.inputs[0].sum().unsqueeze(0) * 1e-9  # half precision ends at 6e-8
    _, pieces = TaskGradients().contribution(
        losses, leaves, shared_parameters(body), lambda gram: 1e9 * plain_sum(gram)
    )
    torch.testing.assert_close(pieces[0].float(), x.float().sum(0).expand(2, 3), atol=2e-2, rtol=1e-2)


def test_gradients_near_the_end_of_half_precision_survive_too():
    body, x = nn.Linear(3, 2).half(), torch.ones(4, 3).half()
    leaves = Leaves([body(x).float()])
    losses = leaves.inputs[0].sum().unsqueeze(0) * 1e6
    _, pieces = TaskGradients().contribution(losses, leaves, shared_parameters(body), lambda g: 1e-6 * plain_sum(g))
    assert torch.equal(pieces[0].float(), torch.full((2, 3), 4.0))


def test_shared_are_the_trained_parameters_without_those_of_objectives():
    model = tiny_bert()
    model.bert.embeddings.requires_grad_(False)
    expected = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with attach(model, [DomainAdversarial(hidden_size=4), L2SP()]):
        found = shared_parameters(model)
        assert len(list(model.parameters())) > len(list(found)) + 5
    assert [id(p) for p in found] == [id(p) for p in expected]
