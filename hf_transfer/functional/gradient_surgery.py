r"""
Gradient surgery: how the gradients of several tasks are combined, as functions of their inner products alone.

Each method returns the coefficients $c$ of the combined gradient $\sum_k c_k g_k$ from the Gram matrix
$G_{kl} = \langle g_k, g_l \rangle$. They do not change where all gradients are multiplied by a number, and they are
scaled so that tasks with equal gradients get the plain sum, $c_k = 1$: a learning rate serves with and without them. A
task whose gradient is zero takes no part, and its coefficient, which multiplies nothing, is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_transfer.functional.quadratic_programs import nonnegative_quadratic, simplex_least


__all__ = [
    "cagrad_coefficients",
    "mean_conflict",
    "mgda_coefficients",
    "nash_coefficients",
    "pcgrad_coefficients",
    "random_orders",
    "upgrad_coefficients",
]

_NASH_STEPS = 60
_RIDGE = 1e-10


def pcgrad_coefficients(gram: Tensor, order: Tensor) -> Tensor:
    r"""
    Projecting conflicting gradients (PCGrad): every gradient loses what points against another one.

    Each $g_i$ is projected, for $j \ne i$ in its order, onto the normal plane of the original $g_j$ wherever what is
    left of it has a negative product with $g_j$; the results are added up.

    Args:
        gram (`Tensor`): `(K, K)`.
        order (`Tensor`): `(K, K)` int64: row $i$ is the order in which $g_i$ meets the others; $i$ itself is skipped.

    Shape:
        - returns: `(K,)`.

    Degenerate batches:
        Gradients without conflict keep coefficients of exactly 1.

    Example:
        >>> gram = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
        >>> pcgrad_coefficients(gram, torch.tensor([[0, 1], [0, 1]]))
        tensor([1.5000, 1.5000])

    Paper: Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, https://huggingface.co/papers/2001.06782
    """
    exact, _, present = _wide(gram)
    count = len(exact)
    tasks = torch.arange(count, device=gram.device)
    square = torch.where(present, exact.diagonal(), 1.0)
    mixed = torch.eye(count, dtype=exact.dtype, device=gram.device)  # row i: what has become of gradient i
    for other in order.unbind(1):
        product = (mixed * exact[:, other].T).sum(1)
        against = (product < 0) & (other != tasks) & present[other]
        mixed = mixed.scatter_add(
            1, other.unsqueeze(1), torch.where(against, -product / square[other], 0).unsqueeze(1)
        )
    return _narrow(mixed.sum(0), present, gram)


def random_orders(seed: Tensor, count: int) -> Tensor:
    """
    An order of all tasks for each task, as a function of a number on the device.

    Args:
        seed (`Tensor`): scalar int64.
        count (`int`): number `K` of tasks.

    Shape:
        - returns: `(K, K)` int64, each row a permutation.

    Example:
        >>> random_orders(torch.tensor(3), 4).sort(1).values.tolist()[0]
        [0, 1, 2, 3]
    """
    # A hash and no generator: its state would be on the host, and the number of the step is on the device.
    value = seed * 0x9E3779B1 + torch.arange(count * count, device=seed.device) * 0x85EBCA77
    for shift in (15, 13, 16):
        value = (value ^ ((value & 0xFFFFFFFF) >> shift)) * 0x2C1B3C6D & 0xFFFFFFFF
    return value.view(count, count).argsort(dim=1, stable=True)


def upgrad_coefficients(gram: Tensor) -> Tensor:
    r"""
    Unconflicting projection of gradients (UPGrad): a combined gradient with no negative product with any of them.

    $$ c = \sum_i \arg\min_{v \ge e_i} v^\top G v $$

    which projects each $g_i$ onto the cone of directions that do no task harm, and adds up the projections.

    Args:
        gram (`Tensor`): `(K, K)`.

    Shape:
        - returns: `(K,)`.

    Deviations from the paper:
        The sum of the projections in place of their mean.

    Example:
        >>> upgrad_coefficients(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
        tensor([1.5000, 1.5000])

    Paper: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024,
    https://huggingface.co/papers/2406.16232
    """
    exact, norms, present = _wide(gram)
    cosines = _cosines(gram, exact, norms, present)
    # with v = e_i + x and q = G e_i, batched over i
    raised = nonnegative_quadratic(cosines.expand(len(cosines), -1, -1), cosines)
    raised = torch.where(raised < 1e-6, 0.0, raised) + torch.eye(len(cosines), dtype=exact.dtype, device=gram.device)
    raised = raised * (present.unsqueeze(1) * norms.unsqueeze(1))
    return _narrow(raised.sum(0) / norms, present, gram)


def mgda_coefficients(gram: Tensor) -> Tensor:
    r"""
    Multiple-gradient descent (MGDA): the shortest vector between the gradients, along which all tasks gain alike.

    $$ c = n \arg\min_{w \ge 0, \; \sum w = 1} w^\top G w $$

    over the $n$ tasks whose gradient is not zero.

    Args:
        gram (`Tensor`): `(K, K)`.

    Shape:
        - returns: `(K,)`.

    Deviations from the paper:
        Multiplied by $n$.

    Example:
        >>> mgda_coefficients(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
        tensor([1.6000, 0.4000])

    Paper: Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018,
    https://huggingface.co/papers/1810.04650
    """
    exact, norms, present = _wide(gram)
    level = _level(norms, present)
    # Without the constraint, the quadratic (sum x - 1)^2 beside it leads to a multiple of the same solution.
    both = present.unsqueeze(0) & present.unsqueeze(1)
    matrix = torch.where(both, exact / level**2 + 1, 0) + torch.diag(torch.where(present, _RIDGE, 1.0))
    x = nonnegative_quadratic(matrix, torch.where(present, -1.0, 1.0).to(exact.dtype)) * present
    return _narrow(present.sum() * x / x.sum().clamp(min=_RIDGE), present, gram)


def cagrad_coefficients(gram: Tensor, c: float = 0.4) -> Tensor:
    r"""
    Conflict-averse gradient descent (CAGrad): the direction near the mean gradient that helps the worst task most.

    With the mean gradient $g_0$, $g_w = \sum_k w_k g_k$ and

    $$ w = \arg\min_{w \ge 0, \; \sum w = 1} \langle g_w, g_0 \rangle + c \|g_0\| \|g_w\| $$

    the combined gradient is $n (g_0 + c \frac{\|g_0\|}{\|g_w\|} g_w) / (1 + c)$ over the $n$ tasks whose gradient is
    not zero.

    Args:
        gram (`Tensor`): `(K, K)`.
        c (`float`, *optional*, defaults to 0.4): how far from the mean gradient to look, as a share of its length, in
            [0, 1) (dimensionless). 0 gives the plain sum.

    Shape:
        - returns: `(K,)`.

    Deviations from the paper:
        Multiplied by $n / (1 + c)$.

    Example:
        >>> cagrad_coefficients(torch.tensor([[1.0, 0.0], [0.0, 4.0]]), 0.5)
        tensor([1.4120, 0.6667])

    Paper: Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021,
    https://huggingface.co/papers/2110.14048
    """
    exact, norms, present = _wide(gram)
    exact = exact / _level(norms, present) ** 2
    count = present.sum().clamp(min=1)
    mean = present.to(exact.dtype) / count
    length = (mean @ exact @ mean).clamp(min=0).sqrt()
    # an absent task would be the worst of all: it is made the best
    linear = exact @ mean + 1e3 * ~present
    w = simplex_least(exact, linear, c * length) * present
    w = w / w.sum().clamp(min=_RIDGE)
    share = c * length / (w @ exact @ w).clamp(min=0).add(1e-14).sqrt()
    return _narrow((1 + count * share * w) / (1 + c), present, gram)


def nash_coefficients(gram: Tensor) -> Tensor:
    r"""
    Nash bargaining (Nash-MTL): the combination to which all tasks would agree, whatever the scales of their losses.

    $G \alpha = 1 / \alpha$, entry by entry, is where the strictly convex
    $\frac{1}{2} \alpha^\top G \alpha - \sum_k \log \alpha_k$ is least, found by Newton's method;
    $c = n \alpha / \sum_k \alpha_k$ over the $n$ tasks whose gradient is not zero.

    Args:
        gram (`Tensor`): `(K, K)`.

    Shape:
        - returns: `(K,)`, positive.

    Deviations from the paper:
        The exact solution in place of a sequence of approximations, with a small ridge for opposite gradients, which
        have none; scaled to a sum of $n$; solved anew in every step.

    Example:
        >>> nash_coefficients(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
        tensor([1.3333, 0.6667])

    Paper: Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, https://huggingface.co/papers/2202.01017
    """
    exact, norms, present = _wide(gram)
    cosines = _cosines(gram, exact, norms, present)
    alpha = torch.ones_like(norms)
    for _ in range(_NASH_STEPS):
        gradient = cosines @ alpha - 1 / alpha
        step = torch.linalg.solve_ex(cosines + torch.diag(alpha**-2), -gradient)[0]
        # The function is self-concordant: this length descends from anywhere, and the full step is safe nearby.
        decrement = (-gradient @ step).clamp(min=0).sqrt()
        moved = alpha + step * torch.where(decrement > 0.25, 1 / (1 + decrement), 1.0)
        alpha = torch.maximum(moved, alpha / 10)  # rounding, where gradients are opposite
    alpha = alpha / norms * present
    return _narrow(present.sum() * alpha / alpha.sum().clamp(min=torch.finfo(alpha.dtype).tiny), present, gram)


def mean_conflict(gram: Tensor) -> Tensor:
    """
    Share of the pairs of tasks whose gradients have a negative product; zero where fewer than two have a gradient.

    Shape:
        - `gram`: `(K, K)`.
        - returns: scalar float32 in [0, 1].

    Example:
        >>> mean_conflict(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
        tensor(1.)
    """
    present = gram.diagonal() > 0
    pairs = (present.unsqueeze(0) & present.unsqueeze(1)).triu(1)
    return ((gram < 0) & pairs).sum().float() / pairs.sum().clamp(min=1)


def _wide(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix in float64, the lengths of the gradients (1 where they are zero), and which are not."""
    exact = gram.to(torch.float32 if gram.device.type == "mps" else torch.float64)  # MPS has no float64
    exact = (exact + exact.T) / 2
    largest = exact.diagonal().amax().clamp(min=torch.finfo(torch.float32).tiny)
    exact = exact / largest  # coefficients do not change, and products of tiny gradients stay above zero
    present = exact.diagonal() > 1e-24
    return exact, torch.where(present, exact.diagonal(), 1.0).sqrt(), present


def _cosines(gram: Tensor, exact: Tensor, norms: Tensor, present: Tensor) -> Tensor:
    """The matrix of gradients of length one; the absent are at right angles to all others."""
    ridge = 1e-8 if gram.dtype == torch.float64 else 1e-5  # above the rounding of the products
    both = present.unsqueeze(0) & present.unsqueeze(1)
    cosines = torch.where(both, exact / torch.outer(norms, norms), 0)
    eye = torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    return cosines * (1 - eye) + eye * (1 + ridge)


def _level(norms: Tensor, present: Tensor) -> Tensor:
    """The root mean square length of the gradients there are."""
    return ((norms**2 * present).sum() / present.sum().clamp(min=1)).clamp(min=1e-24).sqrt()


def _narrow(coefficients: Tensor, present: Tensor, gram: Tensor) -> Tensor:
    return torch.where(present, coefficients, 1.0).to(gram.dtype)
