from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from datasets import Dataset

from hf_transfer.features.extraction.fetched_rows import FetchedWindow, Views, same, seeded


def pixels(rows: int = 6) -> Dataset:
    values = np.arange(rows * 3 * 2 * 2, dtype="float32").reshape(rows, 3, 2, 2)
    return Dataset.from_dict({"pixel_values": values, "other": list(range(rows))}).with_format("numpy")


def noise(images):
    return images + torch.randn_like(images) + random.random() + float(np.random.rand())


def test_rows_at_their_positions():
    window = FetchedWindow(pixels(), range(2, 6), {"pixel_values"})
    assert len(window) == 4 and window.order().tolist() == [0, 1, 2, 3] and window.token_labels() is None
    (batch,) = window.collate(np.array([3, 0]))
    expected = torch.tensor(pixels()["pixel_values"][:])[[5, 2]]
    assert list(batch.inputs) == ["pixel_values"] and torch.equal(batch.inputs["pixel_values"], expected)
    assert batch.mask is None and batch.positions.tolist() == [3, 0]


def test_rows_of_unequal_size_form_batches_of_one_size():
    data = Dataset.from_dict({"input_values": [[1.0, 2.0], [3.0], [4.0, 5.0], [6.0]]}).with_format("numpy")
    window = FetchedWindow(data, range(4), {"input_values"}, lengths=np.array([2, 1, 2, 1]))
    assert window.order().tolist() == [0, 2, 1, 3]
    batches = window.collate(np.arange(4))
    assert [batch.positions.tolist() for batch in batches] == [[0, 2], [1, 3]]
    assert batches[1].inputs["input_values"].tolist() == [[3.0], [6.0]]


def test_the_mask_of_sound_is_handed_on():
    data = Dataset.from_dict({"input_values": [[1.0, 0.0]], "attention_mask": [[1, 0]]}).with_format("numpy")
    (batch,) = FetchedWindow(data, range(1), {"input_values", "attention_mask"}).collate(np.array([0]))
    assert batch.mask is not None and batch.mask.tolist() == [[1, 0]]


def test_views_are_numbered_row_by_row_and_rows_are_fetched_once():
    views = Views(3, noise, seed=4)
    fetched: list[list[int]] = []

    class Counting:
        def __getitem__(self, rows):
            fetched.append(rows)
            return pixels()[rows]

    (batch,) = FetchedWindow(Counting(), range(4, 10), {"pixel_values"}, views=views).collate(np.array([1, 0, 5, 2]))
    assert fetched == [[1, 2, 3]]
    images = torch.tensor(pixels()["pixel_values"][:])
    for place, number in enumerate([5, 4, 9, 6]):
        expected = views.draw(images[number // 3], number // 3, number % 3)
        assert torch.equal(batch.inputs["pixel_values"][place], expected)


def test_a_view_does_not_depend_on_what_was_drawn_before_nor_on_threads():
    views, image = Views(4, noise, seed=1), torch.zeros(3, 2, 2)
    expected = {(row, view): views.draw(image, row, view) for row in range(6) for view in range(4)}
    assert len({tuple(value.flatten().tolist()) for value in expected.values()}) == 24
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda key: views.draw(image, *key), reversed(expected)))
    assert all(torch.equal(one, expected[key]) for one, key in zip(found, reversed(expected), strict=True))
    assert not torch.equal(Views(4, noise, seed=2).draw(image, 0, 0), expected[0, 0])


def test_an_augmentation_in_place_leaves_the_image():
    image = torch.zeros(3, 2, 2)
    Views(1, lambda images: images.add_(1)).draw(image, 0, 0)
    assert not image.any()


def test_generators_go_on_as_if_nothing_was_drawn():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    with seeded(1, 2):
        first = torch.rand(1).item(), random.random(), np.random.rand()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # type: ignore[index]
    with seeded(1, 2):
        assert (torch.rand(1).item(), random.random(), np.random.rand()) == first
    with seeded(2, 1):
        assert torch.rand(1).item() != first[0]


def test_a_collator_gets_rows():
    def collator(rows):
        return {"pixel_values": torch.stack([torch.tensor(row["pixel_values"]) for row in rows]) * 2, "labels": 0}

    window = FetchedWindow(pixels(), range(6), {"pixel_values"}, collator=collator)
    (batch,) = window.collate(np.array([4, 1]))
    assert torch.equal(batch.inputs["pixel_values"], 2 * torch.tensor(pixels()["pixel_values"][:])[[4, 1]])


def test_draws_are_compared():
    def draw(rows, value=0.0):
        window = FetchedWindow(pixels(), range(6), {"pixel_values"})
        batches = window.collate(np.array(rows))
        batches[0].inputs["pixel_values"][0, 0, 0, 0] += value
        return batches

    assert same(draw([0, 1]), draw([0, 1]))
    assert not same(draw([0, 1]), draw([0, 1], 1e-6)) and not same(draw([0, 1]), draw([0, 1, 2]))
    assert not same(draw([0]), [])
