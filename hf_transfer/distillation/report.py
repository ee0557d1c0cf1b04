"""The tables of a distillation: what teacher and students score, what they cost, and what the tables do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_transfer.compare.results import Cell
from hf_transfer.compare.tables import difference, markdown_table, scores_of, told, told_difference
from hf_transfer.distillation.measuring import Cost
from hf_transfer.distillation.methods import ALONE, TEACHER
from hf_transfer.repeats import summarise


__all__ = ["cost_table", "judged_by", "remarks", "report", "score_table"]


def judged_by(cells: Sequence[Cell], metric: str) -> str:
    """The score that the report is about: that of the test rows, or of the validation rows where there are none."""
    name = f"test_{metric}"
    return name if any(name in cell.scores for cell in cells) else f"eval_{metric}"


def score_table(teacher: Cell, cells: Sequence[Cell], metric: str) -> str:
    """
    A Markdown table: the score of the teacher and of the student by every method, the difference to the student alone
    by seed, in bold where its 95% interval excludes zero, and the share of the way from it to the teacher.

    Args:
        teacher (`Cell`): its scores.
        cells (`Sequence[Cell]`): finished runs of the student.
        metric (`str`): what is scored, such as `accuracy`.

    Example:
        >>> teacher = Cell("teacher", 0, "", ".", {"test_accuracy": 0.9})
        >>> runs = [
        ...     Cell(method, seed, "", "", {"test_accuracy": score + seed / 100})
        ...     for method, score in (("alone", 0.7), ("kd", 0.8))
        ...     for seed in (0, 1)
        ... ]
        >>> print(score_table(teacher, runs, "accuracy"))
        | model | test accuracy | sd | against alone | gap closed | seeds |
        |---|---|---|---|---|---|
        | teacher | 0.900 | | | | |
        | alone | 0.705 (0.641 to 0.769) | 0.007 | | | 2 |
        | kd | 0.805 (0.741 to 0.869) | 0.007 | **+0.100** (0.100 to 0.100) | 51% | 2 |
    """
    name = judged_by(cells, metric)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    against = ALONE in methods
    rows = [[TEACHER, _number(teacher.scores.get(name)), "", *(["", ""] if against else []), ""]]
    for method in methods:
        scores = scores_of(cells, method, name)
        spread = summarise(scores).std if scores else None
        row = [method, told(scores), _number(spread)]
        if against:
            gain = difference(cells, method, name, against=ALONE)
            row += [told_difference(gain), _gap(gain, scores_of(cells, ALONE, name), teacher.scores.get(name))]
        rows.append([*row, str(sum(cell.method == method for cell in cells))])
    header = ["model", name.replace("eval_", "validation ").replace("_", " "), "sd"]
    return markdown_table([*header, *([f"against {ALONE}", "gap closed"] if against else []), "seeds"], rows)


def _gap(gain: object, alone: Mapping[int, float], teacher: float | None) -> str:
    """How much of what the student lacks alone it has gained."""
    mean = getattr(gain, "mean", None)
    if mean is None or teacher is None or not alone:
        return ""
    gap = teacher - summarise(alone).mean
    return f"{mean / gap:.0%}" if gap > 0 else ""


def cost_table(costs: Mapping[str, Cost]) -> str:
    """
    A Markdown table of what teacher and student cost.

    Example:
        >>> costs = {"teacher": Cost(2_000_000, 8_000_000, 4.0, 5.0, 1000.0, 32, "cpu", "float32", 2)}
        >>> costs["student"] = Cost(1_000_000, 4_000_000, 2.0, 2.5, 2000.0, 32, "cpu", "float32", 2)
        >>> print(cost_table(costs))
        | model | parameters | on disk | latency, 1 row | 90% below | throughput | faster |
        |---|---|---|---|---|---|---|
        | teacher | 2.00 M | 8.00 MB | 4.00 ms | 5.00 ms | 1000 rows/s | |
        | student | 1.00 M | 4.00 MB | 2.00 ms | 2.50 ms | 2000 rows/s | 2.0x, 2.0x |
    """
    header = ["model", "parameters", "on disk", "latency, 1 row", "90% below", "throughput", "faster"]
    rows, first = [], next(iter(costs.values()))
    for name, cost in costs.items():
        faster = f"{first.latency_ms / cost.latency_ms:.1f}x, {cost.throughput / first.throughput:.1f}x"
        size = "" if cost.bytes is None else f"{cost.bytes / 1e6:.2f} MB"
        times = [f"{time:.2f} ms" for time in (cost.latency_ms, cost.latency_p90_ms)]
        speed = f"{cost.throughput:.0f} rows/s"
        rows.append([name, f"{cost.parameters / 1e6:.2f} M", size, *times, speed, "" if cost is first else faster])
    return markdown_table(header, rows)


def remarks(teacher: Cell, cells: Sequence[Cell], metric: str) -> list[str]:
    """What the table does not say aloud: a teacher that hurts or knows no more, runs that diverged, too few seeds."""
    name = judged_by(cells, metric)
    found = []
    for method in dict.fromkeys(cell.method for cell in cells):
        gain = difference(cells, method, name, against=ALONE)
        if gain is not None and gain.mean < 0:
            sure = "more than chance explains" if gain.excludes_zero else "within what other seeds may change"
            found.append(
                f"{method} does not help: with it the student loses {-gain.mean:.3f} against learning {ALONE}"
                + (f", {sure}." if gain.interval is not None else ".")
            )
        elif gain is not None and (gain.mean == 0 or gain.excludes_zero is False):
            found.append(f"{method} is not told from {ALONE} by these seeds.")
        broken = [cell.seed for cell in cells if cell.method == method and None in cell.scores.values()]
        if broken:
            found.append(f"{method} diverged with seed {', '.join(map(str, broken))}: a score is not finite.")
    alone, taught = scores_of(cells, ALONE, name), teacher.scores.get(name)
    if alone and taught is not None and taught <= summarise(alone).mean:
        found.append(
            f"The teacher scores {taught:.3f}, no more than the student {ALONE}: it has little to teach. Train it "
            "longer, or take a larger one."
        )
    if name.startswith("eval_"):
        found.append("There are no test rows: the scores are of the rows by which epochs and the model were chosen.")
    if len({cell.seed for cell in cells}) == 1:
        found.append("One seed says nothing about the spread: repeat with `--seeds 3` or more.")
    return found


def report(teacher: Cell, cells: Sequence[Cell], costs: Mapping[str, Cost], metric: str, kept: str) -> str:
    """The whole report in Markdown."""
    parts = ["# Distillation", score_table(teacher, cells, metric)]
    parts += [
        "Mean over seeds, its 95% interval (Student) and the standard deviation; bold: the interval of the difference "
        "excludes zero. All seeds share the teacher and the rows, and differ in the student's random weights, order "
        "and dropout."
    ]
    said = remarks(teacher, cells, metric)
    parts += ["\n".join(f"- {remark}" for remark in said)] if said else []
    if costs:
        cost = next(iter(costs.values()))
        threads = f", {cost.threads} threads" if cost.device == "cpu" else ""
        parts += ["## Cost", cost_table(costs)]
        parts += [
            f"The student is one network however it learns. Measured on {cost.device}{threads}, {cost.dtype}; latency "
            f"of one row and throughput in batches of {cost.batch_size}, medians after a warm-up, without "
            "preparation of the inputs."
        ]
    return "\n\n".join([*parts, kept]) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
