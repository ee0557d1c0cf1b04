"""`pretrain`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from hf_transfer.time_series.models import load_forecaster
from hf_transfer.time_series.pretraining import FACTS_NAME, pretrain, pretraining_arguments
from tests.time_series.tiny_forecasters import SIZES, H, L, series


KINDS = ("patchtst", "patchtsmixer")


def options(kind="patchtst", **own):
    made = {"kind": kind, "context_length": L, "prediction_length": H, "overrides": {**SIZES[kind], "patch_length": 4}}
    return made | {"fractions": (0.7, 0.15, 0.15)} | own


def arguments(folder, **own):
    made = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    made |= {"per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True}
    return pretraining_arguments(folder, **(made | own))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["masked", "supervised"])
def test_series_of_different_channels_make_one_model_to_start_from(tmp_path, kind, mode):
    sources = [series(200, 3), series(150, 1, name="short", missing=0.05, seed=1)]
    folder = pretrain(sources, arguments(tmp_path / "source"), mode=mode, mix="sqrt", **options(kind))
    assert folder == tmp_path / "source"
    config = AutoConfig.from_pretrained(folder)
    ending = {"masked": "ForPretraining", "supervised": "ForPrediction"}[mode]
    assert config.architectures[0].endswith(ending) and config.num_input_channels == 1
    facts = json.loads((folder / FACTS_NAME).read_text())
    assert [one["name"] for one in facts["sources"]] == ["made up", "short"]
    assert facts["mode"] == mode and facts["mix"] == "sqrt" and facts["steps"] == 3
    state = json.loads((folder / "trainer_state.json").read_text())
    losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert facts["eval_loss"] == pytest.approx(min(losses), rel=1e-6)  # the best, not the last
    _, report = load_forecaster(folder, channels=2, context_length=L, prediction_length=2 * H)
    assert {entry.part for entry in report.skipped} == {"head"}


def test_it_learns_to_fill_in_what_is_hidden(tmp_path):
    args = arguments(tmp_path, max_steps=60, eval_steps=60, save_steps=60, eval_on_start=True, learning_rate=5e-3)
    pretrain(series(300, 2), args, **options())
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize("mode", ["masked", "supervised"])
def test_the_future_of_a_source_changes_no_weight(tmp_path, mode):
    given = series(200)
    other = replace(given, values=np.r_[given.values[:170], given.values[170:] * 9 - 4])
    folders = [
        pretrain(one, arguments(tmp_path / str(number)), mode=mode, **options())
        for number, one in enumerate((given, other))
    ]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_seed_makes_the_run_and_leaves_the_random_numbers_of_the_caller(tmp_path):
    weights = []
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)
        folder = pretrain(series(150), arguments(tmp_path / str(number), seed=seed), **options())
        weights.append(load_file(folder / "model.safetensors"))
    name = "model.encoder.layers.0.self_attn.k_proj.weight"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_a_resumed_run_ends_where_the_straight_one_does(tmp_path):
    straight = pretrain(series(150), arguments(tmp_path / "a", max_steps=4, save_total_limit=9), **options())
    checkpoint = str(straight / "checkpoint-2")
    resumed = pretrain(
        series(150), arguments(tmp_path / "b", max_steps=4), resume_from_checkpoint=checkpoint, **options()
    )
    first, second = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_it_stops_when_the_loss_no_longer_falls(tmp_path):
    args = arguments(tmp_path, max_steps=30, learning_rate=0.0)
    pretrain(series(150), args, patience=2, **options())
    assert json.loads((tmp_path / FACTS_NAME).read_text())["steps"] == 3


def test_a_model_that_mixes_channels_takes_them_together(tmp_path):
    own = options("patchtsmixer")
    own["overrides"] |= {"mode": "mix_channel"}
    folder = pretrain([series(150, 2), series(150, 2, seed=1)], arguments(tmp_path), **own)
    assert AutoConfig.from_pretrained(folder).num_input_channels == 2
    with pytest.raises(ValueError, match="mode='mix_channel' with series of 1, 2 channels"):
        pretrain([series(150, 2), series(150, 1)], arguments(tmp_path), **own)


def test_what_cannot_be_pretrained_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mode='contrastive' is none of masked, supervised"):
        pretrain(series(), arguments(tmp_path), mode="contrastive", **options())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There is no series to pretrain on"):
        pretrain([], arguments(tmp_path), **options())
    args = arguments(tmp_path, load_best_model_at_end=False)
    with pytest.raises(ValueError, match="patience=2 without `load_best_model_at_end`"):
        pretrain(series(150), args, patience=2, **options())
