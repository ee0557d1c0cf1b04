"""The tables of a card, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_transfer.compare.tables import markdown_table
from hf_transfer.model_card.facts import Baseline, DataFacts, RunFacts, Score
from hf_transfer.model_card.metadata import metric_label, split_label


__all__ = ["baseline_table", "data_table", "score_table", "setting_table", "term_table"]


def score_table(facts: RunFacts) -> str:
    """
    The scores of the model, with the mean over seeds where there are several.

    Example:
        >>> print(score_table(RunFacts(scores=[Score("accuracy", 0.9), Score("loss", 0.31, "eval")])))
        | data | metric | this model |
        |---|---|---|
        | test | Accuracy | 0.900 |
        | validation | loss | 0.310 |
    """
    spread = any(own.mean is not None for own in facts.scores)
    rows = []
    for own in facts.scores:
        row = [split_label(own.split).replace("_", " "), metric_label(own.metric), f"{own.value:.3f}"]
        rows.append([*row, *([_mean(own)] if spread else [])])
    count = max((len(own.by_seed) for own in facts.scores), default=0)
    header = ["data", "metric", "this model", *([f"mean of {count} seeds (95% interval)"] if spread else [])]
    return markdown_table(header, rows) if rows else ""


def baseline_table(facts: RunFacts) -> str:
    """
    What the model is compared with. The row of the model's own method is the first, where it has the same score.

    Example:
        >>> facts = RunFacts(method="dann", scores=[Score("accuracy", 0.7, "target")])
        >>> facts.baselines = [Baseline("source_only", Score("accuracy", 0.6, "target"), 0.1)]
        >>> print(baseline_table(facts))
        | method | target Accuracy | dann against it (95% interval) |
        |---|---|---|
        | **dann** | 0.700 | |
        | source_only | 0.600 | +0.100 |
    """
    if not facts.baselines:
        return ""
    first = facts.baselines[0].score
    method = facts.method or "this model"
    rows = []
    own = facts.score(first.split, first.metric)
    if own is not None:
        rows.append([f"**{method}**", _mean(own), ""])
    for other in facts.baselines:
        rows.append([_escaped(other.name), _mean(other.score), _difference(other)])
    header = ["method", f"{split_label(first.split)} {metric_label(first.metric)}"]
    return markdown_table([*header, f"{method} against it (95% interval)"], rows)


def term_table(facts: RunFacts) -> str:
    """The terms of the loss with their settings."""
    rows = [
        [
            f"`{own.name}`",
            _escaped(own.about or own.method),
            f"`{own.weight}`" if own.weight else "",
            _pairs(own.settings),
        ]
        for own in facts.terms
    ]
    return markdown_table(["term", "what it does", "weight", "settings"], rows) if rows else ""


def data_table(facts: RunFacts) -> str:
    """The data sets with the rows of their splits."""
    named = [own for own in facts.data if own.name or own.splits]
    if not named:
        return ""
    splits = list(dict.fromkeys(name for own in named for name in own.splits))
    header = ["data set", *(["used as"] if any(own.role for own in named) else []), *map(split_label, splits)]
    header += ["labels trained on"] if any(own.labels_used is not None for own in named) else []
    rows = []
    for own in named:
        row = [_data_name(own), *([own.role] if "used as" in header else [])]
        row += [f"{own.splits[name]:,}" if name in own.splits else "" for name in splits]
        if "labels trained on" in header:
            row.append("" if own.labels_used is None else "yes" if own.labels_used else "no")
        rows.append(row)
    return markdown_table(header, rows)


def setting_table(settings: Mapping[str, Any]) -> str:
    """Options with their values."""
    rows = [[f"`{name}`" if " " not in name else name, _escaped(str(value))] for name, value in settings.items()]
    return markdown_table(["option", "value"], rows) if rows else ""


def _data_name(own: DataFacts) -> str:
    name = f"[{own.hub_id}](https://huggingface.co/datasets/{own.hub_id})" if own.hub_id else f"`{own.name or 'rows'}`"
    return f"{name}, configuration `{own.config}`" if own.config else name


def _mean(score: Score) -> str:
    value = f"{score.value if score.mean is None else score.mean:.3f}"
    return value if score.interval is None else f"{value} ({score.interval[0]:.3f} to {score.interval[1]:.3f})"


def _difference(own: Baseline) -> str:
    if own.difference is None:
        return ""
    value = f"{own.difference:+.3f}"
    if own.interval is None:
        return value
    low, high = own.interval
    return f"{value if low <= 0 <= high else f'**{value}**'} ({low:+.3f} to {high:+.3f})"


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_escaped(str(value))}" for name, value in settings.items() if str(value) != "None")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
