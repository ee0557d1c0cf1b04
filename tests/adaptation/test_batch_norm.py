"""AdaBN: the statistics are those of the target, to the last digit, and everything else is left alone."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, TensorDataset

from hf_transfer import DomainAdversarial, adapt_batch_norm, attach
from hf_transfer.adaptation.batch_norm import Moments
from tests.adaptation.shifted import accuracy, cut, flags, images, state, trained
from tests.models import batch_for, lora, tiny_bert, tiny_resnet


NORMS = ("first", "layers.0.norm", "layers.1.norm")


def of_channels(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance of each channel, one value after the other."""
    values = values.double().transpose(0, 1).flatten(1)
    mean = torch.stack([sum(row) / len(row) for row in values])
    variance = torch.stack(
        [sum((x - m) ** 2 for x in row) / (len(row) - 1) for row, m in zip(values, mean, strict=True)]
    )
    return mean.float(), variance.float()


@pytest.mark.parametrize("size", [96, 32, 20, 7, 1])
def test_first_layer_has_the_exact_statistics_of_all_rows(size):
    """Also with a short last batch, whose rows a plain mean over batches would count too much."""
    model, target = trained(), images(96, seed=1, shifted=True)
    adapt_batch_norm(model, cut(target, size))
    mean, variance = of_channels(target["pixel_values"])
    torch.testing.assert_close(model.first.running_mean, mean)
    torch.testing.assert_close(model.first.running_var, variance)


def test_deeper_layers_see_adapted_inputs():
    model, target = trained(), images(50, seed=1, shifted=True)
    adapt_batch_norm(model, [target])
    x = target["pixel_values"]
    mean, variance = of_channels(x)
    x = (x - mean[:, None, None]) / (variance[:, None, None] * 449 / 450 + 1e-5).sqrt()
    x = x * model.first.weight[:, None, None] + model.first.bias[:, None, None]
    x = torch.relu(model.layers[0].conv(x)).detach()
    mean, variance = of_channels(x)
    torch.testing.assert_close(model.layers[0].norm.running_mean, mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.layers[0].norm.running_var, variance, rtol=1e-4, atol=1e-4)


def test_it_helps_on_a_shifted_domain():
    model, target = trained(), images(300, seed=2, shifted=True)
    before = accuracy(model, target)
    adapt_batch_norm(model, cut(target, 50))
    assert before < 0.75 and accuracy(model, target) > 0.9


def test_nothing_but_the_statistics_changes():
    model = trained().train()
    model.layers[0].eval()
    before, modes = state(model), flags(model)
    assert adapt_batch_norm(model, [images(shifted=True)]) == 3
    changed = {key for key, value in state(model).items() if not torch.equal(value, before[key])}
    assert changed == {f"{norm}.running_{kind}" for norm in NORMS for kind in ("mean", "var")}
    assert flags(model) == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_labels_change_nothing_bit_for_bit():
    results = []
    for labels in (None, 0, 1):
        model, target = trained(), images(shifted=True)
        target = target if labels is None else {**target, "labels": torch.full((96,), labels)}
        adapt_batch_norm(model, [target])
        results.append(state(model))
    assert all(torch.equal(results[0][key], other[key]) for other in results[1:] for key in other)


def test_rows_loaders_and_batches_are_the_same():
    target = images(10, shifted=True)
    rows = Dataset.from_dict({k: v.tolist() for k, v in target.items()}).with_format("torch")
    loader = DataLoader(rows, batch_size=4, shuffle=True)
    found = []
    for data in (cut(target, 4), rows, loader, iter(cut(target, 4))):
        model = trained()
        adapt_batch_norm(model, data, batch_size=4)
        found.append(state(model))
    for other in found[1:]:
        for key, value in other.items():
            torch.testing.assert_close(value, found[0][key])


def test_some_batches_only():
    first, second = trained(), trained()
    batches = cut(images(shifted=True), 16)
    adapt_batch_norm(first, batches, max_batches=2)
    adapt_batch_norm(second, batches[:2])
    assert all(torch.equal(value, state(second)[key]) for key, value in state(first).items())


def test_an_error_on_the_way_leaves_the_model_as_it_was():
    model = trained()
    before, modes = state(model), flags(model)
    broken = [images(8), {"pixel_values": torch.zeros(2, 5, 3, 3)}]
    with pytest.raises(RuntimeError):
        adapt_batch_norm(model, broken)
    assert all(torch.equal(value, before[key]) for key, value in state(model).items()) and flags(model) == modes


def test_models_of_transformers_attached_and_under_lora():
    model = tiny_resnet()
    attach(model, [DomainAdversarial(hidden_size=8)])
    assert adapt_batch_norm(model, [batch_for(model, 6)]) > 0
    wrapped = lora(tiny_resnet(), "all-linear", None)
    assert adapt_batch_norm(wrapped, [batch_for(wrapped, 6)]) > 0


def test_constant_inputs():
    model = trained()
    adapt_batch_norm(model, [{"pixel_values": torch.ones(2, 2, 3, 3)}])
    assert model.first.running_mean.tolist() == [1, 1] and model.first.running_var.tolist() == [0, 0]
    assert model(pixel_values=torch.ones(1, 2, 3, 3))["logits"].isfinite().all()


def test_moments_put_together_in_any_cut():
    values = 1e4 + torch.randn(3, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for part in values.split([1, 9, 20, 30], dim=1):
        mean = part.mean(1)
        moments.add(part.shape[1], mean, (part - mean.unsqueeze(1)).square().sum(1))
    count, mean, variance = moments.together(values[:, 0], 1)
    assert count == 60
    torch.testing.assert_close(mean, values.mean(1))
    torch.testing.assert_close(variance, values.var(1))


def test_refused():
    with pytest.raises(ValueError, match="no batch normalisation with running statistics.*nothing to adapt.*Leave"):
        adapt_batch_norm(tiny_bert(), [])
    with pytest.raises(ValueError, match="target data are empty.*nothing to adapt to.*no labels"):
        adapt_batch_norm(trained(), [])
    with pytest.raises(ValueError, match="No value of the target data reached.*Give batches"):
        adapt_batch_norm(trained(), cut(images(), 8), max_batches=0)
    with pytest.raises(ValueError, match="none of which Tiny reads.*`collator`"):
        adapt_batch_norm(trained(), TensorDataset(torch.zeros(3, 1)), collator=lambda rows: {"x": torch.zeros(3)})
    with pytest.raises(ValueError, match="`batch_size=0`"):
        adapt_batch_norm(trained(), TensorDataset(torch.zeros(3, 1)), batch_size=0)
