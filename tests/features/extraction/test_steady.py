"""Models in which padding or other rows leak into a row, and inputs that are drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import FNetConfig, FNetForSequenceClassification

from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.fetched_rows import Views
from hf_transfer.features.extraction.inputs import find_source
from hf_transfer.features.extraction.steady import batches_of, grouping_for, refuse_random_inputs
from hf_transfer.features.extraction.tap_reader import TapReader, evaluating
from hf_transfer.features.extraction.taps import find_taps
from tests.features.extraction.extraction_data import (
    alone,
    image_processor,
    images,
    inputs_for,
    stack,
    texts,
    tokenizer,
)
from tests.models import TINY, VOCABULARY, tiny_bert, tiny_vit


def fnet() -> nn.Module:
    config = FNetConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, intermediate_size=32, num_labels=3, pad_token_id=0
    )
    return FNetForSequenceClassification(config)


def grouping(model, data):
    with evaluating(model), TapReader(model, find_taps(model, "head")) as reader:
        return grouping_for(model, reader, find_source(model, data), range(len(data)))


@pytest.mark.parametrize("kind", TINY)
def test_in_most_models_rows_share_a_batch(kind):
    model = TINY[kind]()
    assert grouping(model, inputs_for(model)) == "any"


def test_padding_that_leaks_makes_batches_of_equal_length(tmp_path):
    model = fnet()
    data = inputs_for(model)
    assert grouping(model, data) == "equal lengths"
    features = extract_features(model, data, cache_dir=tmp_path, progress=False)
    np.testing.assert_allclose(stack(features), np.stack(alone(model, data)), atol=1e-5)


def test_rows_that_leak_run_alone(tmp_path):
    model = tiny_vit()
    model.vit.layernorm = nn.BatchNorm1d(5, track_running_stats=False)  # over the rows, for each token
    data = inputs_for(model)
    assert grouping(model, data) == "alone"
    features = extract_features(model, data, cache_dir=tmp_path, progress=False)
    np.testing.assert_allclose(stack(features), np.stack(alone(model, data)), atol=1e-5)


def test_a_model_that_draws_is_refused():
    class Drawing(nn.Module):
        def forward(self, hidden):
            return hidden + torch.randn_like(hidden)

    model = tiny_vit()
    model.vit.layernorm = Drawing()
    with pytest.raises(ValueError, match="Two forwards of ViTForImageClassification in evaluation mode.*at random"):
        grouping(model, inputs_for(model))


def test_batches_of_every_grouping():
    class Window:
        lengths = np.array([2, 5, 2, 2, 5])

        def order(self):
            return np.argsort(-self.lengths, kind="stable")

    def cut(size, kind):
        return [batch.tolist() for batch in batches_of(Window(), size, kind)]

    assert cut(2, "any") == [[1, 4], [0, 2], [3]] and cut(9, "any") == [[1, 4, 0, 2, 3]]
    assert cut(4, "equal lengths") == [[1, 4], [0, 2, 3]] and cut(2, "equal lengths") == [[1, 4], [0, 2], [3]]
    assert cut(3, "alone") == [[1], [4], [0], [2], [3]]


def test_a_collator_that_draws_is_refused():
    def collator(rows):
        ids = torch.randint(1, 9, (len(rows), 3))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    source = find_source(tiny_bert(), texts(), tokenizer(), collator=collator)
    with pytest.raises(ValueError, match=r"`data_collator`\) gives two different answers"):
        refuse_random_inputs(source, drawn=False)


def test_an_augmentation_with_a_generator_of_its_own_is_refused():
    generator = torch.Generator().manual_seed(0)

    def own(pixels):
        return pixels + torch.randn(pixels.shape, generator=generator)

    source = find_source(tiny_vit(), images(), image_processor(), views=Views(2, own))
    with pytest.raises(ValueError, match="`augment` gave two answers for one view"):
        refuse_random_inputs(source, drawn=True)
    fair = find_source(tiny_vit(), images(), image_processor(), views=Views(2, lambda p: p + torch.randn_like(p)))
    refuse_random_inputs(fair, drawn=True)


def test_flips_of_half_the_images_are_noticed():
    processor = image_processor()

    def flip(batch):
        pixels = processor(batch["image"], return_tensors="pt")["pixel_values"]
        flipped = torch.rand(len(pixels)) < 0.5
        return {"pixel_values": torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)}

    with pytest.raises(ValueError, match="it is random"):
        refuse_random_inputs(find_source(tiny_vit(), images().with_transform(flip)), drawn=False)
    assert isinstance(images(), Dataset)
