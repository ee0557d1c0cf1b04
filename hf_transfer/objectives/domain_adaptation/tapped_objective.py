"""`TappedObjective`: distances between domains at one or several places of the model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from hf_transfer.batch import ModelSpec, TransferBatch
from hf_transfer.objectives.domain_adaptation.domain_objective import DomainObjective
from hf_transfer.schedules import Schedule


HEAD = "head"


class TappedObjective(DomainObjective):
    """
    A distance between domains, summed over places of the model. Subclass it and define `distance`.

    Args:
        taps (`str`, `int` or a sequence of them, *optional*, defaults to `"head"`):
            Where features are read: `"head"` for its input; a block by number (`-1`, `"block.-1"`), `"blocks"` for
            all; or the name of a module, whose output it is.
        num_domains (`int`, *optional*, defaults to 2):
            Number `K` of values the `domain` column may take.
        weight (`float` or `Schedule`, *optional*, defaults to 1.0):
            Multiplier of the term in the total loss.

    Raises:
        ValueError: if `taps` is empty; at attach time if there is no such block or module; at the first batch if a
            module returns no tensor with a row for each example.
    """

    def __init__(
        self,
        *,
        taps: str | int | Sequence[str | int] = HEAD,
        num_domains: int = 2,
        weight: float | Schedule = 1.0,
    ):
        super().__init__(num_domains=num_domains, weight=weight)
        if not isinstance(taps, int) and not taps:
            raise ValueError(
                f"`taps={taps!r}` names no place to compare the domains at, so the term would always be zero. Give "
                '"head", the number of a block such as -1, or the name of a module.'
            )
        self.taps = taps
        self._reads_head = HEAD in self._listed

    @property
    def _listed(self) -> list[str | int]:
        return [self.taps] if isinstance(self.taps, (str, int)) else list(self.taps)

    def build(self, spec: ModelSpec) -> Self:
        """Find the modules that are read."""
        super().build(spec)
        names = [name for tap in self._listed if tap != HEAD for name in _modules_of(tap, spec)]
        self.hidden_states = tuple(dict.fromkeys(names))
        return self

    def forward(self, batch: TransferBatch) -> Tensor:
        """The sum of the distances at all places."""
        domain = self.check_domain(batch.domain)
        total = (0 * batch.features).sum()
        for features in self.tapped(batch):
            total = total + self.distance(features, domain, batch)
        return total

    def distance(self, features: Tensor, domain: Tensor, batch: TransferBatch) -> Tensor:
        """The distance between the domains in `features` `(B, D)`: a scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define `distance(features, domain, batch)`.")

    def tapped(self, batch: TransferBatch) -> list[Tensor]:
        """
        The features at each place, `(B, D)` float32: outputs of blocks are averaged over the tokens that count, or
        over space. A block that the model left out of this step (LayerDrop) is left out here.
        """
        features = [batch.example_features] if self._reads_head else []
        for name in self.hidden_states:
            if name in batch.hidden_states:
                features.append(self._pooled(name, batch))
        return features

    def _pooled(self, name: str, batch: TransferBatch) -> Tensor:
        output, rows = batch.hidden_states[name], len(batch.features)
        if not isinstance(output, Tensor) or not 2 <= output.dim() <= 4 or len(output) != rows:
            seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{type(self).__name__} reads `{name}`, which returns {seen}: there is no feature for each of the "
                f"{rows} rows. Name a module that returns `({rows}, D)`, `({rows}, T, D)` or `({rows}, D, H, W)`, "
                "such as a block."
            )
        output = output.float()
        if output.dim() == 2:
            return output
        if output.dim() == 4:
            return output.mean((2, 3))
        mask = batch.attention_mask
        if mask is None or mask.shape != output.shape[:2]:
            return output.mean(1)
        counted = (mask != 0).unsqueeze(-1)
        return torch.where(counted, output, 0.0).sum(1) / counted.sum(1).clamp(min=1)


def _modules_of(tap: str | int, spec: ModelSpec) -> list[str]:
    """Names of the modules that a tap other than the head stands for."""
    # Not at the top: the features package takes a while to import, and few objectives read a block.
    from hf_transfer.features.extraction.taps import find_taps

    assert spec.model is not None and spec.anatomy is not None  # `attach` gives both
    if isinstance(tap, int) or tap == "blocks" or re.fullmatch(r"(block\.)?-?\d+", tap):
        return [found.module for found in find_taps(spec.model, tap, head=spec.anatomy.head)]
    names = [name for name, _ in spec.model.named_modules() if name]
    if tap in names:
        return [tap]
    # under PEFT, or another wrapper, the names of the model's own modules have something before them
    inner = [name for name in names if name.endswith(f".{tap}")]
    if len(inner) == 1:
        return inner
    near = difflib.get_close_matches(tap, names, n=3, cutoff=0.5)
    raise ValueError(
        f"There is no tap {tap!r}: the model has no module of that name, and nothing could be read. Pass "
        '"head", the number of a block such as -1, "blocks", or the name of a module'
        + (f", such as {', '.join(repr(name) for name in near)}." if near else ".")
    )
