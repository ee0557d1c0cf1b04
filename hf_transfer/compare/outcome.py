"""`ComparisonResults`: what `compare` returns, and what the report shows."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.compare.answer import Answer, Estimate, TableRow
from hf_transfer.compare.cells import CellResult
from hf_transfer.compare.storage import answer_of, plain
from hf_transfer.files import whole_file


if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FILE = "results.json"
_PARTS = ("validation", "test", "against_best", "against_scratch")
"""What of a row has a mean and an interval."""

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
    Everything that a comparison found; [`hf_transfer.compare`] returns it.

    `print` shows the recommendation and the table, a notebook shows them as HTML.

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

    Example:
        >>> from hf_transfer.compare.answer import Recommendation, TableRow, Verdict
        >>> rows = [TableRow("m", "lora", "finished", seeds=[0], validation=Estimate(0.9))]
        >>> answer = Answer(rows, Recommendation("m", "lora", "Take lora.", ("m", "lora")), Verdict("undecided", ""))
        >>> results = ComparisonResults("image-classification", "accuracy", ["a", "b"], {}, {}, answer, [], {})
        >>> results.best().strategy, results.frame["validation"].tolist()
        ('lora', [0.9])
        >>> ComparisonResults.from_json(results.to_json()) == results
        True
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

    def best(self) -> TableRow | None:
        """The row of the recommended strategy; `None` where nothing can be recommended."""
        chosen = self.answer.recommendation
        if chosen is None:
            return None
        return next(row for row in self.answer.rows if (row.model, row.strategy) == (chosen.model, chosen.strategy))

    @property
    def frame(self) -> pandas.DataFrame:
        """
        The table, a line for each model and strategy, as a `pandas.DataFrame`.

        Of every score there is the mean under its name, and the ends of its interval under `<name>_low` and
        `<name>_high`; `seconds` to `latency_ms` are the costs.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`frame` needs pandas, which is not installed: there is nothing to put the table into. Run "
                "`pip install pandas`, or read `answer.rows`."
            ) from error
        best = self.best()
        return pandas.DataFrame([{**_line(row), "recommended": row == best} for row in self.answer.rows])

    def plot_accuracy(self) -> Figure:
        """Scores of all strategies with their intervals."""
        from hf_transfer.compare.report.plots import plot_accuracy

        return plot_accuracy(self)

    def plot_cost(self) -> Figure:
        """The score of every strategy against what it costs."""
        from hf_transfer.compare.report.plots import plot_cost

        return plot_cost(self)

    def plot_learning_curve(self) -> Figure:
        """The scores of the leaders by the number of labelled rows."""
        from hf_transfer.compare.report.plots import plot_learning_curve

        return plot_learning_curve(self)

    def plot_confusion(self) -> Figure:
        """What the recommended strategy takes for what."""
        from hf_transfer.compare.report.plots import plot_confusion

        return plot_confusion(self)

    def plot_features(self) -> Figure:
        """Features in two dimensions, before and after."""
        from hf_transfer.compare.report.plots import plot_features

        return plot_features(self)

    def to_json(self) -> dict[str, Any]:
        """For a JSON file, without the folder; [`ComparisonResults.from_json`] reads it."""
        return {name: plain(value) for name, value in vars(self).items() if name != "folder"}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ComparisonResults:
        """Of what [`ComparisonResults.to_json`] gave."""
        features = stored.get("features")
        return cls(
            **{
                **stored,
                "answer": answer_of(stored["answer"]),
                "cells": [CellResult.from_json(cell) for cell in stored["cells"]],
                "mistakes": tuple(Mistake(**mistake) for mistake in stored.get("mistakes", ())),
                "features": None if features is None else FeatureMap(**features),
            }
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `results.json` into a folder, whole or not at all."""
        path = Path(folder) / FILE
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ComparisonResults:
        """
        Of a folder that [`compare`] or `recipes/compare.py` left.

        Raises:
            FileNotFoundError: if there is no `results.json`.
            ValueError: if that is of something else, as other recipes leave one of their runs too.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path}: no comparison has ended there. Name the `--output_dir` of one that has."
            )
        try:
            results = cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no results of `compare` ({type(error).__name__}: {error}): there is no table to show. "
                "Name the `--output_dir` of `recipes/compare.py`."
            ) from error
        results.folder = Path(folder)
        return results

    def __str__(self) -> str:
        chosen = self.answer.recommendation
        width = max((len(_name(row)) for row in self.answer.rows), default=0)
        lines = [f"{_name(row):<{width}}  {_told(row.validation, row)}" for row in self.answer.rows]
        said = [] if chosen is None else [chosen.reason]
        return "\n".join([*said, self.answer.verdict.sentence, "", f"{self.metric} on the validation rows", *lines])

    def _repr_html_(self) -> str:
        chosen = self.answer.recommendation
        said = [chosen.reason if chosen else "", self.answer.verdict.sentence]
        lines = [
            [row.model, row.strategy, _told(row.validation, row), _told(row.test, row), f"{row.costs.seconds:.1f}"]
            for row in self.answer.rows
        ]
        header = ["model", "strategy", f"validation {self.metric}", f"test {self.metric}", "seconds"]
        return "".join(
            [
                *(f"<p>{html.escape(text)}</p>" for text in said if text),
                "<table><thead>",
                _html_line(header, "th"),
                "</thead><tbody>",
                *(_html_line(line, "td") for line in lines),
                "</tbody></table>",
            ]
        )


def _line(row: TableRow) -> dict[str, Any]:
    """A row of the table in plain numbers."""
    found: dict[str, Any] = {"model": row.model, "strategy": row.strategy, "status": row.status}
    found["seeds"] = len(row.seeds)
    for name in _PARTS:
        part = getattr(row, name)
        ends = (None, None, None) if part is None else (part.mean, part.low, part.high)
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), map(_number, ends), strict=True))
    costs = {name: _number(value) for name, value in vars(row.costs).items()}
    return {**found, "tied": row.tied, **costs, "reason": row.reason}


def _number(value: float | None) -> float:
    """For a column of numbers, in which `None` would make objects of all."""
    return math.nan if value is None else value


def _name(row: TableRow) -> str:
    return f"{row.model} {row.strategy}"


def _told(estimate: Estimate | None, row: TableRow) -> str:
    if estimate is None:
        return row.reason or row.status
    ends = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return f"{estimate.mean:.3f}{ends}"


def _html_line(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"
