"""`FewShotResults`: accuracies of methods on the same episodes, their intervals and what they differ by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.repeats import PairedDifference, Summary, paired_difference, summarise


if TYPE_CHECKING:
    import pandas

__all__ = ["FewShotResults"]


@dataclass(frozen=True)
class FewShotResults:
    """
    What [`evaluate_few_shot`] measured; `print` shows the table.

    Intervals are Student's over episodes: they say where the mean over all episodes of *these* rows lies. Episodes
    share rows and classes, so they say nothing of other data.

    Args:
        methods (`tuple[str, ...]`): names of the `M` methods.
        accuracies (`np.ndarray`): `(M, E)`, accuracy on the queries of each episode.
        n_way (`int`): classes of an episode.
        k_shot (`int`): support rows of each class.
        queries (`int`): query rows of each class.
        seed (`int`): of the episodes.
        transductive (`tuple[str, ...]`): methods whose prediction for a query depends on the other queries.
        seconds (`Mapping[str, float]`): time of each method.
        confidence (`float`): of the intervals.

    Example:
        >>> results = FewShotResults(("mean", "tim"), np.array([[0.6, 0.8], [0.7, 0.9]]), 5, 1, 15, 0, ("tim",))
        >>> results.best, round(results.mean("mean"), 3), round(results.difference("tim", "mean").mean, 3)
        ('tim', 0.7, 0.1)
    """

    methods: tuple[str, ...]
    accuracies: np.ndarray
    n_way: int
    k_shot: int
    queries: int
    seed: int = 0
    transductive: tuple[str, ...] = ()
    seconds: Mapping[str, float] | None = None
    confidence: float = 0.95

    @property
    def episodes(self) -> int:
        """Number `E` of episodes."""
        return self.accuracies.shape[1]

    @property
    def best(self) -> str:
        """The method with the highest mean."""
        return self.methods[int(self.accuracies.mean(1).argmax())]

    def of(self, method: str) -> np.ndarray:
        """`(E,)` accuracies of a method."""
        if method not in self.methods:
            raise ValueError(
                f"There is no method `{method}` among {', '.join(self.methods)}: it was not evaluated. Pass one of "
                "these names, or evaluate it on the same episodes and add it by `with_method`."
            )
        return self.accuracies[self.methods.index(method)]

    def mean(self, method: str) -> float:
        """Mean accuracy over the episodes."""
        return float(self.of(method).mean())

    def summary(self, method: str) -> Summary:
        """Mean, spread over episodes, and interval of the mean."""
        return summarise(self.of(method).tolist(), confidence=self.confidence)

    def difference(self, method: str, other: str) -> PairedDifference:
        """How much better `method` is than `other`, episode by episode."""
        scores = (dict(enumerate(self.of(name).tolist())) for name in (method, other))
        return paired_difference(*scores, confidence=self.confidence)

    def with_method(
        self, name: str, accuracies: Sequence[float] | np.ndarray, *, transductive: bool = False, seconds: float = 0.0
    ) -> FewShotResults:
        """
        These results and those of one more method on the same episodes, such as a model trained for them.

        Args:
            name (`str`): of the method.
            accuracies (`Sequence[float]`): `(E,)`, of the same episodes in the same order.
            transductive (`bool`, *optional*, defaults to `False`): whether queries are classified together.
            seconds (`float`, *optional*, defaults to 0): its time.
        """
        added = np.asarray(accuracies, dtype=np.float64)
        if added.shape != (self.episodes,) or name in self.methods:
            raise ValueError(
                f"`{name}` with accuracies of shape {added.shape} beside {', '.join(self.methods)} with "
                f"{self.episodes} episodes: methods are compared episode by episode. Pass a new name and one accuracy "
                "for each of the same episodes."
            )
        return replace(
            self,
            methods=(*self.methods, name),
            accuracies=np.concatenate([self.accuracies, added[None]]),
            transductive=(*self.transductive, name) if transductive else self.transductive,
            seconds={**(self.seconds or {}), name: seconds},
        )

    def records(self, baseline: str | None = None) -> list[dict[str, Any]]:
        """
        A line for each method as plain values, which JSON can hold.

        Args:
            baseline (`str`, *optional*): the method that the others are compared with; by default the first.
        """
        baseline = self.methods[0] if baseline is None else baseline
        lines = []
        for name in self.methods:
            summary, line = self.summary(name), {"method": name, "transductive": name in self.transductive}
            low, high = summary.interval or (None, None)
            line |= {"accuracy": summary.mean, "low": low, "high": high}
            if len(self.methods) > 1:
                against = None if name == baseline else self.difference(name, baseline)
                low, high = (against and against.interval) or (None, None)
                line |= {"difference": against and against.mean, "difference_low": low, "difference_high": high}
            lines.append({**line, "seconds": (self.seconds or {}).get(name)})
        return lines

    def frame(self, baseline: str | None = None) -> pandas.DataFrame:
        """The table of [`records`] as a `pandas.DataFrame`, a line for each method."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`frame` needs pandas, which is not installed: there is nothing to put the table into. Run "
                "`pip install pandas`, or read `records()`."
            ) from error
        return pandas.DataFrame(self.records(baseline)).set_index("method")

    def table(self, baseline: str | None = None) -> str:
        """A Markdown table; a difference to `baseline` (by default the first method) that excludes zero is bold."""
        baseline = self.methods[0] if baseline is None else baseline
        several = len(self.methods) > 1
        head = ["method", "accuracy", f"{100 * self.confidence:.4g}% interval"]
        lines = [[*head, *([f"against {baseline}"] if several else []), "seconds"]]
        for line in self.records(baseline):
            name = f"{line['method']} (transductive)" if line["transductive"] else line["method"]
            cells = [name, f"{line['accuracy']:.4f}", _range(line["low"], line["high"], "")]
            if several:
                cells.append(_difference(line))
            lines.append([*cells, "" if line["seconds"] is None else f"{line['seconds']:.2f}"])
        rows = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines]
        return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])

    def __str__(self) -> str:
        of = f"{self.n_way}-way {self.k_shot}-shot, {self.queries} queries a class, {self.episodes} episodes"
        return f"{of} (seed {self.seed})\n\n{self.table()}"


def _range(low: float | None, high: float | None, sign: str) -> str:
    return "" if low is None or high is None else f"{low:{sign}.4f} to {high:{sign}.4f}"


def _difference(line: Mapping[str, Any]) -> str:
    low, high = line["difference_low"], line["difference_high"]
    if line["difference"] is None:
        return ""
    mean = f"{line['difference']:+.4f}"
    if low is None:
        return mean
    return f"{mean if low <= 0 <= high else f'**{mean}**'} ({_range(low, high, '+')})"
