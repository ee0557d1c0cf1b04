"""One run of a comparison: what it is called, what it came to, what it said of every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


FINISHED, FAILED, SKIPPED = "finished", "failed", "skipped"
VALIDATION, TEST = "validation", "test"

__all__ = ["FAILED", "FINISHED", "SKIPPED", "TEST", "VALIDATION", "CellKey", "CellResult", "Costs", "Predictions"]


@dataclass(frozen=True, order=True)
class CellKey:
    """
    Which run it is.

    Args:
        model (`str`): label of the base model in tables.
        strategy (`str`): name of the strategy.
        seed (`int`): draws the new head, the order of the rows, and the fold that validates.
        share (`float`, *optional*, defaults to 1.0): of the labelled training rows, below 1 on a learning curve.

    Example:
        >>> CellKey("google/vit-base", "lora", 0).folder, CellKey("m", "full", 2, share=0.25).folder
        ('cells/google-vit-base/lora/seed_0', 'cells/m/full/seed_2/share_0.25')
    """

    model: str
    strategy: str
    seed: int
    share: float = 1.0

    @property
    def folder(self) -> str:
        """Of the run, below the output folder."""
        model = re.sub(r"[^\w.-]+", "-", self.model).strip("-.") or "model"
        part = "" if self.share == 1.0 else f"/share_{self.share:g}"
        return f"cells/{model}/{self.strategy}/seed_{self.seed}{part}"


@dataclass(frozen=True)
class Costs:
    """
    What a run cost; `None` where it does not apply or was not measured.

    Args:
        seconds (`float`): from the fresh model to the trained one, without scoring.
        peak_memory_bytes (`int`, *optional*): most memory on the accelerator; on a CPU of the process.
        trained_parameters (`int`): weights that were trained.
        parameters (`int`, *optional*): weights of the model that answers.
        bytes (`int`, *optional*): on disk, of the model or of the adapter alone.
        latency_ms (`float`, *optional*): median time of a forward of one row.
    """

    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    trained_parameters: int = 0
    parameters: int | None = None
    bytes: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class CellResult:
    """
    What a run came to.

    Args:
        key (`CellKey`): which run.
        fingerprint (`str`): of everything that it depends on beside the settings that all share.
        status (`str`): `finished`, `failed` or `skipped` (for want of time).
        reason (`str`, *optional*): why it has no scores.
        scores (`Mapping[str, float | None]`): by split and metric, such as `validation_accuracy`; `None` if
            not finite.
        costs (`Costs`): time, memory and size.
        rows (`int`): labelled training rows.
        steps (`int`): optimizer steps, 0 where nothing was trained by gradient.
        note (`str`): what is to be told of the run, such as its learning rate.
    """

    key: CellKey
    fingerprint: str
    status: str = FINISHED
    reason: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    rows: int = 0
    steps: int = 0
    note: str = ""

    @property
    def finished(self) -> bool:
        """Whether it has scores."""
        return self.status == FINISHED

    def to_json(self) -> dict[str, Any]:
        """For a JSON file; [`CellResult.from_json`] reads it."""
        return {**vars(self), "key": vars(self.key), "scores": dict(self.scores), "costs": vars(self.costs)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> CellResult:
        """
        Of what [`CellResult.to_json`] gave.

        Example:
            >>> cell = CellResult(CellKey("m", "lora", 0), "f", scores={"validation_accuracy": 0.5})
            >>> CellResult.from_json(cell.to_json()) == cell
            True
        """
        return cls(**{**stored, "key": CellKey(**stored["key"]), "costs": Costs(**stored["costs"])})


@dataclass(frozen=True)
class Predictions:
    """
    What a model says of the rows of a split.

    Args:
        ids (`np.ndarray`): numbers of the rows, `(N,)` int64: of the training split where folds validate, else of the
            split itself. The same row has the same number in every run.
        labels (`np.ndarray`): `(N,)` class numbers or real values; `(N, T)` with -100 for tokens.
        logits (`np.ndarray`): `(N, C)`, `(N, T, C)` for tokens, `(N, 1)` for a regression; float32.
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
