from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hf_transfer.selection.candidates import Loaded
from hf_transfer.selection.reading import read_candidate
from hf_transfer.selection.target import read_target
from tests.models import tiny_token_bert
from tests.recipes.conftest import saved_text_model
from tests.selection.planted import PROCESSOR, sentences, shades, vit


@pytest.fixture
def target():
    return read_target(shades(12), draws=0)


@pytest.fixture
def read(target, tmp_path):
    def read(model=None, no_head="", **options):
        loaded = Loaded(vit() if model is None else model, PROCESSOR, no_head)
        return read_candidate(loaded, target, cache_dir=tmp_path / "cache", progress=False, **options)

    return read


def outputs(model, target):
    with torch.no_grad():
        pixels = PROCESSOR(target.rows["image"][:], return_tensors="pt")
        return model.eval()(**pixels, output_hidden_states=True)


def test_logits_of_source_classes_are_those_of_the_model(read, target):
    model = vit()
    found = read(model)
    np.testing.assert_allclose(found.source_logits, outputs(model, target).logits.numpy(), atol=1e-5)
    assert list(found.layers) == ["features"] and found.layers["features"].shape == (12, 16)
    assert found.labels.tolist() == target.rows["label"][:] and found.examples.tolist() == list(range(12))
    assert found.computed == 12 and read(model).computed == 0  # the second time from the cache
    untrained = read(model, no_head="it was drawn at random")
    assert untrained.source_logits is None and untrained.no_source == "it was drawn at random"


def test_the_mean_is_of_blocks_each_standardised(read, target):
    model = vit()
    (features,) = read(model, layers="mean").layers.values()
    blocks = [own.mean(1).double().numpy() for own in outputs(model, target).hidden_states[1:]]
    expected = sum((own - own.mean(0)) / own.std(0) for own in blocks) / len(blocks)
    np.testing.assert_allclose(features, expected, atol=1e-3)


def test_all_blocks_and_the_input_of_the_head_are_read_for_the_best(read):
    assert list(read(layers="best").layers) == ["block.0", "block.1", "features"]
    assert list(read(pooling="cls").layers) == ["block.1"]


def test_words_are_rows_that_know_their_sentence(tmp_path):
    folder = saved_text_model(tmp_path, tiny_token_bert)
    target = read_target(sentences(8), draws=0)
    loaded = Loaded(tiny_token_bert(), AutoTokenizer.from_pretrained(folder))
    found = read_candidate(loaded, target, cache_dir=tmp_path / "cache", progress=False)
    counts = [len(tags) for tags in target.rows["label"][:]]
    assert np.bincount(found.examples).tolist() == counts and len(found.labels) == sum(counts)
