"""The table and the page of a ranking, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_transfer.compare.tables import markdown_table
from hf_transfer.functional.discriminants import ENERGY_SHARE
from hf_transfer.model_card.naming import public_name
from hf_transfer.selection.candidates import MARK
from hf_transfer.selection.held_out import KNN, PROBE
from hf_transfer.selection.outcome import Outcome
from hf_transfer.selection.scores import ETRAN, NOT_TELLING, Score


if TYPE_CHECKING:
    from hf_transfer.selection.ranking import SourceRanking

TITLES = {
    PROBE: "linear probe",
    KNN: "k-NN",
    "logme": "LogME",
    "leep": "LEEP",
    "nleep": "NLEEP",
    "nce": "NCE",
    "h_score": "H-score",
    "transrate": "TransRate",
    "gbc": "GBC",
    "parc": "PARC",
    "sfda": "SFDA",
    "etran": "ETran",
}
"""What scores are called in tables."""

FEW_ROWS = 10
"""Rows of a class, in the mean, below which NLEEP is too high."""

__all__ = [
    "FEW_ROWS",
    "TITLES",
    "cost_table",
    "ranking_remarks",
    "ranking_report",
    "ranking_table",
    "shown_name",
    "shown_sentences",
    "told_bytes",
    "told_seconds",
]


def shown_name(name: str) -> str:
    """
    What a report calls a candidate: of a path the folder alone.

    Example:
        >>> shown_name("/home/somebody/models/mine#reinit:1"), shown_name("embedded:image")
        ('mine#reinit:1', 'embedded:image')
    """
    checkpoint, mark, control = name.partition(MARK)
    return f"{public_name(checkpoint)[0] or checkpoint}{mark}{control}"


def ranking_table(ranking: SourceRanking) -> str:
    """Candidates, the best first, and the baselines: held-out scores with 95% intervals, size, all other scores."""
    recommended = ranking.recommendation
    others = [name for name in ranking.scores if name not in (PROBE, KNN)]
    header = ["model", f"probe {ranking.metric}", f"k-NN {ranking.metric}", "parameters", "by size"]
    header += [TITLES[name] for name in others]
    sizes = sorted((own.cost.parameters for own in ranking.candidates if own.cost is not None), reverse=True)
    lines = []
    for own in ranking.candidates:
        name = shown_name(own.name)
        if recommended is not None and own.name == recommended.name:
            name = f"**{name}**"
        elif recommended is not None and own.name in recommended.tied:
            name = f"{name} (tied)"
        if not own.scored:
            lines.append([name, "failed, see below", *[""] * (len(header) - 2)])
            continue
        size = own.cost.parameters if own.cost is not None else 0
        line = [name, *(_estimate(ranking, score, own) for score in (PROBE, KNN)), f"{size:,}"]
        line.append(str(sizes.index(size) + 1) if size in sizes else "")
        lines.append([*line, *(_number(own.scores.get(score)) for score in others)])
    for own in ranking.baselines:
        lines.append(
            [own.name, *(_estimate(ranking, score, own) for score in (PROBE, KNN)), *[""] * (len(header) - 3)]
        )
    return markdown_table(header, lines)


def ranking_remarks(ranking: SourceRanking) -> list[str]:
    """What the table does not say: failures, scores that are not defined, what is to be told of candidates."""
    found = [f"{shown_name(own.name)} failed: {own.reason}" for own in ranking.candidates if not own.scored]
    for name in ranking.scores:
        found += _not_there(ranking, name)
    rows = ranking.settings.get("rows_per_class")
    if "nleep" in ranking.scores and rows is not None and rows < FEW_ROWS:
        found.append(
            f"{TITLES['nleep']} is too high, for every candidate: there are {rows:.1f} rows of a class, and its "
            f"clusters then hold rows of one class whatever the features are. Below {FEW_ROWS} prefer other scores."
        )
    if any(own.value(ETRAN) is not None for own in ranking.candidates):
        found.append(
            f"{TITLES[ETRAN]} compares the candidates of this table: energy ({ENERGY_SHARE:.0%}) and fit to the "
            f"labels ({1 - ENERGY_SHARE:.0%}), each scaled from 0 to 1 over them. Beside others it is another number."
        )
    for own in ranking.candidates:
        found += [f"{shown_name(own.name)}: {note}" for note in own.notes]
    return found


def _not_there(ranking: SourceRanking, name: str) -> list[str]:
    """For which candidates a score or its interval is missing, and why."""
    scored = [own for own in ranking.candidates if own.scored and name in own.scores]
    without: dict[str, list[str]] = {}
    open_ended: dict[str, list[str]] = {}
    for own in scored:
        kind = without if own.value(name) is None else open_ended
        kind.setdefault(own.scores[name].reason, []).append(shown_name(own.name))
    found = []
    for reason, names in without.items():
        of = "" if len(names) == len(scored) else f" for {', '.join(names)}"
        is_so = NOT_TELLING if reason.startswith(NOT_TELLING) else "not defined"
        found.append(f"{TITLES[name]} is {is_so}{of}: {reason.removeprefix(f'{NOT_TELLING}: ').rstrip('.')}.")
    for reason, names in open_ended.items():
        if reason:
            of = "" if len(names) == len(scored) else f" for {', '.join(names)}"
            found.append(f"{TITLES[name]} has no interval{of}; on random parts: {reason.rstrip('.')}.")
    return found


def ranking_report(ranking: SourceRanking) -> str:
    """The page `ranking.md`."""
    settings = ranking.settings
    scored = [own for own in ranking.candidates if own.scored]
    rows = f"{settings['rows']:,} of {settings['available']:,}" if settings["rows"] < settings["available"] else None
    unit = "sentences" if settings["kind"] == "token" else "rows"
    told = (
        f"Task {settings['task']}, {rows or format(settings['rows'], ',')} labelled {unit}; features: "
        f"{settings['layers']}. Probe ({settings['probe']}) and k-NN: held-out {ranking.metric} in "
        f"{settings['folds']} folds with its 95% interval over {unit}, the same for all candidates; more is better "
        "for every score. The intervals of other scores are in results.json."
    )
    parts = ["# Which model to start from", *shown_sentences(ranking)]
    parts += [ranking_table(ranking), told]
    remarks = ranking_remarks(ranking)
    if remarks:
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    if scored:
        parts += ["## Costs", cost_table(scored), _cost_note(settings["epochs"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown_sentences(ranking: SourceRanking) -> list[str]:
    """The sentences of a ranking, with candidates named as in its table."""
    found = ranking.sentences
    for own in ranking.candidates:
        found = [said.replace(f"`{own.name}`", f"`{shown_name(own.name)}`") for said in found]
    return found


def cost_table(candidates: list[Outcome]) -> str:
    """Parameters, memory, speed and estimated time of fine-tuning of every candidate."""
    lines = []
    for own in candidates:
        if own.cost is None:
            continue
        rate = own.cost.rows_per_second
        lines.append(
            [
                shown_name(own.name),
                f"{own.cost.parameters:,}",
                told_bytes(own.cost.memory),
                "" if rate is None else f"{rate:.0f}",
                "" if own.cost.fine_tune_seconds is None else told_seconds(own.cost.fine_tune_seconds),
                f"{own.seconds.get('pass', 0.0):.1f}",
                f"{own.seconds.get('scores', 0.0):.1f}",
            ]
        )
    header = ["model", "parameters", "training memory", "rows a second", "fine-tuning", "pass (s)", "scores (s)"]
    return markdown_table(header, lines)


def told_bytes(count: int) -> str:
    """
    A size in memory.

    Example:
        >>> told_bytes(1_270_000), told_bytes(3 * 10**9)
        ('1.3 MB', '3.0 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def told_seconds(seconds: float) -> str:
    """
    A duration.

    Example:
        >>> told_seconds(4.0), told_seconds(240), told_seconds(9000)
        ('4 s', '4 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _cost_note(epochs: float) -> str:
    return (
        "Training memory: weights, gradients and the two states of AdamW, without activations. Fine-tuning: all "
        f"labelled rows in {epochs:g} epochs on this machine, three forwards for a step, which is the least it takes. "
        "Both are estimates. Rows a second are empty where features came from the cache."
    )


def _estimate(ranking: SourceRanking, score: str, own: Outcome) -> str:
    found = ranking.intervals[score].get(own.name)
    if found is None or found.value is None:
        return ""
    return f"{found.value:.3f}" if found.low is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _number(score: Score | None) -> str:
    if score is None:
        return ""
    if score.value is None:
        return NOT_TELLING if score.reason.startswith(NOT_TELLING) else ""
    return f"{score.value:.3f}"
