"""Tiny forecasters and series for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hf_transfer.arguments import TransferArguments
from hf_transfer.time_series.models import new_forecaster
from hf_transfer.time_series.series import Series
from hf_transfer.time_series.windows import Windows


L, H, C = 16, 4, 2
SIZES = {
    "patchtst": {"d_model": 8, "num_attention_heads": 2, "ffn_dim": 8, "num_hidden_layers": 2},
    "patchtsmixer": {"d_model": 8, "num_layers": 2},
}
NO_DROPOUT = {
    "patchtst": {"positional_dropout": 0.0, "path_dropout": 0.0, "ff_dropout": 0.0},
    "patchtsmixer": {"dropout": 0.0, "head_dropout": 0.0},
}


def forecaster(kind="patchtst", *, channels=C, dropout=True, seed=0, context_length=L, prediction_length=H, **own):
    """A forecaster of two blocks."""
    torch.manual_seed(seed)
    overrides = {**SIZES[kind], **({} if dropout else NO_DROPOUT[kind]), **own}
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    return new_forecaster(kind, channels=channels, overrides=overrides, **lengths)


def values(rows=80, channels=C, *, missing=0.0, seed=0):
    """Waves with noise, `(rows, channels)`, some of them missing."""
    random = np.random.default_rng(seed)
    steps = np.arange(rows)[:, None]
    made = np.sin(steps * (0.3 + 0.1 * np.arange(channels))) + 0.1 * random.normal(size=(rows, channels))
    made[random.random(made.shape) < missing] = np.nan
    return made


def series(rows=120, channels=C, *, name="made up", missing=0.0, seed=0):
    """A daily series of them, with a level and a scale of its own."""
    dates = np.datetime64("2020-01-01") + np.arange(rows)
    table = 10.0 + 3.0 * values(rows, channels, missing=missing, seed=seed)
    names = tuple(f"channel {number}" for number in range(channels))
    return Series(name, dates.astype("datetime64[ns]"), table, names, np.timedelta64(1, "D"))


def windows(rows=80, channels=C, *, missing=0.0, seed=0, context_length=L, prediction_length=H, **options):
    """All windows of such values."""
    lengths = {"context_length": context_length, "prediction_length": prediction_length}
    table = values(rows, channels, missing=missing, seed=seed)
    return Windows(table, rows=range(context_length, rows), **lengths, **options)


def arguments(folder: Path, **options):
    """Options of a short run."""
    own = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return TransferArguments(str(folder), **(own | options))
