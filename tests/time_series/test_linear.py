"""The linear forecast against least squares row by row, and what it can express."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hf_transfer.time_series import linear
from hf_transfer.time_series.baselines import baseline_errors, naive
from hf_transfer.time_series.linear import LinearForecast
from hf_transfer.time_series.windows import Windows
from tests.time_series.made import random_walk


L, H = 6, 4


def windows_of(values: np.ndarray, rows: range) -> Windows:
    return Windows(values, rows=rows, context_length=L, prediction_length=H)


def ridge_by_rows(windows: Windows, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with the penalty as further rows, one step at a time."""
    inputs, targets = [], []
    for item in windows:
        past, future = item["past_values"].double().numpy(), item["future_values"].double().numpy()
        for channel in range(past.shape[1]):
            last = past[-1, channel]
            inputs.append([*(past[:, channel] - last), 1.0])
            targets.append(future[:, channel] - last)
    table, wanted = np.array(inputs), np.array(targets)
    rows = len(table)
    square = np.mean([(table[:, column] ** 2).mean() for column in range(L)])
    shrink = np.sqrt(penalty * rows * np.array([square] * L + [1.0]))
    solutions = []
    for step in range(H):
        seen = ~np.isnan(wanted[:, step])
        augmented = np.concatenate([table[seen], np.diag(shrink)])
        solutions.append(np.linalg.lstsq(augmented, np.append(wanted[seen, step], np.zeros(L + 1)), rcond=None)[0])
    found = np.array(solutions).T
    return found[:-1], found[-1]


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("penalty", [1e-4, 0.3])
def test_the_weights_are_those_of_least_squares(monkeypatch, missing, penalty):
    # small blocks and groups of steps, so that sums are taken over several
    monkeypatch.setattr(linear, "_FLOATS_AT_ONCE", 100)
    monkeypatch.setattr(linear, "_GRAM_FLOATS", 3 * (L + 1) ** 2)
    values = random_walk(120, 3, missing=missing)
    train = windows_of(values, range(L, 90))
    found = LinearForecast.fitted(train, windows_of(values, range(90, 120)), penalties=[penalty])
    weight, bias = ridge_by_rows(train, penalty)
    assert np.allclose(found.weight.numpy(), weight, atol=1e-9) and np.allclose(found.bias.numpy(), bias, atol=1e-9)


def test_the_penalty_is_the_best_on_the_evaluation_windows():
    values = random_walk(160, 2, missing=0.1)
    parts = windows_of(values, range(L, 100)), windows_of(values, range(100, 160))
    penalties = [1e-4, 1e-1, 10.0, 1e3]
    errors = [
        baseline_errors(LinearForecast.fitted(*parts, penalties=[penalty]), parts[1])["mse"] for penalty in penalties
    ]
    chosen = LinearForecast.fitted(*parts, penalties=penalties)
    assert chosen.penalty == penalties[int(np.argmin(errors))] and len(set(errors)) == 4
    assert np.isclose(chosen.eval_mse, min(errors), rtol=1e-9)


def test_a_large_penalty_gives_the_naive_forecast():
    values = random_walk(100, 2)
    windows = windows_of(values, range(L, 100))
    forecast = LinearForecast.fitted(windows, windows, penalties=[1e12])
    past = next(windows.batches(100))["past_values"].double()
    assert torch.allclose(forecast(past, H), naive(past, H), atol=1e-8)


def test_a_linear_recurrence_is_learned_exactly():
    # two cosines obey a recurrence of four terms, and with the constant one of five
    rows = np.arange(200.0)
    values = np.stack([np.cos(rows / 3) + 2 * np.cos(rows / 7 + 1), np.cos(rows / 7) - np.cos(rows / 3)], axis=1)
    parts = windows_of(values, range(L, 150)), windows_of(values, range(150, 200))
    assert LinearForecast.fitted(*parts, penalties=[1e-12]).eval_mse < 1e-8


