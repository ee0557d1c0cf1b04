"""Linear CKA against the definition written out, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.cka import linear_cka


def pair(rows=12, widths=(5, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in widths)
    y[:, 0] += x[:, 0]
    return x, y


def gram(x):
    return [[sum(a * b for a, b in zip(first, second, strict=True)) for second in x.tolist()] for first in x.tolist()]


def naive_unbiased(k, l):  # noqa: E741
    """HSIC by the sums over tuples of different rows that define the U-statistic."""
    n = len(k)
    pairs = sum(k[i][j] * l[i][j] for i in range(n) for j in range(n) if i != j)
    triples = sum(k[i][j] * l[i][q] for i in range(n) for j in range(n) for q in range(n) if len({i, j, q}) == 3)
    fours = sum(
        k[i][j] * l[q][r]
        for i in range(n)
        for j in range(n)
        for q in range(n)
        for r in range(n)
        if len({i, j, q, r}) == 4
    )
    two, three, four = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
    return pairs / two - 2 * triples / three + fours / four


def naive_biased(k, l):  # noqa: E741
    n = len(k)

    def centred(m):
        rows = [sum(row) / n for row in m]
        whole = sum(rows) / n
        return [[m[i][j] - rows[i] - rows[j] + whole for j in range(n)] for i in range(n)]

    k, l = centred(k), centred(l)  # noqa: E741
    return sum(k[i][j] * l[i][j] for i in range(n) for j in range(n)) / (n - 1) ** 2


@pytest.mark.parametrize("widths", [(3, 4), (20, 6), (20, 30)], ids=["features", "mixed", "rows"])
@pytest.mark.parametrize(("debiased", "naive"), [(True, naive_unbiased), (False, naive_biased)])
def test_definition(widths, debiased, naive):
    x, y = pair(9, widths)
    k, l = gram(x), gram(y)  # noqa: E741
    expected = naive(k, l) / math.sqrt(naive(k, k) * naive(l, l))
    assert linear_cka(x, y, debiased=debiased).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("widths", [(3, 4), (20, 30)])
def test_features_and_rows_give_the_same(widths, debiased):
    """A width that does not vary changes nothing but the way it is computed."""
    x, y = pair(16, widths)
    wide = torch.cat([x, torch.zeros(16, 40, dtype=x.dtype)], 1)
    assert linear_cka(wide, y, debiased=debiased).item() == pytest.approx(linear_cka(x, y, debiased=debiased).item())


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("widths", [(5, 7), (30, 40)])
def test_rotation_scale_and_shift_change_nothing(widths, debiased):
    x, y = pair(20, widths)
    rotation = torch.linalg.qr(torch.randn(widths[0], widths[0], dtype=x.dtype))[0]
    expected = linear_cka(x, y, debiased=debiased).item()
    moved = 1e3 * x @ rotation + 1e4 * torch.randn(1, widths[0], dtype=x.dtype)
    assert linear_cka(moved, y, debiased=debiased).item() == pytest.approx(expected, abs=1e-9)
    assert linear_cka(y, x, debiased=debiased).item() == pytest.approx(expected, abs=1e-12)
    # but one feature that outweighs the others does
    stretched = x * torch.tensor([100.0, *[1.0] * (widths[0] - 1)])
    assert linear_cka(stretched, y, debiased=debiased).item() != pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("debiased", [True, False])
def test_one_for_equal(debiased):
    x, _ = pair(20, (30, 3))
    assert linear_cka(x, x, debiased=debiased).item() == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, -2 * x + 7, debiased=debiased).item() == pytest.approx(1.0, abs=1e-12)


def test_independent_features_wider_than_the_rows():
    values = {True: [], False: []}
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(50, 400, generator=generator), torch.randn(50, 300, generator=generator)
        for debiased in values:
            values[debiased].append(linear_cka(x, y, debiased=debiased).item())
    debiased, biased = torch.tensor(values[True]), torch.tensor(values[False])
    assert abs(debiased.mean()) < 3 * debiased.std() / math.sqrt(30) and debiased.abs().max() < 0.1
    assert debiased.min() < 0
    assert biased.min() > 0.8


def test_half_precision_is_computed_in_double():
    x, y = pair(40)
    x, y = 1000 * x.half(), 1000 * y.half()
    assert torch.isfinite(x).all()
    assert linear_cka(x, y).dtype == torch.float64
    assert linear_cka(x, y).item() == pytest.approx(linear_cka(x.double(), y.double()).item(), abs=1e-12)


def test_there_is_a_gradient():
    x, y = pair(10)
    x.requires_grad_(True)
    linear_cka(x, y).backward()
    step = 1e-6 * torch.ones_like(x) * torch.arange(5)
    expected = (linear_cka(x + step, y) - linear_cka(x - step, y)).item() / 2
    assert (x.grad * step).sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("width", [2, 40])
def test_rows_that_do_not_vary(width, debiased):
    x, y = pair(10)
    x, y = x[:7], y[:7]
    constant = torch.full((7, width), 0.1, dtype=torch.float64)
    assert torch.isnan(linear_cka(constant, y, debiased=debiased))
    assert torch.isnan(linear_cka(x, constant, debiased=debiased))
    one = torch.zeros(7, width, dtype=torch.float64)
    one[3] = 2.0
    assert torch.isnan(linear_cka(one, y, debiased=debiased)) == debiased
    tiny = 1e-30 * x  # varies, if little
    assert linear_cka(tiny, x, debiased=debiased).item() == pytest.approx(1.0)


def test_refusals():
    x, y = pair(10)
    with pytest.raises(ValueError, match=r"shapes \(10, 5\) and \(9, 7\) cannot be compared: .*same example.*Give"):
        linear_cka(x, y[:9])
    with pytest.raises(ValueError, match=r"shapes \(10, 5, 1\).*pool tokens"):
        linear_cka(x[..., None], y)
    with pytest.raises(ValueError, match="3 rows are too few: the estimate needs 4 .*Give more rows"):
        linear_cka(x[:3], y[:3])
    assert torch.isfinite(linear_cka(x[:3], y[:3], debiased=False))
    with pytest.raises(ValueError, match="1 rows are too few: the estimate needs 2"):
        linear_cka(x[:1], y[:1], debiased=False)
    y[0, 0] = float("inf")
    with pytest.raises(ValueError, match="`y` has numbers that are not finite.*so would be.*single precision"):
        linear_cka(x, y)
