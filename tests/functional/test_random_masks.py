from __future__ import annotations

import pytest
import torch

from hf_transfer.functional.random_masks import bernoulli_mask, draw_seed


def test_a_seed_is_drawn_from_the_hosts_generator_and_repeats_with_it():
    state = torch.get_rng_state()
    first, second = draw_seed(), draw_seed()
    assert first != second
    torch.set_rng_state(state)
    assert (draw_seed(), draw_seed()) == (first, second)


def test_ranks_with_equal_generators_draw_different_masks():
    masks = []
    for rank in range(8):
        torch.manual_seed(0)
        masks.append(bernoulli_mask((64,), 0.5, seed=draw_seed(rank), device="cpu"))
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            # Independent masks agree in half of 64 places; 0 and 64 would be one mask, or its negation.
            assert 10 < (mask == other).sum() < 54


def test_a_mask_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second = (bernoulli_mask((5, 7), 0.3, seed=11, device="cpu") for _ in range(2))
    assert torch.equal(first, second) and first.shape == (5, 7) and first.dtype == torch.bool
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.9, 1.0])
def test_the_share_of_true_is_the_probability(probability):
    share = bernoulli_mask((200, 500), probability, seed=3, device="cpu").float().mean().item()
    # five standard deviations of a mean of 100,000
    assert share == pytest.approx(probability, abs=5 * (probability * (1 - probability) / 1e5) ** 0.5)
