"""Mixtures of images, and whether a model sees in them what it sees in their larger part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_transfer.functional.model_selection import INTERPOLATION, mixing_partners


__all__ = ["InputMixing"]


class InputMixing:
    r"""
    Counts how often a model puts $\lambda x_i + (1 - \lambda) x_j$ into the class it puts $x_i$ into, batch by batch.

    Each row is mixed with one of the same class, which tells whether rows of a class lie close together, and with one
    of another class, which tells whether the boundary keeps away from rows. $\lambda$ is 0.55.

    Args:
        seed (`int`): of the rows that are mixed.

    Degenerate batches:
        A kind of mixture that no batch allowed counts as 0.
    """

    def __init__(self, seed: int):
        self._generator = np.random.default_rng(seed)
        self._agreed, self._tried = [0, 0], [0, 0]

    def add(self, logits_of: Callable[[Mapping[str, Any]], Tensor], inputs: Mapping[str, Any], logits: Tensor) -> None:
        """
        Try mixtures of the rows of a batch.

        Args:
            logits_of (`Callable`): the model.
            inputs (`Mapping`): the batch, with `pixel_values`.
            logits (`Tensor`): what the model says to it, `(B, C)`.
        """
        classes = logits.argmax(-1)
        for kind, partners in enumerate(mixing_partners(classes.cpu().numpy(), self._generator)):
            rows = torch.from_numpy(np.flatnonzero(partners >= 0)).to(classes.device)
            if not len(rows):
                continue
            others = torch.from_numpy(partners).to(classes.device)[rows]
            mixed = {
                name: value[rows] if isinstance(value, Tensor) and len(value) == len(classes) else value
                for name, value in inputs.items()
            }
            pixels = inputs["pixel_values"]
            mixed["pixel_values"] = INTERPOLATION * pixels[rows] + (1 - INTERPOLATION) * pixels[others]
            self._agreed[kind] += int((logits_of(mixed).argmax(-1) == classes[rows]).sum())
            self._tried[kind] += len(rows)

    def agreement(self) -> float:
        """The mean of the two shares of mixtures, within a class and between classes."""
        shares = [agreed / max(tried, 1) for agreed, tried in zip(self._agreed, self._tried, strict=True)]
        return sum(shares) / len(shares)
