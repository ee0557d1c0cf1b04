"""A teacher's logits in few numbers: the largest and the mass of the rest, or half precision, and what that costs."""

from __future__ import annotations

import math

import torch
from torch import Tensor


__all__ = ["half_precision_bound", "keep_top_k", "restore_top_k", "top_k_bound"]


def keep_top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""
    The `k` largest logits, their classes, and the log-sum-exp of all others.

    Args:
        logits (`Tensor`): of any float type; the last dimension is that of the classes.
        k (`int`): how many are kept, from 1 to $C - 1$.

    Shape:
        - `logits`: `(..., C)`.
        - returns `(..., k)` float32 from the largest, `(..., k)` int64 and `(...)` float32.

    Raises:
        ValueError: if `k` is not in `[1, C)`.

    Example:
        >>> values, indices, rest = keep_top_k(torch.tensor([[0.0, 3.0, 0.0]]), 1)
        >>> values.tolist(), indices.tolist(), round(float(rest.exp()), 6)
        ([[3.0]], [[1]], 2.0)
    """
    classes = logits.shape[-1]
    if not 1 <= k < classes:
        raise ValueError(
            f"k={k} of {classes} classes: nothing would be left out, or nothing kept. Give a number from 1 to "
            f'{classes - 1}, or store all logits with `store="float32"` or `"float16"`.'
        )
    # in double precision: the rest may be many small parts
    ordered, order = logits.double().sort(dim=-1, descending=True, stable=True)
    return ordered[..., :k].float(), order[..., :k].contiguous(), ordered[..., k:].logsumexp(-1).float()


def restore_top_k(values: Tensor, indices: Tensor, log_rest: Tensor, num_classes: int) -> Tensor:
    r"""
    Logits of all classes: the stored ones, and the mass of the rest in equal parts.

    With the log-sum-exp $\ell$ of the $C - k$ logits that were not stored, each of these becomes
    $\ell - \log(C - k)$. At temperature 1 the stored probabilities are exact but for rounding.

    Args:
        values (`Tensor`): logits of the classes stored.
        indices (`Tensor`): which they are.
        log_rest (`Tensor`): $\ell$.
        num_classes (`int`): $C$.

    Shape:
        - `values`, `indices`: `(..., k)`; `log_rest`: `(...)`.
        - returns `(..., C)` float32.

    Example:
        >>> restored = restore_top_k(torch.tensor([[0.5]]).log(), torch.tensor([[1]]), torch.tensor([0.5]).log(), 3)
        >>> restored.exp()
        tensor([[0.2500, 0.5000, 0.2500]])
    """
    values = values.float()
    share = (log_rest.float() - math.log(num_classes - values.shape[-1])).unsqueeze(-1)
    return share.expand(*values.shape[:-1], num_classes).scatter(-1, indices.long(), values)


def top_k_bound(
    values: Tensor,
    log_rest: Tensor,
    num_classes: int,
    *,
    student_range: Tensor | float,
    temperature: float = 1.0,
) -> Tensor:
    r"""
    How far the distillation loss with restored logits can be from the one with all of them.

    The loss is $L = T^2 \, KL(q \Vert s)$ for the teacher's probabilities $q$ and the student's $s$ at temperature
    $T$. Let $n = C - k$ classes of mass $r$ at $T = 1$ be left out, $A = \sum_{j \text{ kept}} p_j^{1/T}$ and
    $m = \max(1, n^{1 - 1/T})$. The kept classes of true and restored distribution are proportional, and by Jensen's
    inequality neither has more outside of them than

    $$ \tau = \frac{m \, r^{1/T}}{A + m \, r^{1/T}} $$

    which bounds their total variation. The cross-entropies then differ by at most $\tau \rho / T$, where $\rho$ is the
    range of the student's logits, the entropies by at most $\tau \log(C - 1) + h(\tau)$ with the binary entropy $h$
    (Fannes, Audenaert), and

    $$ |L' - L| \le T^2 \left( \tau \rho / T + \tau \log(C - 1) + h(\tau) \right) $$

    At $T = 1$ the mass of the kept classes is exact, and $|L' - L| \le r \, (\rho + \log n)$. The gradient with
    respect to the student's logits differs by at most $2 T \tau$ in the sum of absolute values.

    Args:
        values (`Tensor`): the stored logits.
        log_rest (`Tensor`): log-sum-exp of the others.
        num_classes (`int`): $C$.
        student_range (`Tensor` or `float`): largest minus smallest logit of the student, row by row or at most.
        temperature (`float`, *optional*, defaults to 1.0): $T$ (dimensionless).

    Shape:
        - `values`: `(..., k)`; `log_rest`, `student_range`: `(...)`.
        - returns `(...)` float64, in nats.

    Example:
        >>> values, _, rest = keep_top_k(torch.tensor([[9.0, 1.0, 0.0, 0.0]]), 2)
        >>> bool(top_k_bound(values, rest, 4, student_range=5.0) < 2e-3)
        True
    """
    values, log_rest = values.double(), log_rest.double()
    rest = num_classes - values.shape[-1]
    span = torch.as_tensor(student_range, dtype=torch.float64)
    if temperature == 1.0:
        return (log_rest - torch.logaddexp(values.logsumexp(-1), log_rest)).exp() * (span + math.log(rest))
    kept = (values / temperature).logsumexp(-1)
    outside = log_rest / temperature + max(0.0, 1.0 - 1.0 / temperature) * math.log(rest)
    # the bound on the entropies grows up to this total variation and is log C there
    tau = (outside - torch.logaddexp(kept, outside)).exp().clamp(max=1.0 - 1.0 / num_classes)
    entropy = -torch.special.xlogy(tau, tau) - torch.special.xlogy(1 - tau, 1 - tau)
    return temperature**2 * (tau * span / temperature + tau * math.log(num_classes - 1) + entropy)


def half_precision_bound(logits: Tensor, student: Tensor) -> Tensor:
    r"""
    How far the distillation loss with logits in half precision can be from the one in full, at any temperature.

    A number is stored to $2^{-11}$ of itself, and to $2^{-25}$ near zero, so no logit moves by more than
    $\varepsilon = 2^{-11} \max_j |z_j| + 2^{-25}$. With the range $\rho$ of the differences $z_j - u_j$ of teacher and
    student

    $$ |L' - L| \le \varepsilon \, (\rho / 2 + \varepsilon) $$

    since the gradient of $L = T^2 \, KL(q \Vert s)$ with respect to $z$ has the entries
    $T q_j (g_j - \sum_i q_i g_i)$ with $g = \log(q / s)$ of range $\rho / T$. Squared differences of logits move by at
    most $2 \varepsilon |z_j - u_j| + \varepsilon^2$.

    Args:
        logits (`Tensor`): the teacher's.
        student (`Tensor`): the student's.

    Shape:
        - both `(..., C)`; returns `(...)` float64, in nats.

    Example:
        >>> half_precision_bound(torch.tensor([[8.0, 0.0]]), torch.tensor([[8.0, 0.0]])) < 2e-5
        tensor([True])
    """
    logits, student = logits.double(), student.double()
    epsilon = 2.0**-11 * logits.abs().amax(-1) + 2.0**-25
    gap = logits - student
    return epsilon * ((gap.amax(-1) - gap.amin(-1)) / 2 + epsilon)
