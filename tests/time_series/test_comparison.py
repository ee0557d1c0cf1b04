"""What a forecast comparison runs, and what makes a finished run another one; nothing is trained here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments, SeriesLoopArguments
from hf_transfer.time_series.comparison import SeriesComparison, data_digest, key_of
from hf_transfer.time_series.models import load_forecaster, pretraining_model
from hf_transfer.time_series.strategies import PROBE_SCRATCH, SCRATCH, start_model
from tests.time_series.made import series_of
from tests.time_series.tiny_forecasters import SIZES, H, L, forecaster


def comparison(folder: Path, model: Path | None = None, **options) -> SeriesComparison:
    own = {"target_series": "embedded:series/target", "context_length": L, "prediction_length": H}
    own |= {} if model else {"strategies": ["scratch"]}
    args = SeriesLoopArguments(output_dir=str(folder / "out"), use_cpu=True, report_to="none")
    name = None if model is None else str(model)
    return SeriesComparison(SeriesArguments(**(own | options)), ForecasterArguments(model_name_or_path=name), args)


@pytest.fixture
def masked(tmp_path):
    """A model that was pretrained by filling in, of one channel."""
    torch.manual_seed(0)
    model = pretraining_model("patchtst", channels=1, context_length=L, overrides={**SIZES["patchtst"]})
    model.save_pretrained(tmp_path / "masked")
    return tmp_path / "masked"


def test_other_weights_of_the_same_name_are_other_runs(tmp_path, masked):
    before = comparison(tmp_path, masked).settings()
    torch.manual_seed(1)  # the new head is drawn otherwise, and does not count
    assert comparison(tmp_path, masked).settings() == before
    model, _ = load_forecaster(masked, channels=1, context_length=L, prediction_length=H)
    with torch.no_grad():
        next(model.model.parameters()).add_(1.0)
    model.model.save_pretrained(masked)
    changed = comparison(tmp_path, masked).settings()
    assert {name for name in before if before[name] != changed[name]} == {"model_digest"}
    assert str(tmp_path) not in str(before)


def test_the_head_of_a_forecaster_counts_too(tmp_path):
    model = forecaster(channels=1)
    model.save_pretrained(tmp_path / "whole")
    first = comparison(tmp_path, tmp_path / "whole")
    with torch.no_grad():
        model.head.projection.bias.add_(1.0)
    model.save_pretrained(tmp_path / "whole")
    assert comparison(tmp_path, tmp_path / "whole").settings()["model_digest"] != first.settings()["model_digest"]
    assert "zero_shot" in first.strategies and "zero_shot" in first.fixed


def test_what_transfer_must_beat_always_runs_and_varies_with_the_seed(tmp_path, masked):
    made = comparison(tmp_path, masked, strategies=["probe"])
    assert made.strategies == ["scratch", "probe_scratch", "probe"]
    assert "probe" in made.fixed and not {SCRATCH, PROBE_SCRATCH} & {*made.fixed}


@pytest.mark.parametrize("name", [SCRATCH, PROBE_SCRATCH])
def test_nothing_of_the_source_is_in_what_transfer_must_beat(tmp_path, masked, name):
    source, _ = load_forecaster(masked, channels=2, context_length=L, prediction_length=H)
    one, same, other = (start_model(name, source, seed=seed, head_is_new=True) for seed in (5, 5, 6))
    weights = {own for own, tensor in one.named_parameters() if tensor.requires_grad and tensor.std() > 0}
    assert len(weights) > 5
    for own in weights:
        assert one.get_parameter(own).equal(same.get_parameter(own))
        assert not one.get_parameter(own).equal(other.get_parameter(own))
        assert not one.get_parameter(own).equal(source.get_parameter(own))


def test_baselines_are_those_that_say_something(tmp_path):
    assert comparison(tmp_path, season=6).baselines == ["naive", "seasonal_naive", "linear"]
    assert comparison(tmp_path, season=1).baselines == ["naive", "linear"]
    assert comparison(tmp_path, season=L + 1).baselines == ["naive", "linear"]  # beyond the context


def test_a_digest_is_of_values_and_dates_and_its_name_has_no_folder():
    table = np.arange(20.0).reshape(10, 2)
    one = data_digest(series_of(table, name="/home/somebody/load.csv"))
    assert "somebody" not in str(one)
    table[3, 1] = np.nan
    other = data_digest(series_of(table))
    assert one["digest"] != other["digest"] == data_digest(series_of(table.copy()))["digest"]
    assert data_digest(series_of(table, step=np.timedelta64(2, "h")))["digest"] != other["digest"]


def test_names_of_runs():
    assert key_of("full", 0.05) == "full@0.05"
