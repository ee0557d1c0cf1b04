"""`ForecastTrainer`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import PatchTSMixerConfig, PatchTSMixerForPrediction, PatchTSTConfig, PatchTSTForPretraining, Trainer

from hf_transfer.time_series.accuracy import forecast_errors
from hf_transfer.time_series.processor import SeriesProcessor
from hf_transfer.time_series.trainer import ForecastCollator, ForecastTrainer
from hf_transfer.time_series.windows import Windows
from tests.time_series.tiny_forecasters import C, H, L, arguments, forecaster, values, windows


KINDS = ("patchtst", "patchtsmixer")


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if "transfer_objectives" not in name}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_evaluation_is_that_of_all_forecasts_at_once(tmp_path, kind, missing):
    model, data, scale = forecaster(kind), windows(70, missing=missing), np.array([0.5, 2.0])
    trainer = ForecastTrainer(model, arguments(tmp_path), mase_scale=scale, eval_dataset=data)
    metrics = trainer.evaluate()
    output = trainer.predict(data)
    assert output.predictions.shape == output.label_ids.shape == (len(data), H, C)
    truth = np.stack([data[number]["future_values"] for number in range(len(data))])
    np.testing.assert_array_equal(output.label_ids, truth)
    expected = forecast_errors(output.predictions, truth, scale=scale)
    for name in ("mse", "mae", "mase", "mse_at_1", "mae_at_4"):
        assert metrics[f"eval_{name}"] == pytest.approx(expected[name], rel=1e-6), name
        assert output.metrics[f"test_{name}"] == pytest.approx(expected[name], rel=1e-6), name
    assert metrics["eval_loss"] == metrics["eval_mse"]
    for name in ("mse", "mae", "mase"):
        np.testing.assert_allclose(trainer.forecast_metrics.by_horizon[name], expected[f"{name}_by_horizon"])
    json.dumps(metrics)


def test_evaluation_keeps_no_forecasts(tmp_path, monkeypatch):
    trainer = ForecastTrainer(forecaster(), arguments(tmp_path), eval_dataset=windows())
    kept = []
    stock = Trainer.evaluation_loop

    def watched(self, *args, **kwargs):
        output = stock(self, *args, **kwargs)
        kept.append((output.predictions, output.label_ids))
        return output

    monkeypatch.setattr(Trainer, "evaluation_loop", watched)
    trainer.evaluate()
    assert kept == [(None, None)]


def test_an_evaluation_that_broke_off_leaves_nothing_behind(tmp_path):
    data = windows()
    trainer = ForecastTrainer(forecaster(), arguments(tmp_path), eval_dataset=data)
    whole = trainer.evaluate()["eval_mse"]
    broken = [data[number] for number in range(len(data))]
    broken[20] = {**broken[20], "future_values": torch.zeros(H + 1, C)}
    with pytest.raises((RuntimeError, ValueError)):
        trainer.evaluate(broken)
    assert trainer.evaluate()["eval_mse"] == whole


@pytest.mark.parametrize("kind", KINDS)
def test_missing_inputs_reach_the_model_as_its_mask(tmp_path, kind):
    """Where past values are not observed, what stands there does not count for mean and deviation."""
    model = forecaster(kind).eval()
    data = windows(40, missing=0.3)
    item = data[3]
    trainer = ForecastTrainer(model, arguments(tmp_path))
    found = trainer.predict([item]).predictions[0]
    name = {"patchtst": "past_observed_mask", "patchtsmixer": "observed_mask"}[kind]
    with torch.no_grad():
        masked = model(past_values=item["past_values"][None], **{name: item["past_observed_mask"][None]})
        blind = model(past_values=item["past_values"][None])
    np.testing.assert_array_equal(found, masked.prediction_outputs[0].numpy())
    assert np.abs(found - blind.prediction_outputs[0].numpy()).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_whole_targets_is_the_stock_trainer(tmp_path, kind):
    data = windows()
    ours, stock = forecaster(kind), forecaster(kind)
    args = arguments(tmp_path, max_steps=3)
    ForecastTrainer(ours, args, train_dataset=data).train()
    args = arguments(tmp_path, max_steps=3, label_names=["future_values"], remove_unused_columns=False)
    from hf_transfer.time_series.models import observed_mask_name

    collate = ForecastCollator(observed_mask_name(stock))
    Trainer(stock, args, train_dataset=data, data_collator=collate).train()
    for (name, one), (_, other) in zip(weights(ours).items(), weights(stock).items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_targets_take_no_part_in_a_step(tmp_path, kind):
    """Whatever stands in the hole, and a step equals one by hand over what was observed."""
    table = values(40)
    table[30:33, 1] = np.nan
    data = Windows(table, rows=range(L, 40), context_length=L, prediction_length=H)
    rows = [data[number] for number in range(12, 16)]
    assert any(row["future_values"].isnan().any() for row in rows)
    ours, by_hand = forecaster(kind, dropout=False), forecaster(kind, dropout=False)
    options = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    ForecastTrainer(ours, arguments(tmp_path, **options), train_dataset=rows).train()
    batch = ForecastCollator({"patchtst": "past_observed_mask", "patchtsmixer": "observed_mask"}[kind])(rows)
    target = batch.pop("future_values")
    optimizer = torch.optim.SGD([one for one in by_hand.parameters() if one.requires_grad], lr=0.1)
    forecasts = by_hand.train()(**batch).prediction_outputs
    seen = ~target.isnan()
    (forecasts[seen] - target[seen]).square().mean().backward()
    optimizer.step()
    for (name, one), (_, other) in zip(weights(ours).items(), weights(by_hand).items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_a_resumed_run_is_the_straight_one_bit_for_bit(tmp_path):
    data = windows(missing=0.1)

    def run(folder, steps, **options):
        args = arguments(tmp_path / folder, save_strategy="steps", save_steps=2, **options)
        args.max_steps = 4
        trainer = ForecastTrainer(forecaster(), args, train_dataset=data, eval_dataset=data)
        resume = str(tmp_path / "straight" / "checkpoint-2") if steps == "resume" else None
        trainer.train(resume_from_checkpoint=resume)
        return weights(trainer.model)

    options = {"eval_strategy": "steps", "eval_steps": 1, "gradient_accumulation_steps": 2}
    assert same(run("straight", "all", **options), run("resumed", "resume", **options))


def test_the_best_weights_come_back_with_their_statistics(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    options |= {"load_best_model_at_end": True, "learning_rate": 0.5}
    data = windows()
    trainer = ForecastTrainer(forecaster(), arguments(tmp_path, **options), train_dataset=data, eval_dataset=data)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_pushed_folder_holds_the_model_and_its_processor(tmp_path):
    processor = SeriesProcessor(
        channels=["a", "b"], mean=[0.0, 1.0], std=[1.0, 2.0], context_length=L, prediction_length=H
    )
    trainer = ForecastTrainer(forecaster(), arguments(tmp_path), train_dataset=windows(), processing_class=processor)
    trainer.save_model(str(tmp_path / "saved"))
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        path.name for path in (tmp_path / "saved").iterdir()
    }
    assert SeriesProcessor.from_pretrained(tmp_path / "saved").channels == ["a", "b"]


def test_models_of_a_function_and_metrics_of_ones_own_are_taken(tmp_path):
    def both(prediction, compute_result=True):
        return {"rows": len(prediction.predictions)}

    data = windows()
    trainer = ForecastTrainer(
        args=arguments(tmp_path), model_init=lambda: forecaster("patchtsmixer"), train_dataset=data,
        eval_dataset=data, compute_metrics=both,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == len(data) and not trainer.args.batch_eval_metrics
    assert metrics["eval_loss"] > 0


def test_what_cannot_be_trained_as_a_forecaster_is_refused(tmp_path):
    tiny = {"d_model": 4, "context_length": 8, "patch_length": 4, "patch_stride": 4}
    masked = PatchTSTForPretraining(PatchTSTConfig(num_hidden_layers=1, num_attention_heads=1, ffn_dim=4, **tiny))
    with pytest.raises(ValueError, match="PatchTSTForPretraining is no forecaster.*Make one with `new_forecaster`"):
        ForecastTrainer(masked, arguments(tmp_path))
    distribution = PatchTSMixerForPrediction(PatchTSMixerConfig(loss="nll", num_layers=1, **tiny))
    with pytest.raises(ValueError, match="forecasts a distribution .loss='nll'."):
        ForecastTrainer(distribution, arguments(tmp_path))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # that torch itself asks for, and hides
def test_compiled_it_learns_the_same(tmp_path):
    data = windows()
    plain, compiled = forecaster(dropout=False), forecaster(dropout=False)
    ForecastTrainer(plain, arguments(tmp_path), train_dataset=data).train()
    options = {"torch_compile": True, "torch_compile_backend": "eager"}
    ForecastTrainer(compiled, arguments(tmp_path, **options), train_dataset=data).train()
    for (name, one), (_, other) in zip(weights(plain).items(), weights(compiled).items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)
