"""What a model costs: that it is measured, and that the model is left as it was; never how long it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_transfer.distillation.measuring import WARM_UP, measure, size_on_disk
from tests.models import tiny_bert, tiny_resnet


def batch(rows):
    return {"input_ids": torch.ones(rows, 4, dtype=torch.long), "labels": torch.zeros(rows, dtype=torch.long)}


def test_fields_are_positive_and_right(tmp_path):
    model: Any = tiny_bert()
    model.save_pretrained(tmp_path)
    cost = measure(model, batch(1), batch(3), folder=tmp_path, repeats=20)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.bytes == (tmp_path / "model.safetensors").stat().st_size > 4 * cost.parameters
    assert 0 < cost.latency_ms <= cost.latency_p90_ms and cost.throughput > 0
    assert (cost.batch_size, cost.device, cost.dtype) == (3, "cpu", "float32")
    assert cost.threads == torch.get_num_threads()


def test_the_model_is_left_as_it_was():
    model = tiny_resnet().train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    pixels = {"pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    calls = []
    handle = model.register_forward_hook(lambda module, *_: calls.append((module.training, torch.is_grad_enabled())))
    measure(model, {name: value[:1] for name, value in pixels.items()}, pixels, repeats=20)
    handle.remove()
    assert len(calls) == 2 * (WARM_UP + 20) and not any(map(any, calls))  # in evaluation mode, without gradients
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_too_few_repeats():
    with pytest.raises(ValueError, match="`repeats=5` is too few for a 90% quantile"):
        measure(tiny_bert(), batch(1), batch(2), repeats=5)


def test_a_size_that_is_not_known(tmp_path):
    assert size_on_disk(tmp_path) is None and size_on_disk("some/model-on-the-hub") is None
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"x" * number)
    assert size_on_disk(tmp_path) == 3
