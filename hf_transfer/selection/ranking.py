"""`SourceRanking`: the candidates in order, the recommendation, and how well scores agreed with the truth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_transfer.compare.answer import Difference
from hf_transfer.compare.judging.differences import estimates
from hf_transfer.files import whole_file
from hf_transfer.selection.candidates import MARK, RANDOM
from hf_transfer.selection.combining import with_combined_etran
from hf_transfer.selection.held_out import KNN, PROBE
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.recommending import (
    MAJORITY,
    RAW,
    Recommendation,
    control_remark,
    left_out_remark,
    recommend,
    transfer_check,
)
from hf_transfer.selection.scores import SCORES, Score
from hf_transfer.selection.storing import FILE, read_results, write_results


if TYPE_CHECKING:
    import pandas

SIZE = "parameters"
"""The list ordered by size, which every score is to be compared with."""

__all__ = ["SIZE", "SourceRanking"]


@dataclass(frozen=True)
class SourceRanking:
    """
    What [`rank_models`] found; `print` shows the table and the recommendation.

    Args:
        outcomes (`tuple[Outcome, ...]`): candidates in the order given, and the baselines `majority` and `raw inputs`.
        settings (`Mapping[str, Any]`): rows, folds, layers and the like, the same for all.
        by (`str`, *optional*, defaults to `"probe"`): the score that it is ordered by.

    ETran compares candidates: it is computed here, of the energy and fit of each.

    Relations:
        [`compare`] trains the candidates that are too close to call, and judges them by their predictions.
    """

    outcomes: tuple[Outcome, ...] = field(repr=False)
    settings: Mapping[str, Any]
    by: str = PROBE

    def __post_init__(self) -> None:
        settings = self.settings
        outcomes = with_combined_etran(self.outcomes, size=settings["rows"], part_sizes=settings["parts"])
        object.__setattr__(self, "outcomes", outcomes)

    @property
    def baselines(self) -> list[Outcome]:
        """What needs no pretrained model."""
        return [own for own in self.outcomes if own.name in (MAJORITY, RAW)]

    @cached_property
    def candidates(self) -> list[Outcome]:
        """The candidates, the best first; those without the score behind, those that failed last."""
        own = [own for own in self.outcomes if own.name not in (MAJORITY, RAW)]
        return sorted(own, key=lambda own: (not own.scored, own.value(self.by) is None, -(own.value(self.by) or 0.0)))

    @property
    def scores(self) -> list[str]:
        """Names of the scores, in the order of tables."""
        return [name for name in SCORES if name in self.settings["scores"]]

    @property
    def metric(self) -> str:
        """What `probe` and `knn` are: `accuracy` or `R2`."""
        return self.settings["metric"]

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """Which to take, and who is tied with it; None where no candidate has the score."""
        settings = self.settings
        return recommend(
            self.candidates, self.by, size=settings["rows"], parts=settings["parts"], seed=settings["seed"]
        )

    @cached_property
    def transfer(self) -> tuple[str, dict[str, Difference], str]:
        """Whether the recommended candidate beats the baselines: `positive`, `negative` or `undecided`; see
        [`transfer_check`]."""
        if self.recommendation is None:
            return "undecided", {}, ""
        name = self.recommendation.name
        copy = [own for own in self.candidates if own.name == f"{name.partition(MARK)[0]}{MARK}{RANDOM}"]
        return transfer_check(self.outcome(name), [*self.baselines, *copy], seed=self.settings["seed"])

    @cached_property
    def sentences(self) -> list[str]:
        """The recommendation and who has no part in it, whether transfer helps, and what controls say of the
        recommended candidate."""
        if self.recommendation is None:
            return []
        chosen = self.outcome(self.recommendation.name)
        controls = control_remark(chosen, self.candidates, seed=self.settings["seed"])
        missing = left_out_remark(self.candidates, self.by)
        return [own for own in (self.recommendation.sentence, missing, self.transfer[2], *controls) if own]

    def outcome(self, name: str) -> Outcome:
        """
        What was found out about a candidate or baseline.

        Raises:
            KeyError: if there is none of that name.
        """
        for own in self.outcomes:
            if own.name == name:
                return own
        raise KeyError(
            f"There is no candidate `{name}` in this ranking, so it has no scores. Its candidates are "
            f"{', '.join(own.name for own in self.candidates)}."
        )

    def best(self) -> str:
        """
        Name of the recommended candidate.

        Raises:
            ValueError: if no candidate has the score.
        """
        if self.recommendation is None:
            why = "; ".join(f"{own.name}: {own.reason or own.scores[self.by].reason}" for own in self.candidates)
            raise ValueError(
                f"No candidate has the score `{self.by}`, so none is the best ({why}). Correct what failed, or rank "
                "by another score."
            )
        return self.recommendation.name

    def ranked_by(self, score: str) -> SourceRanking:
        """
        The same, ordered by another of its scores.

        Raises:
            ValueError: if it was not computed.
        """
        if score not in self.scores:
            raise ValueError(
                f"The score `{score}` was not computed, so nothing can be ordered by it. Choose from "
                f"{', '.join(self.scores)}, or rank again with `scores=`."
            )
        return SourceRanking(self.outcomes, self.settings, score)

    @cached_property
    def intervals(self) -> dict[str, dict[str, Score]]:
        """By score and name of the candidate or baseline, the value with its 95% interval, each for itself."""
        found: dict[str, dict[str, Score]] = {name: {} for name in self.scores}
        for name in self.scores:
            for own in self.outcomes:
                if name in own.scores:
                    found[name][own.name] = own.scores[name]
        for name in (PROBE, KNN):
            runs = {own.name: {0: own.rows[name]} for own in self.outcomes if name in own.rows}
            for key, estimate in estimates(runs, seed=self.settings["seed"]).items():
                found[name][key] = Score(estimate.mean, estimate.low, estimate.high)
        return found

    @property
    def frame(self) -> pandas.DataFrame:
        """
        A row for every candidate, the best first, then the baselines: scores with `_low` and `_high`, parameters and
        `size_rank` (1 is the largest), costs, and why a row has no scores.
        """
        import pandas

        recommendation = self.recommendation
        behind = {} if recommendation is None else recommendation.behind
        sizes = sorted((own.cost.parameters for own in self.candidates if own.cost is not None), reverse=True)
        lines = []
        for own in [*self.candidates, *self.baselines]:
            line: dict[str, Any] = {"model": own.name}
            line["recommended"] = recommendation is not None and own.name == recommendation.name
            line["tied"] = recommendation is not None and own.name in recommendation.tied
            for name in self.scores:
                score = self.intervals[name].get(own.name, Score())
                line |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
            gap = behind.get(own.name)
            line["behind_leader"] = None if gap is None else gap.mean
            cost = own.cost
            line["parameters"] = None if cost is None else cost.parameters
            line["size_rank"] = None if cost is None else sizes.index(cost.parameters) + 1
            line["memory_bytes"] = None if cost is None else cost.memory
            line["rows_per_second"] = None if cost is None else cost.rows_per_second
            line["fine_tune_seconds"] = None if cost is None else cost.fine_tune_seconds
            lines.append({**line, "layer": own.layer, "reason": own.reason})
        return pandas.DataFrame(lines).set_index("model")

    def agreement(self, truth: Mapping[str, float]) -> pandas.DataFrame:
        """
        How well each score, and the list ordered by size, orders candidates as they did once trained.

        Args:
            truth (`Mapping[str, float]`): by candidate, what it came to after fine-tuning; more is better.

        Returns:
            `pandas.DataFrame`: by score `weighted_kendall` (of -1 to 1), `regret` (how much worse than the best the
            first of the list is, in units of `truth`) and `candidates`, of which these are.

        Degenerate cases:
            Candidates without a score are left out for it; with fewer than two left, there is no number.

        Raises:
            ValueError: if a name is no candidate, or fewer than two are given.
        """
        import pandas

        from hf_transfer.functional.rank_agreement import regret_at, weighted_kendall

        unknown = [name for name in truth if name not in {own.name for own in self.candidates}]
        if unknown or len(truth) < 2:
            told = f"`{unknown[0]}` is no candidate" if unknown else f"the truth of {len(truth)} candidates is given"
            raise ValueError(
                f"{told[0].upper()}{told[1:]}: orders of two or more candidates are compared. Pass a number for each "
                f"of {', '.join(own.name for own in self.candidates)}."
            )
        lines = []
        for name in [*self.scores, SIZE]:
            pairs = [(own, truth[own.name]) for own in self.candidates if own.name in truth]
            kept = [(value, right) for own, right in pairs if (value := self._value(own, name)) is not None]
            line: dict[str, Any] = {"score": name, "weighted_kendall": None, "regret": None, "candidates": len(kept)}
            if len(kept) > 1:
                values, right = [value for value, _ in kept], [right for _, right in kept]
                line["weighted_kendall"] = weighted_kendall(values, right)
                line["regret"] = regret_at(values, right)
            lines.append(line)
        return pandas.DataFrame(lines).set_index("score")

    @staticmethod
    def _value(own: Outcome, name: str) -> float | None:
        if name == SIZE:
            return None if own.cost is None else float(own.cost.parameters)
        return own.value(name)

    def table(self) -> str:
        """The candidates and baselines as a Markdown table."""
        from hf_transfer.selection.report import ranking_table

        return ranking_table(self)

    def report(self) -> str:
        """The table, the recommendation, costs and remarks, in Markdown."""
        from hf_transfer.selection.report import ranking_report

        return ranking_report(self)

    def __str__(self) -> str:
        return "\n\n".join([self.table(), *self.sentences])

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """
        Draw probe and k-NN with their intervals, and the place of every candidate by every score.

        Args:
            path (`str` or `os.PathLike`): the file; its suffix is the format, PNG without one.

        Raises:
            ImportError: without matplotlib.
            ValueError: if no candidate has scores.
        """
        from hf_transfer.selection.plots import plot_ranking

        return plot_ranking(self, path)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `results.json`, `ranking.md` and `ranking.png` into a folder, each whole or not at all."""
        place = Path(folder)
        write_results(place / FILE, self.settings, list(self.outcomes))
        with whole_file(place / "ranking.md") as unfinished:
            unfinished.write_text(self.report(), encoding="utf-8")
        if any(own.scored for own in self.candidates):
            self.plot(place / "ranking.png")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, by: str | None = None) -> SourceRanking:
        """
        The ranking that [`~SourceRanking.save`] wrote.

        Args:
            folder (`str` or path): where.
            by (`str`, *optional*): another score to order by.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if its `results.json` is of something else, or the score was not computed.
        """
        stored = read_results(Path(folder) / FILE)
        found = cls(
            tuple(Outcome.from_json(own) for own in stored["outcomes"]), stored["settings"], stored["settings"]["by"]
        )
        return found if by is None else found.ranked_by(by)


def finished(outcomes: Sequence[Outcome], settings: Mapping[str, Any]) -> SourceRanking:
    """The ranking of outcomes, by the score that the settings name."""
    return SourceRanking(tuple(outcomes), settings, settings["by"])
