"""The head of a forecaster in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_transfer.anatomy import anatomy
from hf_transfer.callbacks import FreezeBackbone
from hf_transfer.time_series.accuracy import forecast_errors
from hf_transfer.time_series.head_fit import PENALTIES, fit_forecast_head
from hf_transfer.time_series.models import observed_mask_name
from hf_transfer.time_series.trainer import ForecastTrainer
from hf_transfer.time_series.windows import Windows
from tests.time_series.tiny_forecasters import C, H, L, arguments, forecaster, values, windows


KINDS = ("patchtst", "patchtsmixer")


def read(model, data):
    """Features `(B, C, F)`, forecasts and targets `(B, H, C)`, loc and scale `(B, 1, C)`, of all windows at once."""
    batch = next(data.batches(len(data)))
    seen = []
    head = model.get_submodule(anatomy(model).head)
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        output = model.eval()(
            past_values=batch["past_values"].to(model.dtype),
            **{observed_mask_name(model): batch["past_observed_mask"]},
        )
    hook.remove()
    found = (seen[0], output.prediction_outputs, batch["future_values"], output.loc, output.scale)
    return [one.double().numpy() for one in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_the_head_is_that_of_lstsq_with_the_models_own_mean_and_deviation(kind, missing):
    model = forecaster(kind, d_model=4, **({"num_attention_heads": 2} if kind == "patchtst" else {})).double()
    data = windows(200, missing=missing)
    fit = fit_forecast_head(model, data, penalties=[0.0], batch_size=50)
    features, forecasts, truth, loc, scale = read(model, data)
    head = model.get_submodule(anatomy(model).head)
    for step in range(H):
        rows, wanted = [], []
        for window in range(len(features)):
            for channel in range(C):
                if not np.isnan(truth[window, step, channel]):
                    deviation = scale[window, 0, channel]
                    rows.append(deviation * np.r_[features[window, channel], 1.0])
                    wanted.append(truth[window, step, channel] - loc[window, 0, channel])
        solution = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
        np.testing.assert_allclose(head.weight[step].detach().numpy(), solution[:-1], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(head.bias[step].item(), solution[-1], rtol=1e-6, atol=1e-7)
    errors = forecast_errors(forecasts, truth)
    assert fit.train_mse == pytest.approx(errors["mse"], rel=1e-9)
    assert fit.targets == (~np.isnan(truth)).sum() and fit.penalty == 0.0 and fit.eval_mse is None


def test_no_training_of_the_head_alone_ends_lower(tmp_path):
    data = windows(120)
    closed = fit_forecast_head(forecaster(dropout=False), data, penalties=[0.0])
    model = forecaster(dropout=False)
    options = {"max_steps": 150, "per_device_train_batch_size": 64, "learning_rate": 3e-2, "optim": "sgd"}
    trainer = ForecastTrainer(model, arguments(tmp_path, **options), train_dataset=data, callbacks=[FreezeBackbone()])
    before = trainer.evaluate(data)["eval_mse"]
    trainer.train()
    after = trainer.evaluate(data)["eval_mse"]
    assert closed.train_mse < after < before


def test_the_backbone_stays_as_it_is_and_in_the_mode_it_was():
    model = forecaster().train()
    below = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    fit_forecast_head(model, windows(), penalties=[1e-4])
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(tensor, below[name]) for name, tensor in model.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_penalty_with_the_lowest_error_on_the_evaluation_windows_is_taken():
    data, held_out = windows(60), windows(60, seed=1)
    model = forecaster().double()
    fit = fit_forecast_head(model, data, eval_windows=held_out)
    assert len(fit.eval_mses) == len(PENALTIES)
    assert fit.eval_mse == min(fit.eval_mses) and fit.penalty == PENALTIES[int(np.argmin(fit.eval_mses))]
    _, forecasts, truth, *_ = read(model, held_out)
    assert fit.eval_mse == pytest.approx(forecast_errors(forecasts, truth)["mse"], rel=1e-5)


def test_a_model_of_one_channel_fits_on_all_channels_as_one_of_several_does():
    several, one = forecaster(channels=C).double(), forecaster(channels=1).double()
    one.load_state_dict(several.state_dict())
    data = windows(100, missing=0.05)
    together, alone = (fit_forecast_head(model, data, penalties=[1e-4]) for model in (several, one))
    assert alone.train_mse == pytest.approx(together.train_mse, rel=1e-9)
    torch.testing.assert_close(one.head.projection.weight, several.head.projection.weight, rtol=1e-8, atol=1e-9)


def test_what_cannot_be_fitted_is_refused():
    model, data = forecaster(), windows()
    with pytest.raises(ValueError, match="11 penalties and no `eval_windows`"):
        fit_forecast_head(model, data)
    with pytest.raises(ValueError, match=r"penalties=\(-1.0,\) are not numbers from 0 on"):
        fit_forecast_head(model, data, penalties=[-1.0])
    with pytest.raises(ValueError, match=r"penalties=\(\) are not numbers"):
        fit_forecast_head(model, data, penalties=[])
    table = values(40)
    table[L:] = np.nan
    unseen = Windows(table, rows=range(L, 40), context_length=L, prediction_length=H)
    with pytest.raises(ValueError, match="None of the targets of the windows was observed"):
        fit_forecast_head(model, unseen, penalties=[0.0])
    from hf_transfer.adapters import add_adapter

    with pytest.raises(ValueError, match="perhaps a copy that PEFT keeps.*then call `add_adapter`"):
        fit_forecast_head(add_adapter(model, "lora", r=2), data, penalties=[0.0])
