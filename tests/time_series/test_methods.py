"""Everything of this library on forecasters: each method trains, saves and loads to the same forecast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from hf_transfer.adapters import add_adapter, load_adapter, save_adapter
from hf_transfer.callbacks import ExponentialMovingAverage, FreezeBackbone, GradualUnfreezing
from hf_transfer.objectives import L2SP
from hf_transfer.time_series.forecasting import forecast
from hf_transfer.time_series.head_fit import fit_forecast_head
from hf_transfer.time_series.models import forecaster_class, load_forecaster, pretraining_model
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.trainer import ForecastTrainer
from tests.launching import launch
from tests.time_series.tiny_forecasters import SIZES, C, H, L, arguments, values, windows


KINDS = ("patchtst", "patchtsmixer")
WHOLE = {
    "full": {},
    "frozen": {"callbacks": [FreezeBackbone]},
    "gradual": {"callbacks": [lambda: GradualUnfreezing(stages=3)]},
    "l2sp": {"objectives": [L2SP]},
    "averaged": {"callbacks": [lambda: ExponentialMovingAverage(decay=0.5)]},
    "by part": {"layer_decay": 0.5, "head_lr": 0.1},
    "accumulated": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
}
ADAPTERS = ("lora", "dora", "ia3", "ln_tuning", "vera", "loha")


def processor():
    return SeriesProcessor(channels=["a", "b"], mean=[0.5, 0.0], std=[1.0, 2.0], context_length=L, prediction_length=H)


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    """A pretrained model of one channel, whose statistics and weights no new model has."""
    torch.manual_seed(0)
    own = {**SIZES[request.param], "patch_length": 4}
    model = pretraining_model(request.param, channels=1, context_length=L, overrides=own)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) if "var" in name else 0.1 * torch.randn_like(tensor))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return request.param, folder


def started(folder):
    torch.manual_seed(0)
    return load_forecaster(folder, channels=C, context_length=L, prediction_length=H)[0]


def in_own_memory(model):
    """
    The model as it was loaded. Views into a mapped file may begin anywhere, and matrix products then round otherwise.
    """
    with torch.no_grad():
        for one in (*model.parameters(), *model.buffers()):
            one.data = one.data.clone()
    return model


def trainer_of(model, folder, data, *, callbacks=(), objectives=(), **options):
    return ForecastTrainer(
        model,
        arguments(folder, max_steps=3, **options),
        train_dataset=data,
        processing_class=processor(),
        callbacks=[make() for make in callbacks],
        objectives=[make() for make in objectives],
    )


@pytest.mark.parametrize("method", WHOLE)
def test_a_whole_model_trains_and_comes_back(tmp_path, source, method):
    kind, folder = source
    data, model = windows(60, missing=0.05), started(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = trainer_of(model, tmp_path / "run", data, **WHOLE[method])
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    after = {name: tensor for name, tensor in model.state_dict().items() if name in before}
    head = [name for name in before if name.startswith("head.")]
    below = [name for name in before if name.startswith("model.") and not name.endswith("position_enc")]
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in head)
    if method == "frozen":
        # the statistics of its norms too: what the head is trained on is what it is used on
        assert all(torch.equal(before[name], after[name]) for name in below)
    else:
        assert any(not torch.equal(before[name], after[name]) for name in below)
    given = values(L + 3, C, missing=0.1, seed=4)
    expected = forecast(in_own_memory(model), processor(), given)
    again = in_own_memory(forecaster_class(kind).from_pretrained(tmp_path / "saved"))
    found = forecast(again, SeriesProcessor.from_pretrained(tmp_path / "saved"), given)
    np.testing.assert_array_equal(found, expected)
    assert AutoConfig.from_pretrained(tmp_path / "saved").architectures == [forecaster_class(kind).__name__]


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT's loader (0.21) of every norm
@pytest.mark.parametrize("method", ADAPTERS)
def test_an_adapter_trains_and_comes_back(tmp_path, source, method):
    kind, folder = source
    base = started(folder)
    base.save_pretrained(tmp_path / "base")  # with the head of the new horizon, which the adapter's files name
    options = {"r": 4} if method in ("lora", "dora", "vera", "loha") else {}
    model = add_adapter(forecaster_class(kind).from_pretrained(tmp_path / "base"), method, **options)
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    trainer = trainer_of(model, tmp_path / "run", windows(60, missing=0.05))
    trainer.train()
    assert all(torch.equal(one, frozen[name]) for name, one in model.named_parameters() if name in frozen)
    save_adapter(model, tmp_path / "adapter", processor=processor())
    given = values(L, C, missing=0.1, seed=4)
    expected = forecast(in_own_memory(model), processor(), given)
    # trainable: torch multiplies by a matrix that takes gradients in another order, also without any
    loaded = load_adapter(tmp_path / "adapter", trainable=True)
    found = forecast(in_own_memory(loaded.model), loaded.processor, given)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("first", ["probe", "none"])
def test_a_head_in_closed_form_is_where_fine_tuning_starts(tmp_path, source, first):
    """LP-FT: what is trained after the fit begins at the error of the fit, below that of a new head."""
    _, folder = source
    data, model = windows(60), started(folder)
    fit = fit_forecast_head(model, data, penalties=[1e-4])
    if first == "none":
        model = started(folder)
    trainer = ForecastTrainer(model, arguments(tmp_path))
    error = trainer.evaluate(data)["eval_mse"]
    if first == "probe":
        assert error == pytest.approx(fit.train_mse, rel=1e-4)
    else:
        assert error > 1.5 * fit.train_mse


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    for ranks in (1, 2):
        done = launch("tests.time_series.forecast_ranks", tmp_path / str(ranks), ranks=ranks)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / str(ranks) / "outcome.pt") for ranks in (1, 2))
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(tensor, two["weights"][name], rtol=1e-4, atol=1e-6, msg=name)
    for name in ("eval_loss", "eval_mse", "eval_mae_at_4"):
        assert one["metrics"][name] == pytest.approx(two["metrics"][name], rel=1e-4), name
