from __future__ import annotations

import pytest
import torch

from hf_transfer.objectives.multitask.branching import Leaves, delivered, views


def test_views_combine_what_arrives_and_leave_other_paths_alone():
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    seen = []

    def combine(gradients):
        seen.append(gradients)
        return gradients[0] - 2 * gradients[1]

    y = 3 * x
    first, second = views(y, 2, combine)
    assert torch.equal(first, y) and torch.equal(second, y)
    (first.square().sum() + second.sum() + y.sum()).backward()
    assert torch.equal(seen[0], torch.stack([6 * x.detach(), torch.ones(3).double()]))
    # twice: what the combination makes of it, and the path beside the views
    assert torch.equal(x.grad, 3 * (6 * x.detach() - 2) + 3)


def test_a_view_that_nobody_uses_arrives_as_zeros():
    x = torch.ones(2, 3, requires_grad=True)
    seen = []
    first, _ = views(x, 2, lambda gradients: seen.append(gradients) or gradients.sum(0))
    first.sum().backward()
    assert seen[0].shape == (2, 6) and not seen[0][1].any()
    assert torch.equal(x.grad, torch.ones(2, 3))


def test_delivered_gradients_are_scaled_as_the_value_and_add_to_others():
    p, q = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    value = p.sum() * 2
    given = [torch.tensor([1.0, -1.0]), torch.tensor([1.0, 2.0, 3.0])]
    total = delivered(value, [p, q], given)
    assert torch.equal(total, value)
    (0.25 * total).backward()
    assert torch.equal(p.grad, 0.25 * (given[0] + 2)) and torch.equal(q.grad, 0.25 * given[1])


def test_delivered_gradients_wait_for_the_backward():
    p = torch.ones(2, requires_grad=True)
    total = delivered(p.sum() * 0, [p], [torch.ones(2)])
    assert p.grad is None
    calls = []
    p.register_post_accumulate_grad_hook(lambda _: calls.append(1))  # as DDP's
    (total + p.square().sum()).backward()
    assert calls == [1] and torch.equal(p.grad, torch.full((2,), 3.0))


def test_leaves_end_the_backward_and_know_the_gradient_there():
    x = torch.randn(4, requires_grad=True)
    y, z = x * 2, x * 3
    leaves = Leaves([y, z, y])
    assert leaves.inputs[0] is leaves.inputs[2] and leaves.sources[0] is y and leaves.sources[1] is z
    w = torch.ones((), requires_grad=True)
    loss = (leaves.inputs[0] * w).sum() + leaves.inputs[2].square().sum()
    found = leaves.gradients(loss)
    assert found[0] is not None and found[1] is None
    torch.testing.assert_close(found[0], 1 + 2 * y.detach())
    loss.backward()  # the graph was kept
    assert x.grad is None and w.grad.item() == pytest.approx(y.sum().item(), rel=1e-5)


def test_what_has_no_graph_is_no_source():
    constant = torch.ones(2)
    leaves = Leaves([constant, torch.ones(2, requires_grad=True) * 2])
    assert not leaves.inputs[0].requires_grad and len(leaves.sources) == 1
