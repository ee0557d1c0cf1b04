"""`DomainObjective`: what every objective that reads the `domain` column shares."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec
from hf_transfer.objective import Objective
from hf_transfer.schedules import Schedule


class DomainObjective(Objective):
    """
    A term that compares domains: it reads the column `domain`, in which 0 is the source.

    Args:
        num_domains (`int`, *optional*, defaults to 2):
            Number `K` of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss.

    Raises:
        ValueError: if `num_domains` is below 2; at the first batch if `domain` is missing or outside `[0, K)`.
    """

    columns = ("domain",)

    def __init__(self, *, num_domains: int = 2, weight: float | Schedule = 1.0):
        super().__init__(weight=weight)
        if num_domains < 2:
            raise ValueError(
                f"`num_domains={num_domains}`: with one domain there is nothing to compare, and the term would always "
                "be zero. Give the number of different values of the `domain` column, 2 or more."
            )
        self.num_domains = num_domains
        self._domain_checked = False

    def build(self, spec: ModelSpec) -> Self:
        """Look at the domains anew with the next batch."""
        self._domain_checked = False
        return self

    def check_domain(self, domain: Tensor | None) -> Tensor:
        """`domain` of a batch, after one look at its range, the first time."""
        assert domain is not None  # a missing column is refused when the batch arrives
        # Once: reading values back waits for the device, and on CUDA a wrong index ends the process.
        if self._domain_checked or torch.compiler.is_compiling():
            return domain
        low, high = int(domain.min()), int(domain.max())
        if low < 0 or high >= self.num_domains:
            raise ValueError(
                f"Column `domain` holds values from {low} to {high}, but {type(self).__name__} compares "
                f"{self.num_domains} domains, numbered from 0: it has no place for the others. Number the domains "
                f"from 0 (`mix_domains` does) and pass `{type(self).__name__}(num_domains={max(high + 1, 2)})`."
            )
        self._domain_checked = True
        return domain
