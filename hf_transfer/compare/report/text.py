"""The text of a comparison: report.md, with the answer, the tables and the commands of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_transfer.compare.answer import Estimate, TableRow
from hf_transfer.compare.outcome import ComparisonResults
from hf_transfer.compare.report import words
from hf_transfer.compare.report.page import badges, confused
from hf_transfer.compare.report.plots import title_of
from hf_transfer.compare.report.prose import (
    choice,
    class_summary,
    extent,
    nothing_recommended,
    reading,
    subject,
    verdict_words,
)
from hf_transfer.compare.tables import markdown_table


__all__ = ["plain_text", "text"]


def text(results: ComparisonResults) -> str:
    """
    The report in Markdown.

    Args:
        results (`ComparisonResults`): of a comparison.
    """
    best, chosen, answer = results.best(), results.answer.recommendation, results.answer
    parts = [f"# Which way to transfer? {plain_text(subject(results))}", extent(results), "## The answer"]
    if best is None or chosen is None:
        parts += ["**No strategy can be recommended.**", nothing_recommended(results)]
    else:
        parts += [
            f"**{plain_text(title_of(results, best.strategy))}** on {plain_text(best.model)}",
            plain_text(chosen.reason),
        ]
    sign, said = words.VERDICTS.get(answer.verdict.verdict, ("", answer.verdict.verdict))
    parts += [f"**{sign} {said}.** {plain_text(verdict_words(results))}"]
    parts += ["## All strategies", choice(results), _table(results), *_classes(results), *_curve(results)]
    if answer.outlook is not None:
        parts += ["## What would bring more", f"More labels: {plain_text(answer.outlook.labels)}"]
        parts += [f"Another strategy: {plain_text(answer.outlook.strategy)}"]
    parts += [*_winner(results), "## How to read this", *reading(results), *_commands(results), *_facts(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain_text(value: str) -> str:
    r"""
    A text as one line of Markdown that shows it as it is.

    Example:
        >>> print(plain_text("<b>a|b</b> *c*\nd_e"))
        \<b\>a\|b\</b\> \*c\* d_e
    """
    return re.sub(r"([\\`*\[\]<>|#$~])", r"\\\1", " ".join(str(value).split()))


def _table(results: ComparisonResults) -> str:
    tested = any(row.test is not None for row in results.answer.rows)
    header = ["model", "strategy", "", "validation", "against the best", *(["test"] if tested else [])]
    header += [name.lower() for name in words.COSTS.values()]
    return markdown_table(header, [_line(results, row, tested) for row in results.answer.rows])


def _line(results: ComparisonResults, row: TableRow, tested: bool) -> list[str]:
    said = ", ".join(badge for _, badge in badges(results, row))
    name = plain_text(title_of(results, row.strategy))
    if row == results.best():
        name = f"**{name}**"
    start = [plain_text(row.model), name, said]
    if row.status != "finished":
        return [*start, plain_text(row.reason or "no reason is known"), *[""] * (1 + tested + len(words.COSTS))]
    scores = [_told(row.validation), _told(row.against_best, gain=True), *([_told(row.test)] if tested else [])]
    return [*start, *scores, *(words.cost(row.costs, cost) for cost in words.COSTS)]


def _told(estimate: Estimate | None, *, gain: bool = False) -> str:
    if estimate is None:
        return words.NONE
    ends = words.interval(estimate)
    told = words.difference(estimate) if gain else words.score(estimate.mean)
    return f"{told} ({ends})" if ends else told


def _classes(results: ComparisonResults) -> list[str]:
    verdict = results.answer.verdict
    gains = [("training from scratch", verdict.against_scratch), ("the majority class", verdict.against_majority)]
    said = [f"- against {name}: {_told(gain, gain=True)}" for name, gain in gains if gain is not None]
    found = ["## Does transfer help?", "\n".join(said)]
    if not verdict.classes:
        return found if said else []
    rows = [
        [plain_text(own.label), str(own.rows), _told(own.difference, gain=True), _verdict(own.verdict)]
        for own in verdict.classes
    ]
    return [*found, class_summary(verdict.classes), markdown_table(["class", "rows", "difference", "verdict"], rows)]


def _verdict(verdict: str) -> str:
    return " ".join(words.VERDICTS.get(verdict, ("", verdict))).strip()


def _curve(results: ComparisonResults) -> list[str]:
    points = results.answer.curve
    rows = [
        [plain_text(p.model), plain_text(title_of(results, p.strategy)), str(p.rows), _told(p.score)] for p in points
    ]
    header = ["model", "strategy", "labelled rows", words.metric_name(results.metric)]
    return ["## Learning curve", markdown_table(header, rows)] if rows else []


def _winner(results: ComparisonResults) -> list[str]:
    found = []
    pairs = [[plain_text(truth), plain_text(taken), str(number)] for truth, taken, number in confused(results)]
    if pairs:
        found += ["## What the recommended one confuses most", markdown_table(["is", "taken for", "times"], pairs)]
    told = [
        f"- {plain_text(own.text)} (is {plain_text(own.truth)}, taken for {plain_text(own.predicted)}, "
        f"{words.percent(own.probability)} sure)"
        for own in results.mistakes
        if own.text is not None
    ]
    return [*found, "## Some of its mistakes", "\n".join(told)] if told else found


def _commands(results: ComparisonResults) -> list[str]:
    found = ["## Run it again"]
    if results.command:
        found += ["All of it:", _code(results.command)]
    for row in results.answer.rows:
        if row.command:
            found += [f"{plain_text(title_of(results, row.strategy))} on {plain_text(row.model)}:", _code(row.command)]
    return found if len(found) > 1 else []


def _code(command: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}"


def _facts(results: ComparisonResults) -> list[str]:
    parts = [("Data", results.data), ("Settings", results.settings), ("Environment", results.environment)]
    found: list[str] = []
    for name, facts in parts:
        told: Sequence[tuple[str, str]] = words.pairs(facts)
        if told:
            found += [f"## {name}", "\n".join(f"- {plain_text(key)}: {plain_text(value)}" for key, value in told)]
    return found
