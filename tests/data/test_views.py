"""Two views of rows: which rows get one, that the batch itself stays, and images that are really augmented."""

from __future__ import annotations

import pickle
import sys

import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from transformers import ViTImageProcessorPil

from hf_transfer.data.token_noise import TokenNoise
from hf_transfer.data.views import StrongImages, TwoViewsCollator
from tests.data.test_token_noise import tokenizer


PROCESSOR = ViTImageProcessorPil(size={"height": 16, "width": 16})


def image_rows(labels=(0, -100, 2, -100)):
    generator = torch.Generator().manual_seed(0)
    return [
        {"pixel_values": torch.rand(3, 16, 16, generator=generator) * 2 - 1, "labels": label, "domain": number % 2}
        for number, label in enumerate(labels)
    ]


def text_rows(labels=(0, -100, -100)):
    return [{"input_ids": [1, *range(10, 14 + n), 2], "labels": label} for n, label in enumerate(labels)]


def test_unlabelled_rows_get_a_view_and_the_batch_stays():
    batch = TwoViewsCollator(PROCESSOR)(image_rows())
    views = batch.pop("strong_view")
    assert set(batch) == {"pixel_values", "labels", "domain"} and set(views) == {"pixel_values", "row"}
    assert torch.equal(batch["pixel_values"], torch.stack([row["pixel_values"] for row in image_rows()]))
    assert views["row"].tolist() == [1, 3] and views["pixel_values"].shape == (2, 3, 16, 16)
    assert not torch.equal(views["pixel_values"], batch["pixel_values"][[1, 3]])


def test_all_rows():
    views = TwoViewsCollator(PROCESSOR, rows="all")(image_rows())["strong_view"]
    assert views["row"].tolist() == [0, 1, 2, 3] and len(views["pixel_values"]) == 4


def test_text_is_padded_and_every_input_has_a_view():
    torch.manual_seed(0)
    noise = TokenNoise(tokenizer(), mask=0.9, swap=0, delete=0)
    batch = TwoViewsCollator(tokenizer(), strong=noise)(text_rows())
    views = batch["strong_view"]
    assert batch["input_ids"].shape == (3, 8) and views["input_ids"].shape == (2, 8)
    assert torch.equal(views["attention_mask"], batch["attention_mask"][[1, 2]])
    assert (views["input_ids"] == 3).any() and not (batch["input_ids"] == 3).any()
    assert isinstance(TwoViewsCollator(tokenizer()).strong, TokenNoise)


def test_no_unlabelled_row_is_a_view_of_no_rows():
    views = TwoViewsCollator(PROCESSOR)(image_rows((0, 1)))["strong_view"]
    assert views["pixel_values"].shape == (0, 3, 16, 16) and len(views["row"]) == 0


def test_rows_of_tokens_are_unlabelled_if_no_token_is_labelled():
    rows = [{"x": torch.zeros(2, 1), "labels": torch.tensor(label)} for label in ([0, -100], [-100, -100])]
    batch = TwoViewsCollator(None, collator=default_collate, strong=dict)(rows)
    assert batch["strong_view"]["row"].tolist() == [1]


def test_the_strong_view_is_made_of_the_weak_one():
    collator = TwoViewsCollator(
        None,
        collator=default_collate,
        weak=lambda inputs: {"pixel_values": inputs["pixel_values"] + 1},
        strong=lambda inputs: {"pixel_values": inputs["pixel_values"] * 10},
    )
    batch = collator(image_rows())
    torch.testing.assert_close(batch["strong_view"]["pixel_values"], batch["pixel_values"][[1, 3]] * 10)
    torch.testing.assert_close(batch["pixel_values"][0], image_rows()[0]["pixel_values"] + 1)


def test_images_stay_in_range_and_have_a_grey_square():
    torch.manual_seed(0)
    images = torch.ones(8, 3, 16, 16)
    strong = StrongImages(PROCESSOR)({"pixel_values": images})["pixel_values"]
    assert strong.shape == images.shape and strong.min() >= -1.001 and strong.max() <= 1.001
    assert ((strong - 0.0).abs() < 1e-6).flatten(1).any(1).all(), "grey is 0.5, which is normalised to 0"
    assert len({image.flatten().sum().item() for image in strong}) > 4


def test_views_depend_on_the_batch_alone():
    """Not on what was drawn before, as after a resume, nor on the process that collates."""
    collator = TwoViewsCollator(PROCESSOR)
    assert pickle.loads(pickle.dumps(collator)).rows == "unlabelled"

    def views(workers, rows):
        loader = DataLoader(rows, batch_size=2, collate_fn=collator, num_workers=workers)
        return torch.cat([batch["strong_view"]["pixel_values"] for batch in loader])

    rows = image_rows()
    torch.manual_seed(1)
    first = views(0, rows)
    torch.manual_seed(2)
    assert torch.equal(views(0, rows), first) and torch.equal(views(1, rows), first)
    # in another batch the same rows are seen in other views
    mixed = [rows[number] for number in (2, 1, 0, 3)]
    assert not torch.equal(views(0, mixed)[0], first[0])


def test_the_global_random_numbers_go_on():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    TwoViewsCollator(PROCESSOR)(image_rows())
    assert torch.equal(torch.rand(2), expected)


def test_refused(monkeypatch):
    with pytest.raises(ValueError, match='`rows="some"` names no rows.*"unlabelled" or "all"'):
        TwoViewsCollator(PROCESSOR, rows="some")
    with pytest.raises(ValueError, match='finds no `labels` among pixel_values.*`mix_domains.*rows="all"'):
        TwoViewsCollator(PROCESSOR)([{"pixel_values": torch.zeros(3, 16, 16)}])
    with pytest.raises(ValueError, match=r"returned `pixel_values` of shape \(2, 1\).*keep names and shapes"):
        strong = {"pixel_values": torch.zeros(2, 1)}
        TwoViewsCollator(PROCESSOR, strong=lambda inputs: strong)(image_rows())
    with pytest.raises(ValueError, match=r"StrongImages got input_ids \(1, 2\).*`strong`"):
        StrongImages(PROCESSOR)({"input_ids": torch.zeros(1, 2)})
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match="kornia"):
        TwoViewsCollator(PROCESSOR)(image_rows())
