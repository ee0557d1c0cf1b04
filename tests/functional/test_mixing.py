"""Partners, shares and mixed images against loops over rows and pixels."""

from __future__ import annotations

import math

import pytest
import torch

from hf_transfer.functional.mixing import blend, paste, random_partners, random_share


@pytest.mark.parametrize("groups", [[0] * 7, [0, 1, 0, 1, 1, 5, 0], [3], list(range(5))])
def test_partners_are_a_permutation_within_the_groups(groups):
    groups = torch.tensor(groups)
    for _ in range(20):
        partners = random_partners(groups)
        assert partners.sort().values.tolist() == list(range(len(groups)))
        assert torch.equal(groups[partners], groups)


def test_every_permutation_of_a_group_is_equally_likely():
    groups = torch.tensor([0, 1, 0, 0])
    draws = [tuple(random_partners(groups).tolist()) for _ in range(3000)]
    counts = {draw: draws.count(draw) for draw in set(draws)}
    assert len(counts) == 6  # the permutations of three rows; row 1 is alone
    assert all(abs(count / 3000 - 1 / 6) < 0.04 for count in counts.values())


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_share_has_mean_and_variance_of_the_beta_distribution(alpha):
    draws = torch.stack([random_share(alpha) for _ in range(4000)])
    assert draws.min() >= 0 and draws.max() <= 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_draws_come_from_the_global_generator():
    def drawn():
        return random_share(0.2).item(), random_partners(torch.zeros(6)).tolist()

    torch.manual_seed(3)
    state, first = torch.get_rng_state(), drawn()
    second = drawn()
    torch.set_rng_state(state)
    assert drawn() == first and drawn() == second and first != second


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 7), (3, 2, 2, 4, 5)])
def test_blend_against_a_loop(shape):
    images, partners, share = torch.randn(shape, dtype=torch.float64), torch.tensor([2, 0, 1]), torch.tensor(0.3)
    for i, image in enumerate(blend(images, partners, share)):
        torch.testing.assert_close(image, float(share) * images[i] + (1 - float(share)) * images[partners[i]])


def test_blend_keeps_half_precision_without_rounding_the_share():
    images = torch.tensor([[256.0], [0.0]], dtype=torch.bfloat16)
    mixed = blend(images, torch.tensor([1, 0]), torch.tensor(0.9985))
    assert mixed.dtype == torch.bfloat16
    assert mixed[0].item() == 256.0  # 255.6, rounded once; a rounded share of 1.0 would lose the partner
    assert mixed[1].item() == pytest.approx(256 * 0.0015, rel=0.01)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(4, 3, 12, 20), (4, 2, 3, 9, 9)])
def test_paste_puts_one_rectangle_of_the_partner_into_each_image(share, shape):
    images, partners = torch.randn(shape), torch.tensor([1, 2, 3, 0])
    height, width = shape[-2:]
    for _ in range(5):
        mixed, left = paste(images, partners, torch.tensor(share))
        from_partner = (mixed == images[partners]).flatten(1, -3).all(1)
        own = (mixed == images).flatten(1, -3).all(1)
        assert (from_partner ^ own).all()
        assert all(torch.equal(from_partner[0], other) for other in from_partner)  # the same for all rows
        box = from_partner[0]
        assert left.item() == pytest.approx(1 - box.float().mean().item(), abs=1e-6)
        lines, columns = box.any(1), box.any(0)
        assert torch.equal(box, lines.unsqueeze(1) & columns)  # a rectangle
        assert lines.sum() <= round(height * math.sqrt(1 - share)) + 1e-6
        assert columns.sum() <= round(width * math.sqrt(1 - share)) + 1e-6


def test_paste_at_share_one_changes_nothing():
    images = torch.randn(2, 3, 8, 8)
    mixed, left = paste(images, torch.tensor([1, 0]), torch.tensor(1.0))
    assert torch.equal(mixed, images) and left.item() == 1


def test_the_rectangle_is_anywhere():
    images = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6)])
    seen = torch.zeros(6, 6)
    for _ in range(200):
        seen += paste(images, torch.tensor([1, 0]), torch.tensor(0.75))[0][0, 0]
    assert (seen > 0).all()
