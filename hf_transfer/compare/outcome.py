"""`ComparisonResults`: what `compare` returns, and what the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_transfer.compare.answer import Answer
from hf_transfer.compare.cells import CellResult


__all__ = ["ComparisonResults", "FeatureMap", "Mistake"]


@dataclass(frozen=True)
class Mistake:
    """
    A row that the recommended strategy gets wrong.

    Args:
        row (`int`): its number in the split.
        truth (`str`): name of its class.
        predicted (`str`): name of the class it was given.
        probability (`float`): of that class.
        text (`str`, *optional*): the sentence, or the pair of them.
        image (`str`, *optional*): the picture as a `data:` URI of a small PNG or JPEG.
    """

    row: int
    truth: str
    predicted: str
    probability: float
    text: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class FeatureMap:
    """
    Features of validation rows in two dimensions, by the pretrained model and by the recommended strategy's.

    Args:
        before (`list[list[float]]`): `(N, 2)`.
        after (`list[list[float]]`, *optional*): `(N, 2)`; `None` where they are the same, as for a probe.
        labels (`list[int]`): classes of the rows.
        method (`str`): how they were reduced, such as `PCA`.
    """

    before: list[list[float]]
    after: list[list[float]] | None
    labels: list[int]
    method: str


@dataclass
class ComparisonResults:
    """
    Everything that a comparison found.

    Args:
        task (`str`): of the data, such as `image-classification`.
        metric (`str`): the main score, such as `accuracy`.
        label_names (`Sequence[str]`): of the classes; empty for a regression.
        data (`Mapping[str, Any]`): its name, rows by split, how validation rows were had.
        settings (`Mapping[str, Any]`): what all runs have in common.
        answer (`Answer`): table, recommendation, verdict, learning curve.
        cells (`Sequence[CellResult]`): all runs, those of the learning curve too.
        strategies (`Mapping[str, Mapping[str, Any]]`): title, about, baseline and paper by name.
        confusion (`list[list[int]]`, *optional*): counts of the recommended strategy on the rows that validate, over
            its seeds; a line for each true class.
        mistakes (`Sequence[Mistake]`): some rows that it gets wrong, the surest first.
        features (`FeatureMap`, *optional*): two-dimensional features.
        seconds (`float`): of the whole comparison, also of runs before an interruption.
        environment (`Mapping[str, str]`): versions and device.
        command (`str`): that made it.
        folder (`Path`, *optional*): where it lies.
    """

    task: str
    metric: str
    label_names: Sequence[str]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    answer: Answer
    cells: Sequence[CellResult]
    strategies: Mapping[str, Mapping[str, Any]]
    confusion: list[list[int]] | None = None
    mistakes: Sequence[Mistake] = ()
    features: FeatureMap | None = None
    seconds: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    folder: Path | None = None
