from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Wav2Vec2ForSequenceClassification

from hf_transfer.features.extraction.pooling import POOLINGS, as_tokens, check_pooling, pool, real_tokens
from tests.models import tiny_bert, tiny_wav2vec2


MASKS = {
    "none": None,
    "right": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]],
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_against_a_loop(pooling, mask):
    tokens = torch.randn(3, 4, 5, dtype=torch.float64).float()
    given = None if MASKS[mask] is None else torch.tensor(MASKS[mask])
    found = pool(tokens, pooling, given)
    for row in range(3):
        kept = [tokens[row, t].tolist() for t in range(4) if given is None or given[row, t]]
        expected = {
            "mean": [sum(column) / len(kept) for column in zip(*kept, strict=True)],
            "cls": kept[0],
            "last": kept[-1],
            "none": kept,
        }[pooling]
        torch.testing.assert_close(found[row], torch.tensor(expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_stands_at_padding_does_not_matter(value):
    tokens = torch.tensor([[[1.0], [3.0], [value]]])
    for pooling, expected in (("mean", 2.0), ("cls", 1.0), ("last", 3.0)):
        assert pool(tokens, pooling, torch.tensor([[1, 1, 0]])).tolist() == [[expected]]  # type: ignore[union-attr]


def test_a_row_of_padding_alone():
    tokens = torch.randn(1, 3, 2)
    mask = torch.zeros(1, 3)
    assert pool(tokens, "mean", mask).tolist() == [[0.0, 0.0]]  # type: ignore[union-attr]
    assert torch.equal(pool(tokens, "last", mask), tokens[:, 0])  # type: ignore[arg-type]
    assert [len(row) for row in pool(tokens, "none", mask)] == [0]


def test_means_of_half_precision_are_taken_in_single():
    tokens = torch.full((1, 4096, 1), 30.0, dtype=torch.float16)
    assert pool(tokens, "mean", torch.ones(1, 4096)).item() == 30.0  # type: ignore[union-attr]


def test_refusals():
    with pytest.raises(ValueError, match='pooling="max" is unknown.*Choose one of cls, mean, last, none'):
        check_pooling("max")
    with pytest.raises(ValueError, match="returns 4 vectors a row, the mask tells of 6 tokens.*Tap"):
        pool(torch.zeros(2, 4, 3), "mean", torch.ones(2, 6))


def test_maps_become_tokens_of_their_width():
    values = torch.arange(2 * 8 * 3 * 3.0).reshape(2, 8, 3, 3)
    first, is_map = as_tokens(values, nn.BatchNorm2d(8))
    assert is_map and torch.equal(first[1, 5], values[1, :, 1, 2])
    last, is_map = as_tokens(values.permute(0, 2, 3, 1), nn.LayerNorm(8))
    assert is_map and torch.equal(last, first)
    # neither width among the parameters: channels first, as convolutions without bias have them
    assert as_tokens(values, nn.ReLU())[0].shape == (2, 9, 8)
    assert as_tokens(torch.zeros(2, 8, 4, 8), nn.LayerNorm(8))[0].shape == (2, 32, 8)


def test_tokens_stay_and_vectors_become_one_token():
    tokens = torch.zeros(2, 3, 4)
    assert as_tokens(tokens, nn.Identity()) == (tokens, False)
    assert as_tokens(torch.zeros(2, 4), nn.Identity())[0].shape == (2, 1, 4)


def test_masks_of_sound_are_shortened_as_the_model_does():
    model = tiny_wav2vec2()
    assert isinstance(model, Wav2Vec2ForSequenceClassification)
    mask = torch.ones(2, 400)
    mask[1, 200:] = 0
    frames = int(model._get_feat_extract_output_lengths(torch.tensor(400)))
    shorter = int(model._get_feat_extract_output_lengths(torch.tensor(200)))
    found = real_tokens(model, mask.long(), frames)
    assert found is not None and found.sum(1).tolist() == [frames, shorter]


def test_masks_of_text_that_is_shortened():
    model = tiny_bert()
    assert real_tokens(model, torch.ones(2, 6), 3) is None  # nothing is padded
    mask = torch.tensor([[1, 1, 0]])
    assert real_tokens(model, mask, 3) is mask and real_tokens(model, mask, 2) is mask
    assert real_tokens(model, None, 3) is None
