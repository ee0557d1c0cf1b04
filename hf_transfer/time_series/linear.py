"""The linear forecast: one map from context to horizon for all channels, by ridge regression over all windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_transfer.time_series.windows import Windows


__all__ = ["PENALTIES", "LinearForecast"]

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e4)
"""Penalties that are tried, each in units of the mean square of an input: dimensionless. The last is all but naive."""

_FLOATS_AT_ONCE = 2_000_000
_GRAM_FLOATS = 16_000_000


@dataclass(frozen=True)
class LinearForecast:
    r"""
    A linear map of the context (DLinear-like), the same for every channel: the baseline that many a transformer loses
    to.

    With the last value $x_L$ of the context of a channel, the forecast of step $h$ is

    $$ \hat y_h = x_L + b_h + \sum_{l=1}^{L} w_{lh} (x_l - x_L) $$

    with $w_h, b_h$ least in $\sum_{n \in O_h} (y_{nh} - \hat y_{nh})^2 + \lambda N (s^2 \lVert w_h \rVert^2 + b_h^2)$,
    where $O_h$ are the windows and channels, of $N$ in all, whose value at step $h$ was observed, and $s^2$ is the
    mean square of $x_l - x_L$. For $\lambda \to \infty$ it is the naive forecast.

    Args:
        weight (`Tensor`): `(L, H)` float64.
        bias (`Tensor`): `(H,)` float64, in the units of the windows.
        penalty (`float`): the one chosen, in units of the mean square of an input (dimensionless).
        eval_mse (`float`): its error over the evaluation windows.

    Degenerate cases:
        A step at which no training window has a value is forecast as the last value. Of a context of one row only the
        bias is learned.

    Deviations from the paper:
        DLinear sends a moving average of the context and what is left of it each through a linear layer and adds the
        two. Both are linear in the context, so the sum is one linear map; splitting changes the path of gradient
        descent, not what can be expressed. What is fitted here is DLinear of the context less its last value
        (the paper's NLinear), at the least squares that gradient descent approaches, with a penalty in place of early
        stopping.

    Relations:
        [`hf_transfer.time_series.baselines.naive`] is what it falls back to where nothing linear can be learned.

    Example:
        >>> import numpy as np
        >>> values = np.sin(np.arange(60.0) / 3)[:, None]
        >>> fit, held_out = (
        ...     Windows(values, rows=rows, context_length=8, prediction_length=2)
        ...     for rows in (range(8, 40), range(40, 60))
        ... )
        >>> forecast = LinearForecast.fitted(fit, held_out)
        >>> forecast(held_out[0]["past_values"][None], 2).shape, forecast.eval_mse < 1e-6
        (torch.Size([1, 2, 1]), True)

    Paper: Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023,
    https://huggingface.co/papers/2205.13504
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    eval_mse: float

    @classmethod
    def fitted(
        cls, windows: Windows, eval_windows: Windows, *, penalties: Sequence[float] = PENALTIES
    ) -> LinearForecast:
        r"""
        The least squares over all training windows, with the penalty that is best on the evaluation windows.

        The normal equations are summed up in float64 over blocks of windows and solved in closed form. Where targets
        are missing each step $h$ has equations of its own, summed over the windows whose target was observed there.

        Memory, whatever the number of windows: blocks of 16 MB some six times, the normal equations of
        $8 (L + 1)^2$ bytes some three times, and weights of $8 (L + 1) H$ bytes once a penalty; missing targets add
        128 MB three times at most. Of $R$ windows times channels the sums take $2 R L (L + H)$ operations, and with a
        share $m$ of targets missing at random $2 R H L^2 \min(m, 1 - m)$ more.

        Args:
            windows ([`Windows`]): of the training part.
            eval_windows ([`Windows`]): of the evaluation part, with the same lengths.
            penalties (`Sequence[float]`, *optional*, defaults to `PENALTIES`):
                Positive numbers to choose from, in units of the mean square of an input.

        Raises:
            ValueError: if lengths differ, a penalty is not positive, or no value of either part was observed.
        """
        _check(windows, eval_windows, penalties)
        candidates = _Equations(windows).solve(penalties)
        errors = _errors(candidates, eval_windows)
        best = int(errors.argmin())
        solution = candidates[best]
        return cls(solution[:-1], solution[-1], float(penalties[best]), float(errors[best]))

    def __call__(self, past_values: Tensor, prediction_length: int | None = None) -> Tensor:
        """
        The forecast `(B, H, C)` in the units of the context, in its type.

        Args:
            past_values (`Tensor`): `(B, L, C)`, filled as [`Windows`] does.
            prediction_length (`int`, *optional*): the first so many steps; all by default.

        Raises:
            ValueError: if the context is of another length, or more steps are asked for than were fitted.
        """
        length, horizon = self.weight.shape
        wanted = horizon if prediction_length is None else prediction_length
        if past_values.shape[1] != length or not 1 <= wanted <= horizon:
            raise ValueError(
                f"A context of {past_values.shape[1]} rows and {wanted} steps were given to a linear forecast fitted "
                f"for {length} rows and {horizon} steps: it has no weights for others. Fit it on windows of these "
                "lengths."
            )
        past = past_values.double()
        last = past[:, -1:]
        mapped = torch.einsum("blc,lh->bhc", past - last, self.weight[:, :wanted])
        return (last + mapped + self.bias[:wanted, None]).to(past_values.dtype)


class _Equations:
    """Normal equations of inputs `(context - last, 1)` and targets `target - last`, summed over all windows."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        size, horizon = windows.context_length + 1, windows.prediction_length
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.cross = torch.zeros(size, horizon, dtype=torch.float64)
        self.counts = torch.zeros(horizon, dtype=torch.float64)
        self.rows = 0
        for inputs, targets, observed in _blocks(windows):
            self.gram += inputs.T @ inputs
            self.cross += inputs.T @ targets
            self.counts += observed.sum(0)
            self.rows += len(inputs)
        if not self.counts.sum():
            raise ValueError(
                "None of the values that the training windows are to forecast was observed: there is nothing to fit "
                "a linear forecast on. Train on more rows."
            )

    def solve(self, penalties: Sequence[float]) -> Tensor:
        """Weights and, in the last row, bias `(P, L + 1, H)`, one for each penalty."""
        scale = torch.full((len(self.gram),), float(self.rows), dtype=torch.float64)
        squares = self.gram.diagonal()[:-1]
        if squares.any():  # else contexts are constant, and any positive number keeps the equations solvable
            scale[:-1] = squares.mean()
        if bool((self.counts == self.rows).all()):
            return torch.stack(
                [torch.cholesky_solve(self.cross, _factor(self.gram, penalty * scale)) for penalty in penalties]
            )
        solutions = torch.empty(len(penalties), *self.cross.shape, dtype=torch.float64)
        at_once = max(1, _GRAM_FLOATS // self.gram.numel())
        for start in range(0, len(self.counts), at_once):
            steps = slice(start, start + at_once)
            grams, crosses = self._of_steps(steps), self.cross.mT[steps, :, None]
            for number, penalty in enumerate(penalties):
                solved = torch.cholesky_solve(crosses, _factor(grams, penalty * scale))
                solutions[number, :, steps] = solved[..., 0].mT
        return solutions

    def _of_steps(self, steps: slice) -> Tensor:
        """`(S, L + 1, L + 1)` for each of these steps, over the inputs whose target was observed there."""
        # whichever are fewer are gone through: those that are missing, or those that are there
        dense = self.counts[steps] > self.rows / 2
        grams = torch.where(dense[:, None, None], self.gram, 0.0)
        for inputs, _, observed in _blocks(self.windows):
            chosen = observed[:, steps] ^ dense
            for number in chosen.any(0).nonzero().ravel().tolist():
                rows = inputs[chosen[:, number]]
                grams[number] += (-1.0 if dense[number] else 1.0) * (rows.T @ rows)
        return grams


def _factor(grams: Tensor, ridge: Tensor) -> Tensor:
    return torch.linalg.cholesky(grams + ridge.diag())


def _blocks(windows: Windows) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Inputs `(R, L + 1)`, targets `(R, H)` with 0 where missing, and where they are observed."""
    floats = (windows.context_length + windows.prediction_length + 1) * windows.values.shape[1]
    for batch in windows.batches(max(1, _FLOATS_AT_ONCE // floats)):
        past = batch["past_values"].mT.flatten(0, 1).double()
        future = batch["future_values"].mT.flatten(0, 1).double()
        last = past[:, -1:]
        observed = ~future.isnan()
        ones = torch.ones(len(past), 1, dtype=torch.float64)
        yield torch.cat([past - last, ones], 1), torch.where(observed, future - last, 0.0), observed


def _errors(candidates: Tensor, windows: Windows) -> Tensor:
    """Mean squared error of each candidate `(P, L + 1, H)` over the observed targets."""
    sums, count = torch.zeros(len(candidates), dtype=torch.float64), 0
    for inputs, targets, observed in _blocks(windows):
        count += int(observed.sum())
        for number, candidate in enumerate(candidates):
            error = torch.where(observed, inputs @ candidate - targets, 0.0)
            sums[number] += (error**2).sum()
    if not count:
        raise ValueError(
            "None of the values that the evaluation windows are to forecast was observed: no penalty can be chosen on "
            "them. Give the evaluation part more rows."
        )
    return sums / count


def _check(windows: Windows, eval_windows: Windows, penalties: Sequence[float]) -> None:
    lengths = [(part.context_length, part.prediction_length) for part in (windows, eval_windows)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"Training windows have (context, horizon) {lengths[0]}, evaluation windows {lengths[1]}: one map cannot "
            "serve both. Cut both with the same lengths."
        )
    if not len(penalties) or min(penalties) <= 0:
        raise ValueError(
            f"penalties={tuple(penalties)} are not positive: contexts less their last value end in zeros, and without "
            "a penalty their weight is not determined. Pass positive numbers, for instance (1e-4, 1e-2, 1.0)."
        )
