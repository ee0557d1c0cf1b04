"""Forecasters, new and from checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PatchTSMixerForPrediction, PatchTSTForPrediction

from hf_transfer.anatomy import anatomy
from hf_transfer.time_series.models import (
    forecaster_class,
    load_forecaster,
    new_forecaster,
    observed_mask_name,
    pretraining_model,
)
from tests.time_series.tiny_forecasters import SIZES, C, H, L, forecaster


KINDS = ("patchtst", "patchtsmixer")
LENGTHS = {"context_length": L, "prediction_length": H}


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def below_the_head(model):
    head = anatomy(model).head
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(head)}


def moved(model):
    """The model with statistics and weights that no model starts with."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) if "var" in name else 0.1 * torch.randn_like(tensor))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_forecaster_maps_a_context_to_a_horizon_and_no_weight_depends_on_the_channels(kind):
    found = {channels: forecaster(kind, channels=channels) for channels in (1, 3, 7)}
    assert shapes(found[1]) == shapes(found[3]) == shapes(found[7])
    output = found[3].eval()(past_values=torch.randn(2, L, 3))
    assert output.prediction_outputs.shape == (2, H, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_do_not_see_each_other(kind):
    three, one = forecaster(kind, channels=3).eval(), forecaster(kind, channels=1).eval()
    one.load_state_dict(three.state_dict())
    past = torch.randn(2, L, 3)
    with torch.no_grad():
        together = three(past_values=past).prediction_outputs
        alone = [one(past_values=past[..., [channel]]).prediction_outputs for channel in range(3)]
    torch.testing.assert_close(together, torch.cat(alone, dim=-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["masked", "supervised"])
def test_a_checkpoint_gives_everything_below_the_head_for_another_channel_count_and_horizon(tmp_path, kind, source):
    if source == "masked":
        # patches of the same length, as a forecaster has them in this context
        own = {**SIZES[kind], "patch_length": 4}
        pretrained = moved(pretraining_model(kind, channels=1, context_length=L, overrides=own))
    else:
        pretrained = moved(forecaster(kind, channels=1, prediction_length=2 * H))
    pretrained.save_pretrained(tmp_path)
    model, report = load_forecaster(tmp_path, channels=3, **LENGTHS)
    assert isinstance(model, forecaster_class(kind))
    assert {entry.part for entry in report.skipped} == {"head"} and not report.resized
    source_state = pretrained.state_dict()
    below = below_the_head(model)
    assert below and all(torch.equal(tensor, source_state[name]) for name, tensor in below.items())
    assert model.config.num_input_channels == 3 and model.config.prediction_length == H
    assert model(past_values=torch.randn(2, L, 3)).prediction_outputs.shape == (2, H, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forecaster_of_the_same_horizon_comes_back_with_its_head(tmp_path, kind):
    pretrained = moved(forecaster(kind, channels=1)).eval()
    pretrained.save_pretrained(tmp_path)
    model, report = load_forecaster(tmp_path, channels=1, **LENGTHS)
    assert not report.skipped and report.coverage == 1.0
    past = torch.randn(2, L, 1)
    with torch.no_grad():
        assert torch.equal(
            model.eval()(past_values=past).prediction_outputs, pretrained(past_values=past).prediction_outputs
        )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_saves_as_an_ordinary_forecaster(tmp_path, kind):
    pretraining_model(kind, channels=1, context_length=L, overrides=SIZES[kind]).save_pretrained(tmp_path / "source")
    model, _ = load_forecaster(tmp_path / "source", channels=C, **LENGTHS)
    model.save_pretrained(tmp_path / "saved")
    again = {"patchtst": PatchTSTForPrediction, "patchtsmixer": PatchTSMixerForPrediction}[kind]
    reloaded = again.from_pretrained(tmp_path / "saved").eval()
    past = torch.randn(2, L, C)
    with torch.no_grad():
        assert torch.equal(
            model.eval()(past_values=past).prediction_outputs, reloaded(past_values=past).prediction_outputs
        )
    assert AutoConfig.from_pretrained(tmp_path / "saved").architectures == [again.__name__]


def test_a_head_by_channel_becomes_one_for_all(tmp_path):
    from transformers import PatchTSTConfig

    own = {**SIZES["patchtst"], "patch_length": 4, "patch_stride": 2, "share_projection": False}
    PatchTSTForPrediction(
        PatchTSTConfig(num_input_channels=2, context_length=L, prediction_length=H, **own)
    ).save_pretrained(tmp_path)
    model, report = load_forecaster(tmp_path, channels=2, **LENGTHS)
    assert {entry.part for entry in report.skipped} == {"head"}
    assert model(past_values=torch.randn(1, L, 2)).prediction_outputs.shape == (1, H, 2)


def test_positions_are_stretched_only_where_asked(tmp_path):
    pretrained = moved(forecaster(channels=1, use_cls_token=True))
    pretrained.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="context_length=32, but .* was trained on 16 rows: its positions would be"):
        load_forecaster(tmp_path, channels=1, context_length=32, prediction_length=H)
    model, report = load_forecaster(
        tmp_path, channels=1, context_length=32, prediction_length=H, interpolate_positions=True
    )
    (entry,) = report.resized
    assert entry.name.endswith("position_enc") and "interpolated: from 3 patches to 7" in entry.reason
    name = "model.encoder.positional_encoder.position_enc"
    old, new = pretrained.get_parameter(name).detach().numpy(), model.get_parameter(name).detach().numpy()
    assert np.array_equal(new[0], old[0])  # of the cls token
    expected = [np.interp(np.linspace(0, 2, 7), np.arange(3), column) for column in old[1:].T]
    np.testing.assert_allclose(new[1:], np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "own", "given", "message"),
    [
        ("patchtsmixer", {}, {"context_length": 32}, "layers across patches have that width, .*context_length=16"),
        ("patchtsmixer", {"mode": "mix_channel"}, {"channels": 3}, "has 2 channels and layers that mix them .*has 3"),
        ("patchtst", {"share_embedding": False}, {"channels": 3}, "has 2 channels and an embedding for each"),
        (
            "patchtst",
            {},
            {"context_length": 4, "interpolate_positions": True},
            "context_length=4 holds less than two patches of 8 rows",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_taken_over_is_refused(tmp_path, kind, own, given, message):
    forecaster(kind, **own).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_forecaster(tmp_path, **{"channels": C, **LENGTHS, **given})


def test_weights_of_each_channel_are_taken_over_for_the_same_channels(tmp_path):
    forecaster("patchtsmixer", mode="mix_channel").save_pretrained(tmp_path)
    _, report = load_forecaster(tmp_path, channels=C, **LENGTHS)
    assert not report.skipped


def test_other_families_and_distributions_are_refused(tmp_path):
    from transformers import BertConfig, BertModel, PatchTSMixerConfig

    BertModel(BertConfig(vocab_size=5, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path / "bert"
    )
    with pytest.raises(ValueError, match="holds a bert: it has no head for forecasts"):
        load_forecaster(tmp_path / "bert", channels=1, **LENGTHS)
    PatchTSMixerForPrediction(PatchTSMixerConfig(loss="nll", d_model=4, num_layers=1)).save_pretrained(
        tmp_path / "nll"
    )
    with pytest.raises(ValueError, match="forecasts a distribution .loss='nll'."):
        load_forecaster(tmp_path / "nll", channels=1, context_length=32, prediction_length=4)


def test_masked_patches_do_not_overlap_and_one_stays_visible():
    config = pretraining_model("patchtst", channels=1, context_length=336).config
    assert config.patch_length == config.patch_stride == 16 and config.random_mask_ratio == 0.4
    with pytest.raises(ValueError, match="patches overlap, and a masked one can be copied from its neighbours"):
        pretraining_model("patchtst", channels=1, context_length=L, overrides={"patch_stride": 2})
    for ratio in (0.0, 0.01 - 0.02, 0.99, 1.0):
        with pytest.raises(ValueError, match="A mask ratio of .* hides .* of 2 patches"):
            pretraining_model("patchtst", channels=1, context_length=L, mask_ratio=ratio)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_called_as_the_model_calls_it(kind):
    from hf_transfer.adapters import add_adapter

    name = {"patchtst": "past_observed_mask", "patchtsmixer": "observed_mask"}[kind]
    model = forecaster(kind)
    assert observed_mask_name(model) == name
    assert observed_mask_name(add_adapter(model, "lora", r=2)) == name


def test_a_random_head_is_not_the_same_twice_but_a_seed_is():
    first, again = (forecaster(seed=1).state_dict() for _ in range(2))
    other = forecaster(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert isinstance(new_forecaster("patchtst", channels=1, **LENGTHS), PatchTSTForPrediction)
