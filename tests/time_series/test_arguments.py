"""The options of the recipe for time series: what contradicts itself is refused at once."""

from __future__ import annotations

import logging

import pytest

from hf_transfer.time_series.arguments import ForecasterArguments, SeriesArguments, SeriesLoopArguments


def made(**options) -> SeriesArguments:
    return SeriesArguments(target_series="ETTh2.csv", **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"few": [0.0]}, r"`--few 0` is no share.*or more than all.*\(0, 1\]"),
        ({"few": [0.1, 5.0]}, "`--few 5` is no share"),
        ({"prediction_length": 0}, "`--prediction_length 0` leaves nothing.*Give 1 or more"),
        ({"context_length": 2}, "`--context_length 2` leaves nothing.*Give 4 or more"),
        ({"seeds": 0}, "`--seeds 0`"),
        ({"stages": 1}, "`--stages 1`.*Give 2"),
        ({"season": 0}, "`--season 0`"),
        ({"l2sp_weight": 0.0}, "`--l2sp_weight 0.0` learns nothing"),
        ({"pretrained_lr": -1.0}, "`--pretrained_lr -1.0`"),
        ({"split_lengths": [8, 2]}, "`--split_lengths 8 2` are 2 numbers.*Give three"),
        ({"strategies": ["ful"]}, r"`--strategies ful` is none.*did you mean full.*Choose from"),
        ({"strategies": ["naive"]}, "`--strategies naive`: it trains nothing.*Leave it out"),
        ({"strategies": ["zero_shot"]}, "stands beside all strategies by itself"),
    ],
)
def test_options_that_leave_nothing_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        made(**options)


@pytest.mark.parametrize(
    ("options", "model", "match"),
    [
        (
            {"source_series": ["ETTh1.csv"]},
            {"model_name_or_path": "mine"},
            "`--source_series ETTh1.csv` with `--model_name_or_path mine`: both say.*Pass one",
        ),
        ({}, {}, "without a source: there is nothing to transfer.*`--strategies scratch`"),
        ({"source_series": ["a.csv", "ETTh2.csv"]}, {}, "`--source_series ETTh2.csv` is the target too"),
    ],
)
def test_contradictions_are_refused(tmp_path, options, model, match):
    args = SeriesLoopArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match=match):
        made(**options).check(ForecasterArguments(**model), args)


def test_a_checkpoint_of_one_run_cannot_be_resumed(tmp_path):
    args = SeriesLoopArguments(output_dir=str(tmp_path), use_cpu=True, resume_from_checkpoint="x")
    with pytest.raises(ValueError, match="`--resume_from_checkpoint` with several runs"):
        made(strategies=["scratch"]).check(ForecasterArguments(), args)


def test_a_horizon_beyond_the_usual_is_warned_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_transfer"), "propagate", True)
    args = SeriesLoopArguments(output_dir=str(tmp_path), use_cpu=True)
    made(strategies=["scratch"], prediction_length=721).check(ForecasterArguments(), args)
    assert "beyond the usual 720 steps" in caplog.text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pretraining_epochs": 0}, "`--pretraining_epochs 0` pretrains nothing"),
        ({"pretraining_lr": -1.0}, "`--pretraining_lr -1.0`"),
        ({"pretraining_steps": 0}, "`--pretraining_steps 0`.*or -1"),
        ({"model_name_or_path": "mine", "config_overrides": '{"d_model": 8}'}, "the checkpoint has a config already"),
        ({"config_overrides": "d_model"}, "config_overrides"),
    ],
)
def test_models_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ForecasterArguments(**options)


def test_defaults_of_the_loop(tmp_path):
    args = SeriesLoopArguments(output_dir=str(tmp_path), use_cpu=True)
    assert args.per_device_train_batch_size == 128 and args.load_best_model_at_end and not args.greater_is_better
    with pytest.raises(ValueError, match="`--head_lr 0.1`: whether a head is new hangs on the strategy"):
        SeriesLoopArguments(output_dir=str(tmp_path), use_cpu=True, head_lr=0.1)


def test_shares_are_sorted_and_what_transfer_must_beat_is_always_there():
    own = made(few=[1.0, 0.1, 0.1], strategies=["lora,probe"], split_lengths=[6, 2, 2])
    assert own.few == [0.1, 1.0] and own.lengths == (6, 2, 2)
    assert own.strategies == ["scratch", "probe_scratch", "probe", "lora"]
    assert made().strategies == ["scratch", "probe_scratch", "probe", "full", "gradual", "l2sp", "lora", "lp_ft"]
