"""`fit_forecast_head`: the linear head of a forecaster in closed form, on the features of the backbone as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_transfer.anatomy import anatomy
from hf_transfer.modes import at_rest
from hf_transfer.time_series.models import observed_mask_name
from hf_transfer.time_series.moments import Moments
from hf_transfer.time_series.windows import Windows


PENALTIES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)

__all__ = ["PENALTIES", "HeadFit", "fit_forecast_head"]


@dataclass(frozen=True)
class HeadFit:
    """
    How a head was fitted.

    Args:
        penalty (`float`): $\\lambda$ that was taken (dimensionless).
        train_mse (`float`): squared error on the windows it was fitted on, in their units.
        eval_mse (`float`, *optional*): that on the evaluation windows.
        eval_mses (`tuple[float, ...]`): that for each of the penalties tried.
        targets (`int`): number of observed targets in the fit.
    """

    penalty: float
    train_mse: float
    eval_mse: float | None
    eval_mses: tuple[float, ...]
    targets: int


def fit_forecast_head(
    model: Any,
    windows: Windows,
    *,
    eval_windows: Windows | None = None,
    penalties: Sequence[float] = PENALTIES,
    batch_size: int = 128,
) -> HeadFit:
    r"""
    Fit the linear head of a forecaster by ridge regression on the features of its backbone, which stays as it is.

    The forecast of window $b$, channel $c$ and step $h$ is $\hat y = \mu_{bc} + \sigma_{bc} (w_h^\top f_{bc} + b_h)$
    with the mean and deviation of the context, which the model takes off and puts back, and the input $f_{bc}$ of its
    head. The head is shared by the channels and minimises over all observed targets

    $$ \sum_{b, c} (y_{bch} - \hat y_{bch})^2 + \lambda \bar g\, \lVert w_h \rVert^2 $$

    for each step, which is what training the head alone by squared error goes towards. $\bar g$ is the mean square of
    a feature, summed over the windows, so that $\lambda$ is dimensionless. The penalty with the lowest error on
    `eval_windows` is taken. One forward pass over the windows; nothing but sums is kept (see [`Moments`]).

    Args:
        model (`PatchTSTForPrediction` or `PatchTSMixerForPrediction`):
            Its head is overwritten. It is read in evaluation mode: the features have no dropout.
        windows ([`Windows`]):
            To fit on; of all channels, or one channel each.
        eval_windows ([`Windows`], *optional*):
            To choose the penalty by; needed where there are several.
        penalties (`Sequence[float]`, *optional*, defaults to 0 and 1e-6 to 1e3):
            Values of $\lambda$ to try, not negative.
        batch_size (`int`, *optional*, defaults to 128):
            Windows at once.

    Degenerate cases:
        Missing targets are left out exactly, at the price of one factorisation for each step where others are missing.

    Raises:
        ValueError: if there are several penalties and nothing to choose by, one is negative, no target is observed, or
            the head is no plain linear layer (under PEFT).

    Relations:
        The first half of LP-FT: then fine-tune the whole with a small rate. [`LinearForecast`] is the same fit on the
        context in place of features.

    Example:
        >>> from hf_transfer.time_series.models import new_forecaster
        >>> model = new_forecaster("patchtsmixer", channels=1, context_length=16, prediction_length=2)
        >>> values = np.sin(np.arange(60.0))[:, None]
        >>> windows = Windows(values, rows=range(16, 60), context_length=16, prediction_length=2)
        >>> fit = fit_forecast_head(model, windows, penalties=[1e-6])
        >>> fit.train_mse < 0.01, fit.targets
        (True, 86)

    Paper: Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
    2022, https://huggingface.co/papers/2202.10054
    """
    _check_penalties(penalties, eval_windows)
    head = _linear_head(model)
    moments = _moments(model, head, windows, batch_size)
    if not moments.count:
        raise ValueError(
            "None of the targets of the windows was observed: there is nothing to fit a head to. Give windows over "
            "rows that hold values."
        )
    maps = moments.fit(penalties)
    held_out = () if eval_windows is None else _moments(model, head, eval_windows, batch_size).errors(maps)
    best = int(np.argmin(held_out)) if len(held_out) else 0
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(maps[best, :-1].T))
        head.bias.copy_(torch.from_numpy(maps[best, -1]))
    return HeadFit(
        penalty=float(penalties[best]),
        train_mse=float(moments.errors(maps[best : best + 1])[0]),
        eval_mse=float(held_out[best]) if len(held_out) else None,
        eval_mses=tuple(float(error) for error in held_out),
        targets=moments.count,
    )


def _moments(model: Any, head: nn.Linear, windows: Windows, batch_size: int) -> Moments:
    moments = Moments(head.in_features, head.out_features)
    kept: list[Tensor] = []
    mask, device = observed_mask_name(model), head.weight.device
    hook = head.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    channels = model.config.num_input_channels
    try:
        with at_rest(model), torch.no_grad():
            for batch in windows.batches(batch_size):
                past, observed, target = (one.to(device) for one in _of_channels(batch, channels))
                output = model(past_values=past.to(head.weight.dtype), **{mask: observed})
                features = kept.pop().flatten(0, 1)  # (B * C, F)
                loc, scale = (getattr(output, name).mT.flatten(0, 1).double() for name in ("loc", "scale"))
                wanted = target.mT.flatten(0, 1) - loc
                moments.add(*(one.cpu().double().numpy() for one in (features, scale[:, 0], wanted)))
    finally:
        hook.remove()
    return moments


def _of_channels(batch: dict[str, Tensor], channels: int) -> list[Tensor]:
    """Context, mask and targets as a model of so many channels takes them: as rows of a batch for a model of one."""
    tensors = [batch[name] for name in ("past_values", "past_observed_mask", "future_values")]
    if channels == 1 and tensors[0].shape[-1] > 1:
        tensors = [one.mT.flatten(0, 1)[..., None] for one in tensors]
    return tensors


def _linear_head(model: Any) -> nn.Linear:
    head = model.get_submodule(anatomy(model).head)
    if not isinstance(head, nn.Linear) or hasattr(model, "peft_config"):
        raise ValueError(
            f"The head of {type(model).__name__} is a {type(head).__name__}, perhaps a copy that PEFT keeps: it "
            "cannot be written in place. Fit the head first, then call `add_adapter`."
        )
    return head


def _check_penalties(penalties: Sequence[float], eval_windows: Windows | None) -> None:
    if not len(penalties) or any(not 0 <= penalty < np.inf for penalty in penalties):
        raise ValueError(
            f"penalties={tuple(penalties)} are not numbers from 0 on: the fit would have no minimum. Give one or more "
            "such as 1e-4."
        )
    if len(penalties) > 1 and eval_windows is None:
        raise ValueError(
            f"{len(penalties)} penalties and no `eval_windows`: the training error is always lowest for the smallest "
            "of them. Pass windows of the evaluation part, or one penalty, `penalties=[1e-4]`."
        )
