"""Random masks that recomputation and resume repeat, and that differ between ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


__all__ = ["bernoulli_mask", "draw_seed"]

# Odd, so that no two ranks get the same seed from the same draw; its digits are those of the golden ratio.
_RANK_STRIDE = 0x9E3779B97F4A7C15


def draw_seed(rank: int = 0) -> int:
    """
    A seed, drawn from torch's global generator of the host and told apart by rank.

    Activation checkpointing puts that generator back before it recomputes, and the Trainer saves it in checkpoints: so
    a mask made from the seed is the same in recomputation and after resume. The ranks of a `Trainer` start from equal
    generators, hence the second ingredient.

    Args:
        rank (`int`, *optional*, defaults to 0): index of the process.

    Example:
        >>> state = torch.get_rng_state()
        >>> first = draw_seed()
        >>> torch.set_rng_state(state)
        >>> draw_seed() == first
        True
    """
    draw = int(torch.randint(2**62, (), device="cpu"))
    return (draw + rank * _RANK_STRIDE) % 2**63


def bernoulli_mask(shape: Sequence[int], probability: float, *, seed: int, device: torch.device | str) -> Tensor:
    """
    A boolean tensor whose entries are true with the given probability, each on its own; a function of the seed.

    Args:
        shape (`Sequence[int]`): shape of the mask.
        probability (`float`): probability of true, in [0, 1].
        seed (`int`): as [`draw_seed`] gives it.
        device (`torch.device` or `str`): where the mask is made. Different kinds of device make different masks.

    Example:
        >>> mask = bernoulli_mask((1000,), 0.25, seed=7, device="cpu")
        >>> bool(200 < mask.sum() < 300)
        True
    """
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(tuple(shape), dtype=torch.bool, device=device).bernoulli_(probability, generator=generator)
