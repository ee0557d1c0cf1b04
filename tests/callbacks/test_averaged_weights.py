from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from hf_transfer.callbacks.averaged_weights import AveragedWeights, read_metadata
from tests.callbacks.harness import changed, copy_of, seeded
from tests.models import lora, tiny_bert, tiny_resnet


def moved(model, by=1.0):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by)


def test_the_model_holds_one_of_the_two_and_the_tensors_stay_the_same_objects():
    model = seeded(tiny_resnet)
    weights, start = AveragedWeights(model), copy_of(model)
    objects = {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    weights.join()
    moved(model)
    model.resnet.embedder.embedder.normalization.running_mean.add_(4)
    raw = copy_of(model)
    weights.update(0.75)
    assert not changed(raw, copy_of(model)) and not weights.shows_average
    weights.show_average()
    weights.show_average()
    assert weights.shows_average
    for name, value in copy_of(model).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * raw[name])
    weights.show_raw()
    weights.show_raw()
    assert not changed(raw, copy_of(model))
    assert objects == {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def test_the_optimizer_goes_on_with_the_raw_weights():
    models = [seeded() for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1) for model in models]
    weights = AveragedWeights(models[1])
    for step in range(3):
        weights.show_raw()
        for model, optimizer in zip(models, optimizers, strict=True):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, step + 1.0)
            weights.join()
            optimizer.step()
        weights.update(0.9)
        weights.show_average()
    assert changed(copy_of(models[0]), copy_of(models[1]))
    weights.show_raw()
    assert not changed(copy_of(models[0]), copy_of(models[1]))


def test_what_is_frozen_takes_no_memory_until_it_trains():
    model = seeded()
    model.bert.requires_grad_(False)
    weights = AveragedWeights(model)
    weights.join()
    assert set(weights.averages) == {"classifier.weight", "classifier.bias"}
    model.bert.pooler.requires_grad_(True)
    weights.join()
    assert set(weights.averages) == {
        "classifier.weight",
        "classifier.bias",
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
    }
    model.classifier.requires_grad_(False)
    weights.join()
    assert "classifier.weight" in weights.averages, "its average has not arrived yet"


def test_under_lora_only_what_trains():
    model = lora(seeded(), ["query"], "classifier")
    weights = AveragedWeights(model)
    weights.join()
    assert set(weights.averages) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_half_precision_is_averaged_in_single():
    model = seeded().bfloat16()
    weights = AveragedWeights(model)
    weights.join()
    bias = model.classifier.bias
    with torch.no_grad():
        bias.fill_(1.0)
    for _ in range(100):
        weights.update(0.999)
    assert weights.averages["classifier.bias"].dtype == torch.float32
    torch.testing.assert_close(weights.averages["classifier.bias"], torch.full((3,), 1 - 0.999**100))
    weights.show_average()
    assert bias.dtype == torch.bfloat16


@pytest.mark.parametrize("half", [False, True])
def test_saved_and_loaded_it_goes_on_bit_for_bit(half, tmp_path):
    def build():
        model = seeded(tiny_resnet)
        return model.bfloat16() if half else model

    first = build()
    weights = AveragedWeights(first)
    weights.join()
    moved(first, 0.3)
    weights.update(0.7)
    weights.show_average()
    path = tmp_path / "raw.safetensors"
    weights.save(path, {"step": "1"})
    assert [file.name for file in tmp_path.iterdir()] == ["raw.safetensors"]
    second = build()
    second.load_state_dict(copy_of(first))  # as the Trainer loads the model of the checkpoint
    loaded = AveragedWeights(second)
    loaded.load(path)
    assert loaded.shows_average and not changed(copy_of(first), copy_of(second))
    for model, pair in ((first, weights), (second, loaded)):
        pair.show_raw()
        moved(model, 0.1)
        pair.update(0.7)
    assert not changed(copy_of(first), copy_of(second))
    weights.show_average()
    loaded.show_average()
    assert not changed(copy_of(first), copy_of(second))


def test_the_file_holds_the_raw_weights_and_no_average_that_the_model_has(tmp_path):
    model = seeded()
    weights = AveragedWeights(model)
    weights.join()
    moved(model)
    raw = copy_of(model)
    weights.update(0.5)
    weights.show_average()
    weights.save(tmp_path / "raw.safetensors", {})
    state = load_file(tmp_path / "raw.safetensors")
    assert state.keys() == {f"raw.{name}" for name, _ in model.named_parameters()}
    assert all(torch.equal(value, raw[name.removeprefix("raw.")]) for name, value in state.items())


def test_a_file_of_another_model_is_refused(tmp_path):
    weights = AveragedWeights(seeded())
    weights.join()
    weights.show_average()
    weights.save(tmp_path / "raw.safetensors", {})
    with pytest.raises(ValueError, match=r"does not fit the model; they differ in .*Build the model as in the first"):
        AveragedWeights(tiny_bert(hidden_size=8)).load(tmp_path / "raw.safetensors")


def test_metadata_is_read_back_and_empty_without_a_file(tmp_path):
    assert read_metadata(tmp_path / "raw.safetensors") == {}
    weights = AveragedWeights(seeded())
    weights.join()
    weights.show_average()
    weights.save(tmp_path / "raw.safetensors", {"run": "a", "step": "3"})
    assert read_metadata(tmp_path / "raw.safetensors") == {"run": "a", "step": "3"}
