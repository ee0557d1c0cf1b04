from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hf_transfer.frozen_prefix.extent import Unsuitable
from hf_transfer.frozen_prefix.proof import compare, inputs_of, proof_rows, refuse_layer_drop, with_seed
from tests.models import tiny_bert, tiny_wav2vec2


def test_two_batches_differ_in_rows_and_padding():
    lengths = np.array([3, 9, 1, 4, 2])
    first, second = proof_rows(5, lengths)
    assert {lengths.argmax(), lengths.argmin()} <= set(first)
    assert lengths.argmin() in second
    assert lengths[first].max() > lengths[second].max()
    assert len(first) != len(second)


@pytest.mark.parametrize("rows", [1, 2, 3, 50])
def test_small_sets_have_a_proof_too(rows):
    for lengths in (None, np.arange(rows) + 1):
        batches = proof_rows(rows, lengths)
        assert batches
        for batch in batches:
            assert len(set(batch)) == len(batch) <= rows
            assert all(0 <= row < rows for row in batch)


def test_dropout_repeats_and_statistics_and_generators_are_put_back():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    x = torch.randn(8, 4)
    torch.manual_seed(1)
    expected = torch.rand(3)
    before = {name: value.clone() for name, value in net.named_buffers()}
    torch.manual_seed(1)
    one, two = (with_seed(net, lambda: net(x)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_buffers_are_put_back_after_an_error():
    net = nn.BatchNorm1d(4).train()

    def fail():
        net(torch.randn(8, 4) + 5)
        raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        with_seed(net, fail)
    assert net.num_batches_tracked == 0
    assert net.running_mean.eq(0).all()


@pytest.mark.parametrize(("dtype", "small", "large"), [(torch.float32, 2e-5, 5e-4), (torch.bfloat16, 1e-2, 0.2)])
def test_rounding_passes_and_more_does_not(dtype, small, large):
    values = torch.randn(4, 3).to(dtype)
    compare(values + values.abs().max() * small, values, None, "Logits")
    with pytest.raises(Unsuitable, match="Logits differ by .* blocks pass on more .* - train without"):
        compare(values + values.abs().max() * large, values, None, "Logits")


def test_what_belongs_to_padding_is_left_out():
    values = torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    other = values.clone()
    other[0, 2] = 9.0
    compare(other, values, mask, "States")
    with pytest.raises(Unsuitable, match="States differ"):
        compare(other, values, None, "States")
    other[0, 1] = 9.0
    with pytest.raises(Unsuitable, match="States differ"):
        compare(other, values, mask, "States")


def test_other_shapes_and_values_that_are_no_numbers_do_not_pass():
    with pytest.raises(Unsuitable, match="differ by inf"):
        compare(torch.zeros(2, 3), torch.zeros(2, 4), None, "Logits")
    with pytest.raises(Unsuitable, match="differ by nan"):
        compare(torch.full((2, 3), torch.nan), torch.zeros(2, 3), None, "Logits")


def test_labels_are_no_inputs():
    assert inputs_of({"input_ids": 1, "labels": 2, "domain": 3}) == {"input_ids": 1, "domain": 3}


def test_layer_drop_counts_where_the_encoder_trains():
    model = tiny_wav2vec2(layerdrop=0.2).train()
    with pytest.raises(Unsuitable, match=r"layerdrop=0.2 - .* - set model.config.layerdrop = 0.0"):
        refuse_layer_drop(model, "wav2vec2.encoder.layers.0")
    model.wav2vec2.encoder.eval()
    refuse_layer_drop(model, "wav2vec2.encoder.layers.0")
    refuse_layer_drop(tiny_bert().train(), "bert.encoder.layer.0")
