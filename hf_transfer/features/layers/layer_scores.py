"""`LayerReport`: the score of a probe on each block of a model, as a table, a plot and plain numbers."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.features.probes import Probe
from hf_transfer.features.probes.labelled_rows import read_rows


if TYPE_CHECKING:
    import datasets

_METRICS = {"single_label": "accuracy", "token": "accuracy", "multi_label": "label accuracy", "regression": "r2"}

__all__ = ["LayerReport", "LayerScore", "RowScores", "row_scores"]


@dataclass(frozen=True)
class RowScores:
    """
    The score of one probe.

    Args:
        metric (`str`): what it is.
        mean (`float`): the score.
        error (`float`): its standard error over the examples.
        rows (`int`): rows (tokens) it is the mean of.
    """

    metric: str
    mean: float
    error: float
    rows: int


def row_scores(probe: Probe, features: datasets.Dataset, column: str) -> RowScores:
    r"""
    Score a probe on held-out rows as a mean over rows, with its standard error.

    A row scores 1 if its class is right; the share of its labels that are right, where there are several; for a
    regression $1 - (y - \hat y)^2 / \operatorname{var}(y)$, the mean of which is $R^2$. Rows of one example (tokens,
    views) are not independent: the error is that of the sums over the examples.

    Args:
        probe (`Probe`):
            Fitted to the same column of other rows.
        features (`datasets.Dataset`):
            Labelled rows.
        column (`str`):
            The features.

    Raises:
        ValueError: if no row has a label.
    """
    rows = read_rows(features, column=column, task=probe.task, label_names=probe.label_names or None)
    probe.check_labels(rows)
    answers = probe.predict(rows.features)
    if probe.task == "regression":
        targets = rows.targets.reshape(answers.shape)
        spread = np.maximum(targets.var(0), np.finfo(np.float64).tiny)
        scores = (1 - (targets - answers) ** 2 / spread).mean(1)
    else:
        scores = (answers == rows.targets).reshape(len(answers), -1).mean(1)
    groups = np.arange(len(scores)) if rows.groups is None else np.unique(rows.groups, return_inverse=True)[1]
    sums = np.bincount(groups, weights=scores - scores.mean())
    error = float(np.sqrt(np.square(sums).sum())) / len(scores)
    return RowScores(_METRICS[probe.task], float(scores.mean()), error, len(scores))


@dataclass(frozen=True)
class LayerScore:
    """
    What a probe on one layer is worth.

    Args:
        name (`str`):
            `"block.0"`, ..., or `"head"` for the input of the head.
        score (`float`):
            Score on the evaluation data.
        error (`float`):
            Its standard error over the examples.
        before (`float`, *optional*):
            Score of a probe on the same layer before fine-tuning.
        before_error (`float`, *optional*):
            The standard error of that.
        cka (`float`, *optional*):
            Similarity of the layer before and after, 1 where nothing but a rotation has changed.
    """

    name: str
    score: float
    error: float
    before: float | None = None
    before_error: float | None = None
    cka: float | None = None


@dataclass(frozen=True)
class LayerReport:
    """
    Which layer of a model transfers best; made by [`layer_report`].

    Args:
        layers (`tuple[LayerScore, ...]`):
            The blocks in forward order and, where the model has one, the input of its head.
        metric (`str`):
            What is scored: `accuracy` (of rows or tokens), `label accuracy` of several labels a row, `r2`.
        kind (`str`):
            Kind of the probes.
        train (`int`):
            Rows of the data they were fitted to.
        evaluation (`int`):
            Rows (tokens) they were scored on.
        matrix (`tuple[tuple[float, ...], ...]`, *optional*):
            CKA of every layer with every other, where nothing was given to compare with.

    Example:
        >>> layers = (LayerScore("block.0", 0.61, 0.02), LayerScore("block.1", 0.74, 0.02))
        >>> report = LayerReport(layers, metric="accuracy", kind="ridge", train=500, evaluation=480)
        >>> report.best.name
        'block.1'
        >>> print(report.table())
        | layer | accuracy |
        |---|---|
        | block.0 | 0.610 ± 0.020 |
        | **block.1** | **0.740 ± 0.020** |
    """

    layers: tuple[LayerScore, ...]
    metric: str
    kind: str
    train: int
    evaluation: int
    matrix: tuple[tuple[float, ...], ...] | None = None

    @property
    def best(self) -> LayerScore:
        """The layer of the highest score; of equals the lowest, which costs least."""
        return max(self.layers, key=lambda layer: layer.score)

    def table(self) -> str:
        """The report as Markdown, the best layer in bold; `±` is one standard error."""
        header, compared = ["layer", self.metric], any(layer.cka is not None for layer in self.layers)
        header += [f"{self.metric} before", "CKA with before"] if compared else []
        lines = [_line(header), _line(["---"] * len(header), spaced=False)]
        for layer in self.layers:
            cells = [layer.name, _number(layer.score, layer.error)]
            if layer is self.best:
                cells = [f"**{cell}**" for cell in cells]
            if compared:
                cells += [_number(layer.before, layer.before_error), _number(layer.cka)]
            lines.append(_line(cells))
        if self.matrix is not None:
            names = [layer.name for layer in self.layers]
            lines += ["", _line(["CKA", *names]), _line(["---"] * (len(names) + 1), spaced=False)]
            lines += [_line([name, *map(_number, row)]) for name, row in zip(names, self.matrix, strict=True)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and names, for JSON."""
        return {**asdict(self), "best": self.best.name}

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """
        Draw the scores and the similarities into a file, which appears whole or not at all.

        Args:
            path (`str` or `os.PathLike`): the file; its suffix is the format, such as `.svg`, PNG without one.

        Raises:
            ImportError: without matplotlib.
        """
        from hf_transfer.features.layers.layer_plot import draw

        return draw(self, Path(path))


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _line(cells: list[str], *, spaced: bool = True) -> str:
    return f"| {' | '.join(cells)} |" if spaced else f"|{'|'.join(cells)}|"