class Decomposition(nn.Module):
    """The model of the paper: a moving average whose ends are repeated, and a linear layer for each of the parts."""

    def __init__(self, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.seasonal, self.trend = nn.Linear(L, H).double(), nn.Linear(L, H).double()

    def forward(self, past):  # (B, L, C)
        half = (self.kernel - 1) // 2
        padded = torch.cat([past[:, :1].expand(-1, half, -1), past, past[:, -1:].expand(-1, half, -1)], dim=1)
        trend = padded.unfold(1, self.kernel, 1).mean(-1)
        return (self.seasonal((past - trend).mT) + self.trend(trend.mT)).mT


def test_a_decomposition_model_is_such_a_map():
    torch.manual_seed(0)
    model = Decomposition(kernel=5)
    with torch.no_grad():
        # the columns of the map are what the model makes of unit contexts
        bias = model(torch.zeros(1, L, 1).double())[0, :, 0]
        weight = (model(torch.eye(L).double()[:, :, None])[..., 0] - bias).contiguous()
        as_map = LinearForecast(weight, bias, penalty=0.0, eval_mse=0.0)
        past = torch.randn(7, L, 3).double()
        last = past[:, -1:]
        assert torch.allclose(as_map(past, H), last + model(past - last), atol=1e-12)


def test_the_fit_is_at_least_as_good_as_any_decomposition_model():
    # of the same class: gradient descent on the two layers cannot get below the least squares
    torch.manual_seed(0)
    windows = windows_of(random_walk(80, 1), range(L, 80))
    batch = next(windows.batches(1000))
    past, future = batch["past_values"].double(), batch["future_values"].double()
    least = baseline_errors(LinearForecast.fitted(windows, windows, penalties=[1e-10]), windows)["mse"]
    model, last = Decomposition(kernel=3), past[:, -1:]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (last + model(past - last) - future).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    reached = closure().item()
    assert least <= reached * (1 + 1e-6) and reached < least * 1.02


def test_the_first_steps_can_be_asked_for_alone_and_the_type_stays():
    windows = windows_of(random_walk(60, 2), range(L, 60))
    forecast = LinearForecast.fitted(windows, windows)
    past = torch.randn(3, L, 2)
    assert forecast(past).dtype == torch.float32 and forecast(past).shape == (3, H, 2)
    assert torch.equal(forecast(past, 2), forecast(past)[:, :2])


def test_a_step_that_was_never_observed_is_forecast_as_the_last_value():
    values = random_walk(200, 1)
    # of windows two rows apart, step 2 falls on odd rows only
    values[1::2] = np.nan
    windows = Windows(values, rows=range(L, 200), context_length=L, prediction_length=H, stride=2)
    forecast = LinearForecast.fitted(windows, windows)
    past = torch.randn(3, L, 1).double()
    assert torch.allclose(forecast(past)[:, 1], past[:, -1]) and not torch.allclose(forecast(past)[:, 2], past[:, -1])


def test_constant_contexts_and_single_rows_leave_the_naive_forecast():
    values = np.repeat(np.arange(4.0), 10)[:, None]
    windows = Windows(values, rows=range(5, 9), context_length=5, prediction_length=1)
    assert LinearForecast.fitted(windows, windows)(torch.full((1, 5, 1), 3.0)).item() == 3
    one = Windows(random_walk(30, 1), rows=range(1, 30), context_length=1, prediction_length=2)
    assert torch.isfinite(LinearForecast.fitted(one, one)(torch.ones(1, 1, 1))).all()


def test_what_cannot_be_fitted_is_refused():
    values = random_walk(60, 1)
    windows, empty = windows_of(values, range(L, 60)), windows_of(np.full((60, 1), np.nan), range(L, 60))
    with pytest.raises(ValueError, match="training windows are to forecast was observed.*Train on more rows"):
        LinearForecast.fitted(empty, windows)
    with pytest.raises(ValueError, match="evaluation windows are to forecast was observed.*more rows"):
        LinearForecast.fitted(windows, empty)
    with pytest.raises(ValueError, match=r"\(6, 4\), evaluation windows \(6, 2\).*same lengths"):
        shorter = Windows(values, rows=range(L, 60), context_length=L, prediction_length=2)
        LinearForecast.fitted(windows, shorter)
    for penalties in ([], [0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="are not positive.*Pass positive numbers"):
            LinearForecast.fitted(windows, windows, penalties=penalties)
    forecast = LinearForecast.fitted(windows, windows)
    for rows, steps in ((L + 1, H), (L, H + 1), (L, 0)):
        with pytest.raises(ValueError, match=f"context of {rows} rows and {steps} steps.*fitted for 6 rows and 4"):
            forecast(torch.zeros(1, rows, 1), steps)
