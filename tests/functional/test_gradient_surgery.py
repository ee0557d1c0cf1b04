"""Coefficients of gradient surgery against computations on the gradients themselves."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hf_transfer.functional.gradient_surgery import (
    cagrad_coefficients,
    mean_conflict,
    mgda_coefficients,
    nash_coefficients,
    pcgrad_coefficients,
    random_orders,
    upgrad_coefficients,
)


def in_order(gram):
    return pcgrad_coefficients(gram, torch.arange(len(gram)).expand(len(gram), -1))


METHODS = {
    "pcgrad": in_order,
    "upgrad": upgrad_coefficients,
    "mgda": mgda_coefficients,
    "cagrad": cagrad_coefficients,
    "nash": nash_coefficients,
}
SIZES = [(2, 3), (3, 3), (4, 10), (7, 9)]
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def gradients(count, width, seed=0, uneven=True):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, dtype=torch.float64, generator=generator)
    return rows * torch.logspace(-1, 1, count).double().unsqueeze(1) if uneven else rows


def combined(method, rows):
    return method(rows @ rows.T) @ rows


@pytest.mark.parametrize(("count", "width"), SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pcgrad_projects_vector_by_vector(count, width, seed):
    rows = gradients(count, width, seed)
    order = random_orders(torch.tensor(seed), count)
    total = torch.zeros(width).double()
    for i in range(count):
        mine = rows[i].clone()
        for j in order[i].tolist():
            if j != i and mine @ rows[j] < 0:
                mine -= (mine @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += mine
    torch.testing.assert_close(combined(partial(pcgrad_coefficients, order=order), rows), total)


@pytest.mark.parametrize(("count", "width"), SIZES)
@pytest.mark.parametrize("c", [0.0, 0.2, 0.7])
def test_cagrad_against_slsqp(count, width, c):
    rows = gradients(count, width, uneven=False).numpy()
    mean = rows.mean(0)

    def dual(w):
        return (w @ rows) @ mean + c * np.linalg.norm(mean) * np.linalg.norm(w @ rows)

    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    start = np.full(count, 1 / count)
    w = minimize(dual, start, bounds=[(0, 1)] * count, constraints=simplex, options={"ftol": 1e-15}).x
    toward = w @ rows
    expected = count * (mean + c * np.linalg.norm(mean) / np.linalg.norm(toward) * toward) / (1 + c)
    found = combined(partial(cagrad_coefficients, c=c), torch.tensor(rows))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3 * np.linalg.norm(expected))


def test_cagrad_is_the_direction_within_reach_that_helps_the_worst_task_most():
    rows, c = gradients(3, 4, seed=3), 0.5
    mean = rows.mean(0)
    found = combined(partial(cagrad_coefficients, c=c), rows) * (1 + c) / 3
    assert (found - mean).norm().item() == pytest.approx(c * mean.norm().item(), rel=1e-5)
    generator = torch.Generator().manual_seed(0)
    aside = torch.randn(20_000, 4, dtype=torch.float64, generator=generator)
    others = mean + c * mean.norm() * aside / aside.norm(dim=1, keepdim=True)
    worst = (others @ rows.T).amin(1).amax()
    assert (rows @ found).amin() >= worst


@pytest.mark.parametrize(("count", "width"), SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_nash_solves_its_equation_and_does_not_depend_on_the_scales_of_losses(count, width, seed):
    rows = gradients(count, width, seed)
    gram = rows @ rows.T
    found = nash_coefficients(gram)
    assert (found > 0).all() and found.sum().item() == pytest.approx(count)
    product = (gram @ found) * found  # G a = 1 / a up to the scale of a
    torch.testing.assert_close(product, product.mean().expand(count), rtol=1e-6, atol=0)
    scales = torch.logspace(-3, 3, count).double()
    scaled = combined(nash_coefficients, rows * scales.unsqueeze(1))
    one = combined(nash_coefficients, rows)
    assert torch.cosine_similarity(scaled, one, 0).item() == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(("count", "width"), SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_upgrad_adds_up_projections_onto_the_cone_that_harms_no_task(count, width, seed):
    rows = gradients(count, width, seed, uneven=False)
    expected = np.zeros(width)
    for row in rows.numpy():
        # the nearest point of {x: <x, g_k> >= 0}
        harmless = {"type": "ineq", "fun": lambda x: rows.numpy() @ x, "jac": lambda x: rows.numpy()}
        nearest = minimize(
            lambda x, row=row: ((x - row) ** 2).sum(),
            rows.sum(0).numpy(),
            jac=lambda x, row=row: 2 * (x - row),
            constraints=harmless,
            options={"ftol": 1e-16, "maxiter": 500},
        )
        expected += nearest.x
    found = combined(upgrad_coefficients, rows)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert (rows @ found > -1e-6).all()


@pytest.mark.parametrize(("count", "width"), SIZES)
def test_mgda_is_the_shortest_vector(count, width):
    rows = gradients(count, width, uneven=False)
    start = np.full(count, 1 / count)
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}
    options = {"ftol": 1e-16}
    gram = (rows @ rows.T).numpy()
    best = minimize(lambda w: w @ gram @ w, start, bounds=[(0, 1)] * count, constraints=simplex, options=options)
    found = mgda_coefficients(rows @ rows.T) / count
    assert (found >= 0).all() and found.sum().item() == pytest.approx(1)
    np.testing.assert_allclose((found @ rows).numpy(), best.x @ rows.numpy(), atol=1e-4)


def test_two_tasks_with_mgda_have_the_closed_form_of_the_paper():
    for seed in range(10):
        first, second = gradients(2, 3, seed)
        share = float(((second - first) @ second / ((first - second) @ (first - second))).clamp(0, 1))
        found = mgda_coefficients(torch.stack([first, second]) @ torch.stack([first, second]).T) / 2
        assert found.tolist() == pytest.approx([share, 1 - share], abs=1e-6)


@pytest.mark.parametrize("method", ["pcgrad", "upgrad"])
def test_gradients_that_agree_are_added_up(method):
    rows = gradients(5, 8).abs()
    torch.testing.assert_close(combined(METHODS[method], rows), rows.sum(0), atol=1e-9, rtol=1e-9)


@every_method
def test_equal_gradients_are_added_up(method):
    rows = gradients(1, 6).expand(4, -1)
    torch.testing.assert_close(combined(method, rows), rows.sum(0), atol=1e-5, rtol=1e-5)


@every_method
def test_coefficients_do_not_depend_on_the_common_scale(method):
    gram = gradients(4, 6) @ gradients(4, 6).T
    for scale in (1e-12, 1e-3, 1e8):
        torch.testing.assert_close(method(gram * scale), method(gram), atol=1e-6, rtol=1e-6)


@every_method
def test_a_task_without_gradient_takes_no_part(method):
    rows = gradients(4, 6, seed=2)
    alone = method(rows @ rows.T)
    padded = torch.stack([rows[0], rows[1], torch.zeros(6).double(), rows[2], rows[3]])
    found = method(padded @ padded.T)
    torch.testing.assert_close(found[[0, 1, 3, 4]], alone, atol=1e-5, rtol=1e-5)
    assert found[2].item() == 1


@every_method
def test_one_task_and_no_gradient_at_all_are_left_alone(method):
    torch.testing.assert_close(method(torch.tensor([[3.0]])), torch.ones(1), atol=1e-6, rtol=0)
    assert method(torch.zeros(3, 3)).tolist() == [1, 1, 1]
    lone = torch.zeros(3, 3)
    lone[1, 1] = 4.0
    torch.testing.assert_close(method(lone), torch.ones(3), atol=1e-5, rtol=0)


@every_method
def test_opposite_gradients_give_something_finite(method):
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert combined(method, rows).abs().max() < 1e-3


@every_method
def test_the_dtype_of_the_matrix_is_kept(method):
    assert method(torch.eye(3)).dtype == torch.float32


def test_random_degenerate_matrices_give_finite_coefficients():
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        count = 2 + number % 4
        rows = torch.randn(count, 1 + number % 3, generator=generator)
        rows *= 10 ** (torch.rand(count, 1, generator=generator) * 12 - 8)
        rows *= torch.rand(count, 1, generator=generator) > 0.2
        if number % 5 == 0:
            rows[1] = -rows[0]
        for name, method in METHODS.items():
            found = method(rows @ rows.T)
            assert found.isfinite().all() and (found >= -1e-6).all(), (name, rows)
            assert (found @ rows).norm() <= 1e3 * count * rows.norm(dim=1).max() + 1e-30, (name, rows)


def test_orders_are_permutations_that_change_from_step_to_step_and_repeat():
    orders = torch.stack([random_orders(torch.tensor(step), 4) for step in range(600)])
    assert torch.equal(orders.sort(-1).values, torch.arange(4).expand(600, 4, 4))
    assert torch.equal(orders[7], random_orders(torch.tensor(7), 4))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(-1)
    for task in range(4):
        counts = codes[:, task].unique(return_counts=True)[1]
        assert len(counts) == 24 and counts.max() < 60  # 25 of each on average
    assert (codes[:, 0] == codes[:, 1]).float().mean() < 0.15  # independent of each other


def test_share_of_conflicting_pairs():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0], [0.5, 0.2]])
    assert mean_conflict(rows @ rows.T).item() == pytest.approx(2 / 3)
    assert mean_conflict(torch.zeros(2, 2)).item() == 0
