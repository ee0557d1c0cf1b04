from __future__ import annotations

import pytest

from hf_transfer.data.preparation import prepare
from hf_transfer.features.extraction import preparing
from hf_transfer.features.extraction.inputs import find_source
from hf_transfer.features.extraction.preparing import rows_per_forward, threads_for
from tests.features.extraction.extraction_data import image_processor, images, texts, tokenizer
from tests.models import tiny_bert, tiny_vit


@pytest.fixture
def sources():
    own = prepare(images(), image_processor()).format["format_kwargs"]["transform"].__call__
    return {
        "images": find_source(tiny_vit(), images(), image_processor()),
        "text": find_source(tiny_bert(), texts(), tokenizer()),
        "own": find_source(tiny_vit(), images().with_transform(own)),
    }


@pytest.mark.parametrize(("cores", "decoding"), [(1, 1), (2, 1), (8, 4), (64, 8)])
def test_on_a_cpu_half_of_the_cores_decode(sources, monkeypatch, cores, decoding):
    monkeypatch.setattr(preparing, "cores", lambda: cores)
    assert [threads_for(tiny_vit(), sources[kind]) for kind in ("images", "text", "own")] == [decoding, 0, 0]


@pytest.mark.parametrize(("cores", "decoding"), [(1, 1), (4, 4), (64, 8)])
def test_beside_an_accelerator_every_core_is_free(sources, monkeypatch, cores, decoding):
    monkeypatch.setattr(preparing, "cores", lambda: cores)
    model = tiny_vit().to("meta")
    assert [threads_for(model, sources[kind]) for kind in ("images", "text", "own")] == [decoding, 1, 1]


def test_small_pieces_for_images_on_a_cpu_only(sources):
    assert rows_per_forward(tiny_vit(), sources["images"], 32) == 16
    assert rows_per_forward(tiny_vit(), sources["images"], 5) == 5
    assert rows_per_forward(tiny_vit().to("meta"), sources["images"], 32) == 32
    assert rows_per_forward(tiny_bert(), sources["text"], 32) == 32
