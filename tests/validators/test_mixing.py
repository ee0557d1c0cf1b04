from __future__ import annotations

import pytest
import torch

from hf_transfer.validators.mixing import InputMixing


def of_two_pixels(inputs):
    """Class 1 where the first pixel is above one half of the second's square: not linear in the inputs."""
    pixels = inputs["pixel_values"]
    score = pixels[:, 0] - 0.5 * pixels[:, 1] ** 2
    return torch.stack([-score, score], 1)


def add(mixing, pixels, **others):
    inputs = {"pixel_values": torch.tensor(pixels), **others}
    mixing.add(of_two_pixels, inputs, of_two_pixels(inputs))


def test_mixtures_by_hand():
    mixing = InputMixing(0)
    # classes 1 and 0; mixtures 0.55 * 1 + 0.45 * -0.5 = 0.325 > 0: agrees, 0.55 * -0.5 + 0.45 = 0.175 > 0: does not
    add(mixing, [[1.0, 0.0], [-0.5, 0.0]])
    # of one class, whose mixtures are of it: 0.1 - 0 and 0.1 - 0
    add(mixing, [[0.1, 0.0], [0.1, 0.0], [-9.0, 0.0]])
    # within a class: 2 of 2; between classes: 1 of 2, then -9 wins where it may: 0 of 2 of the others, 1 of its own
    assert mixing.agreement() == pytest.approx((2 / 2 + (1 + 1) / (2 + 3)) / 2)


def test_a_class_in_two_pieces_disagrees_within_itself():
    mixing = InputMixing(0)
    # both of class 0, by the square of the second pixel; half way it is 0 and the class 1
    add(mixing, [[0.5, 3.0], [0.5, -3.0]])
    assert mixing.agreement() == 0.0


def test_what_no_batch_allows_counts_as_zero():
    assert InputMixing(0).agreement() == 0.0
    collapsed = InputMixing(0)
    add(collapsed, [[1.0, 0.0], [2.0, 0.0]])
    assert collapsed.agreement() == 0.5
    alone = InputMixing(0)
    add(alone, [[1.0, 0.0]])
    assert alone.agreement() == 0.0


def test_other_inputs_go_with_their_rows():
    seen = []

    def model(inputs):
        seen.append(inputs)
        return of_two_pixels(inputs)

    inputs = {"pixel_values": torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]]), "row": torch.arange(3), "size": 7}
    InputMixing(0).add(model, inputs, of_two_pixels(inputs))
    within, between = seen
    assert within["row"].tolist() == [1, 2] and between["row"].tolist() == [0, 1, 2] and within["size"] == 7
    assert within["pixel_values"][:, 0].tolist() == pytest.approx([0.55 * -1 + 0.45 * -2, 0.55 * -2 + 0.45 * -1])
