"""Configurations of forecasters."""

from __future__ import annotations

import pytest

from hf_transfer.time_series.configuration import KINDS, SIZES, forecaster_config, patches


LENGTHS = {"channels": 3, "context_length": 336, "prediction_length": 96}


def test_small_is_what_the_authors_of_patchtst_set_for_etth1():
    config = forecaster_config("patchtst", **LENGTHS)
    assert (config.d_model, config.num_attention_heads, config.ffn_dim, config.num_hidden_layers) == (16, 4, 128, 3)
    assert (config.patch_length, config.patch_stride, config.norm_type) == (16, 8, "batchnorm")
    assert config.path_dropout == config.ff_dropout == config.positional_dropout == 0.3
    assert config.head_dropout == config.attention_dropout == 0.0
    assert config.pooling_type is None and config.share_projection and not config.use_cls_token


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_standardises_each_context_and_trains_by_squared_error(kind, size):
    config = forecaster_config(kind, size=size, **LENGTHS)
    assert (config.scaling, config.loss, config.num_input_channels) == ("std", "mse", 3)


def test_patches_use_the_whole_context_wherever_a_length_divides_it():
    for context in range(4, 700):
        for overlapping in (True, False):
            length, stride = patches(context, overlapping=overlapping)
            assert stride == (length // 2 if overlapping else length)
            count = (context - length) // stride + 1
            assert count >= 2
            left_out = (context - length) % stride
            assert left_out < stride
            fits = [one for one in (16, 12, 8) if 2 * one <= context]
            if left_out and fits:
                assert all((context - one) % (one // 2 if overlapping else one) for one in fits)


def test_a_given_patch_length_brings_its_stride():
    assert forecaster_config("patchtst", overrides={"patch_length": 24}, **LENGTHS).patch_stride == 12
    assert forecaster_config("patchtsmixer", overrides={"patch_length": 24}, **LENGTHS).patch_stride == 24


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"d_modell": 8}, "`d_modell` is no field of PatchTSTConfig: .* Give `d_model`"),
        ({"zzz": 8}, "`zzz` is no field of PatchTSTConfig: .* such as `d_model`"),
        ({"context_length": 8}, "`context_length` is among the overrides.*Pass `context_length=8`"),
        ({"num_input_channels": 8}, "Pass `channels=8`"),
        ({"loss": "nll"}, "`loss='nll'` among the overrides"),
        ({"share_projection": False}, "`share_projection=False` among the overrides"),
        ({"d_model": 18}, "no multiple of 4 attention heads"),
        ({"d_model": 0}, "`d_model=0`: no layer has that size"),
        ({"num_hidden_layers": 1.5}, "`num_hidden_layers=1.5`: no layer has that size"),
        ({"ff_dropout": 1.0}, "`ff_dropout=1.0` is no probability below 1"),
        ({"norm_type": "groupnorm"}, "`norm_type='groupnorm'` is none of 'batchnorm', 'layernorm'"),
        ({"pooling_type": "last"}, "`pooling_type='last'` is none of None, 'mean', 'max'"),
        ({"patch_length": 330}, "leave less than two patches in a context of 336 rows"),
    ],
)
def test_an_override_that_cannot_be_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        forecaster_config("patchtst", overrides=overrides, **LENGTHS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "lstm"}, "kind='lstm' is none of patchtst, patchtsmixer"),
        ({"size": "huge"}, "size='huge' is none of small, base"),
        ({"channels": 0}, "channels=0 is no number of channels"),
        ({"prediction_length": 2.0}, "prediction_length=2.0 is no number of rows"),
        ({"context_length": True}, "context_length=True is no number of rows"),
        ({"context_length": 3}, "context_length=3 is less than two patches"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(given, message):
    kind = given.pop("kind", "patchtst")
    with pytest.raises(ValueError, match=message):
        forecaster_config(kind, **{**LENGTHS, **given})
