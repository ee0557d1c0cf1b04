"""The inner loop against closed forms, finite differences and loops written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.meta_learning import inner_loop, pseudo_gradient, stable_rate


def quadratic(seed: int = 0, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A positive definite matrix, a minimum and a start, float64."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(width, width, generator=generator, dtype=torch.float64)
    centre, start = torch.randn(2, width, generator=generator, dtype=torch.float64)
    return root @ root.T / width + torch.eye(width), centre, start


def test_a_quadratic_is_descended_as_on_paper():
    matrix, centre, start = quadratic()

    def loss(parameters, step):
        away = parameters["w"] - centre
        return 0.5 * away @ matrix @ away

    adapted, losses = inner_loop(loss, {"w": start}, 0.1, steps=5)
    shrink = torch.eye(4) - 0.1 * matrix
    torch.testing.assert_close(adapted["w"], centre + torch.linalg.matrix_power(shrink, 5) @ (start - centre))
    for step, value in enumerate(losses):
        away = torch.linalg.matrix_power(shrink, step) @ (start - centre)
        torch.testing.assert_close(value, 0.5 * away @ matrix @ away)


def test_second_order_holds_the_hessian_and_first_order_leaves_it_out():
    matrix, centre, start = quadratic(1)
    start.requires_grad_()
    target = torch.arange(4, dtype=torch.float64)

    def gradient(first_order: bool) -> Tensor:
        def loss(parameters, step):
            away = parameters["w"] - centre
            return 0.5 * away @ matrix @ away

        adapted, _ = inner_loop(loss, {"w": start}, 0.1, steps=3, first_order=first_order)
        return torch.autograd.grad(0.5 * (adapted["w"] - target).square().sum(), start)[0]

    shrink = torch.linalg.matrix_power(torch.eye(4) - 0.1 * matrix, 3)
    at_the_end = centre + shrink @ (start.detach() - centre) - target
    torch.testing.assert_close(gradient(True), at_the_end)
    torch.testing.assert_close(gradient(False), shrink @ at_the_end)


def small_network(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
    return torch.tanh(rows @ parameters["w"].T + parameters["b"]) @ parameters["v"].T


def test_the_meta_gradient_of_a_network_is_that_of_finite_differences():
    torch.manual_seed(0)
    rows, asked = torch.randn(6, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    labels, wanted = torch.arange(6) % 2, torch.arange(8) % 2
    shapes = {"w": (4, 3), "b": (4,), "v": (2, 4)}

    def query_loss(*values: Tensor) -> Tensor:
        start = dict(zip(shapes, values, strict=False))
        rates = {name: values[3] for name in shapes}
        adapted, _ = inner_loop(
            lambda parameters, step: F.cross_entropy(small_network(parameters, rows), labels), start, rates, steps=3
        )
        return F.cross_entropy(small_network(adapted, asked), wanted)

    values = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes.values()]
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(query_loss, (*values, rate))


def test_batched_over_tasks_it_is_the_loop_over_them():
    torch.manual_seed(1)
    rows, labels = torch.randn(3, 6, 3, dtype=torch.float64), torch.arange(6) % 2
    start = {"w": torch.randn(4, 3), "b": torch.randn(4), "v": torch.randn(2, 4)}
    start = {name: value.double().requires_grad_() for name, value in start.items()}

    def task(rows: Tensor, first_order: bool) -> Tensor:
        adapted, _ = inner_loop(
            lambda parameters, step: F.cross_entropy(small_network(parameters, rows), labels),
            start,
            0.5,
            steps=2,
            first_order=first_order,
        )
        return F.cross_entropy(small_network(adapted, rows + 1), labels)

    for first_order in (False, True):
        batched = torch.func.vmap(lambda one, order=first_order: task(one, order))(rows)
        looped = torch.stack([task(one, first_order) for one in rows])
        torch.testing.assert_close(batched, looped)
        for one, other in zip(
            torch.autograd.grad(batched.sum(), list(start.values())),
            torch.autograd.grad(looped.sum(), list(start.values())),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


def test_rates_by_name_move_each_parameter_by_its_own():
    start = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.0])}
    rates = {"a": torch.tensor([0.0, 0.5]), "b": 0.25}
    adapted, _ = inner_loop(lambda p, step: p["a"].sum() + p["b"].sum(), start, rates, steps=2)
    torch.testing.assert_close(adapted, {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.5])})


def test_every_step_may_have_rows_of_its_own():
    adapted, losses = inner_loop(lambda p, step: (step + 1) * p["w"], {"w": torch.tensor(0.0)}, 1.0, steps=3)
    assert adapted["w"].item() == -6 and losses.tolist() == [0, -2, -9]


def test_one_step_of_reptile_is_a_step_of_sgd():
    torch.manual_seed(2)
    rows, labels = torch.randn(3, 6, 3, dtype=torch.float64), torch.arange(6) % 2
    start = {"w": torch.randn(4, 3), "b": torch.randn(4), "v": torch.randn(2, 4)}
    start = {name: value.double().requires_grad_() for name, value in start.items()}

    def loss(parameters, one):
        return F.cross_entropy(small_network(parameters, one), labels)

    ends = [inner_loop(lambda p, step, one=one: loss(p, one), start, 0.2, steps=1)[0] for one in rows]
    found = pseudo_gradient(start, {name: torch.stack([end[name] for end in ends]) for name in start})
    plain = torch.autograd.grad(torch.stack([loss(start, one) for one in rows]).mean(), list(start.values()))
    for name, gradient in zip(start, plain, strict=True):
        torch.testing.assert_close(found[name], 0.2 * gradient)
        assert not found[name].requires_grad


def test_first_order_keeps_no_graph_of_its_steps():
    start = torch.tensor(1.0, requires_grad=True)
    adapted, losses = inner_loop(lambda p, step: p["w"] ** 4, {"w": start}, 0.01, steps=3, first_order=True)
    assert torch.autograd.grad(adapted["w"], start)[0].item() == 1 and not losses.requires_grad


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="`steps=0`: without a step .* Pass 1 or more"):
        inner_loop(lambda p, step: p["w"], {"w": torch.ones(())}, 0.1, steps=0)


def test_the_stable_rate_is_four_over_the_mean_square():
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    total = sum(1 + sum(value**2 for value in row) for row in features.tolist())
    rate = stable_rate(features)
    assert rate.item() == pytest.approx(4 / (total / 7)) and not rate.requires_grad


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e3])
def test_at_the_stable_rate_a_softmax_head_never_gets_worse(scale):
    generator = torch.Generator().manual_seed(0)
    for draw in range(40):
        rows, classes = 5 + draw % 7, 2 + draw % 4
        features = scale * torch.randn(rows, 6, generator=generator, dtype=torch.float64)
        features[:, 0] += 3 * scale * (draw % 3)  # a common direction has the largest curvature
        labels = torch.randint(classes, (rows,), generator=generator)
        start = {
            "weight": torch.randn(classes, 6, generator=generator, dtype=torch.float64) / scale,
            "bias": torch.zeros(classes, dtype=torch.float64),
        }
        rates = dict.fromkeys(start, stable_rate(features))

        def loss(p, step, features=features, labels=labels):
            return F.cross_entropy(F.linear(features, p["weight"], p["bias"]), labels)

        _, losses = inner_loop(loss, start, rates, steps=20)
        assert (losses.diff() <= 1e-12).all()


def test_ten_times_that_rate_can_be_too_much():
    features = torch.tensor([[3.0, 0.1], [3.0, -0.1]], dtype=torch.float64)
    start = {"weight": torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)}
    start["bias"] = torch.zeros(2, dtype=torch.float64)
    rates = dict.fromkeys(start, 10 * stable_rate(features))
    _, losses = inner_loop(
        lambda p, step: F.cross_entropy(F.linear(features, p["weight"], p["bias"]), torch.tensor([0, 1])),
        start,
        rates,
        steps=5,
    )
    assert losses.diff().max() > 0
