"""What a forecaster takes from a checkpoint."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_transfer.time_series.models import load_forecaster
from hf_transfer.time_series.starting import interpolated
from tests.time_series.tiny_forecasters import H, L, forecaster


def test_a_checkpoint_that_lacks_part_of_the_backbone_is_refused(tmp_path):
    forecaster().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.encoder.layers.1.self_attn.k_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks `model.encoder.layers.1.self_attn.k_proj.weight`.* partly random"):
        load_forecaster(tmp_path, channels=2, context_length=L, prediction_length=H)


@pytest.mark.parametrize("count", [2, 3, 5, 11])
def test_a_stretched_table_is_linear_between_the_rows_it_had(count):
    table = torch.tensor([[0.0, 4.0], [1.0, 0.0], [5.0, 2.0]])
    stretched = interpolated(table, count)
    assert stretched.shape == (count, 2)
    for place in range(count):
        at = place * 2 / (count - 1)
        low = min(int(at), 1)
        expected = table[low] + (at - low) * (table[low + 1] - table[low])
        torch.testing.assert_close(stretched[place], expected, rtol=1e-6, atol=1e-6)


def test_a_table_of_the_same_length_stays_and_keeps_its_type():
    table = torch.randn(4, 3, dtype=torch.bfloat16)
    assert torch.equal(interpolated(table, 4), table)
