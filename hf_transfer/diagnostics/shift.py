"""Class shift: how each class differs between the domains, in its features and in how often it occurs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hf_transfer.diagnostics.discrepancy import mmd_test
from hf_transfer.diagnostics.domain_rows import check_finite
from hf_transfer.features.probes.labelled_rows import ProbeRows, read_rows


__all__ = ["ClassRow", "ClassShift", "class_shift"]


@dataclass(frozen=True)
class ClassRow:
    """
    One class in both domains.

    Args:
        name (`str`): name or number of the class.
        source_share (`float`): share of the source rows that are of the class.
        target_share (`float`): the same of the target.
        source_rows (`int`): rows of the source.
        target_rows (`int`): rows of the target.
        distance (`float`, *optional*): between the means of the class in both domains, in the units of the features.
        relative (`float`, *optional*): that in units of the spread of the source within its classes.
        mmd (`float`, *optional*): unbiased squared discrepancy of the class between the domains.
        p_value (`float`, *optional*): of its permutation test, by itself: with many classes some are small by chance.
    """

    name: str
    source_share: float
    target_share: float
    source_rows: int
    target_rows: int
    distance: float | None = None
    relative: float | None = None
    mmd: float | None = None
    p_value: float | None = None

    @property
    def change(self) -> float:
        """Share in the target minus share in the source."""
        return self.target_share - self.source_share


@dataclass(frozen=True)
class ClassShift:
    """
    How each class differs between the domains; made by [`class_shift`].

    Args:
        classes (`tuple[ClassRow, ...]`): by class number.
        target_classes (`"labels"` or `"predictions"`): what the classes of the target rows are taken from.
        spread (`float`): root mean squared distance of a source row to the mean of its class.
        total_variation (`float`): half the sum of the absolute changes of the shares, in [0, 1].

    Example:
        >>> rows = (ClassRow("cat", 0.5, 0.8, 50, 40, 1.2, 0.6, 0.01, 0.3), ClassRow("dog", 0.5, 0.2, 50, 10))
        >>> print(ClassShift(rows, "predictions", 2.0, 0.3))
        Classes of the target by PREDICTIONS (not labels); total variation of the proportions 0.300.
        | class | source | target | change | distance | / spread | MMD^2 | p |
        |---|---|---|---|---|---|---|---|
        | cat | 50.0% (50) | 80.0% (40) | +30.0% | 1.2 | 0.6 | 0.01 | 0.3 |
        | dog | 50.0% (50) | 20.0% (10) | -30.0% |  |  |  |  |
    """

    classes: tuple[ClassRow, ...]
    target_classes: Literal["labels", "predictions"]
    spread: float
    total_variation: float

    def table(self) -> str:
        """The classes as Markdown."""
        lines = ["| class | source | target | change | distance | / spread | MMD^2 | p |", "|" + "---|" * 8]
        for row in self.classes:
            counts = f"{row.source_share:.1%} ({row.source_rows}) | {row.target_share:.1%} ({row.target_rows})"
            numbers = [row.distance, row.relative, row.mmd, row.p_value]
            cells = ["" if number is None else f"{number:.3g}" for number in numbers]
            lines.append(f"| {row.name} | {counts} | {row.change:+.1%} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        marked = "LABELS" if self.target_classes == "labels" else "PREDICTIONS (not labels)"
        return (
            f"Classes of the target by {marked}; total variation of the proportions {self.total_variation:.3f}.\n"
            f"{self.table()}"
        )


def class_shift(
    source: Any,
    target: Any,
    source_labels: Any = None,
    *,
    target_labels: Any = None,
    target_predictions: Any = None,
    label_names: Sequence[str] | None = None,
    column: str = "features",
    permutations: int = 199,
    max_rows: int | None = 500,
    seed: int = 0,
) -> ClassShift:
    r"""
    How each class differs between two domains: distance of its means, its MMD, and the change of its proportion.

    For class $c$ with source mean $\mu^S_c$ and target mean $\mu^T_c$ the distance is
    $\lVert \mu^S_c - \mu^T_c \rVert$, also in units of the spread
    $\sqrt{\frac{1}{n} \sum_i \lVert x_i - \mu^S_{y_i} \rVert^2}$ of the source within its classes.

    The classes of the target come from `target_labels` where they are given, else from `target_predictions`, never
    from a column of the target. The result says which. With predictions a class that is taken for another hides its
    shift: what lies near the source's class is counted to it.

    Args:
        source (`datasets.Dataset`, array or list of arrays):
            What `extract_features` returns, or `(N, D)`.
        target (`datasets.Dataset`, array or list of arrays):
            The same of the other domain. A column of labels is not read.
        source_labels (array, *optional*):
            Needed for arrays; by default the column `labels` of the source. -100 marks what has no label.
        target_labels (array, *optional*):
            Class numbers of the target rows, for evaluation.
        target_predictions (array, *optional*):
            Predicted class numbers of the target rows, or logits `(M, C)`.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number; by default those of the source's `ClassLabel`.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        permutations (`int`, *optional*, defaults to 199):
            Of the test of each class.
        max_rows (`int`, *optional*, defaults to 500):
            Most rows of a class and domain that its MMD is of.
        seed (`int`, *optional*, defaults to 0):
            Of draws and permutations.

    Shape:
        - source: `(N, D)`, target: `(M, D)`, labels `(N,)` and `(M,)`; for tokens one label each.
        - returns [`ClassShift`].

    Degenerate batches:
        A class that a domain lacks has no distance; with one row in a domain it has no MMD.

    Deviations:
        The distance of means of few rows is too large by chance: judge a class by its p-value.

    Raises:
        ValueError: if there are no source labels, or neither labels nor predictions of the target; if the labels are
            not classes; if the widths differ.

    Relations:
        A shift of proportions alone is a label shift, which re-weighting corrects and which alignment of the marginals
        makes worse.

    Example:
        >>> source = np.array([[0.0], [0.2], [1.0], [1.2]])
        >>> shift = class_shift(source, source[:3] + 1, [0, 0, 1, 1], target_labels=[0, 0, 1])
        >>> [round(row.distance, 3) for row in shift.classes], round(shift.classes[0].change, 3)
        ([1.0, 0.9], 0.167)
    """
    known = read_rows(source, source_labels, column=column, label_names=label_names)
    given, origin = _classes_of(target, target_labels, target_predictions)
    told = read_rows(target, given, column=column, label_names=known.label_names or None)
    _check(known, told)
    count = int(max(known.targets.max(), told.targets.max())) + 1
    names = known.label_names or tuple(str(number) for number in range(count))
    shares = [np.bincount(rows.targets, minlength=len(names)) for rows in (known, told)]
    members = [[rows.features[rows.targets == number] for number in range(len(names))] for rows in (known, told)]
    spread = _spread(members[0])
    classes = []
    for number, name in enumerate(names):
        pair = members[0][number], members[1][number]
        distance = mmd = p_value = None
        if all(map(len, pair)):
            means = [rows.mean(0, dtype=np.float64) for rows in pair]
            distance = float(np.linalg.norm(means[0] - means[1]))
        if min(map(len, pair)) > 1:
            test = mmd_test(*pair, permutations=permutations, max_rows=max_rows, seed=seed)
            mmd, p_value = test.mmd, test.p_value
        row_counts = [int(counts[number]) for counts in shares]
        classes.append(
            ClassRow(
                name=str(name),
                source_share=row_counts[0] / len(known.targets),
                target_share=row_counts[1] / len(told.targets),
                source_rows=row_counts[0],
                target_rows=row_counts[1],
                distance=distance,
                relative=None if distance is None or spread == 0 else distance / spread,
                mmd=mmd,
                p_value=p_value,
            )
        )
    return ClassShift(tuple(classes), origin, spread, sum(abs(row.change) for row in classes) / 2)


def _classes_of(target: Any, labels: Any, predictions: Any) -> tuple[Any, Literal["labels", "predictions"]]:
    if labels is not None:
        return labels, "labels"
    if predictions is None:
        raise ValueError(
            "Neither `target_labels` nor `target_predictions` were given: the classes of the target rows are unknown, "
            "and a column of labels in the target is not read unasked. Pass `target_predictions=` (class numbers or "
            "logits), or for evaluation `target_labels=`."
        )
    predictions = np.asarray(predictions)
    return (predictions.argmax(-1) if predictions.ndim == 2 else predictions), "predictions"


def _spread(members: Sequence[np.ndarray]) -> float:
    total = sum(float(((rows - rows.mean(0, dtype=np.float64)) ** 2).sum()) for rows in members if len(rows))
    return float(np.sqrt(total / sum(map(len, members))))


def _check(known: ProbeRows, told: ProbeRows) -> None:
    for name, rows in (("source", known), ("target", told)):
        if rows.task not in ("single_label", "token"):
            raise ValueError(
                f"The labels of the {name} are of the task `{rows.task}`: rows are of no one class, and there is no "
                "shift by class. Pass one class number for each row."
            )
        check_finite(rows.features, name)
    if known.features.shape[1] != told.features.shape[1]:
        raise ValueError(
            f"The source has features of width {known.features.shape[1]}, the target of width "
            f"{told.features.shape[1]}: they are of two models or layers, and a distance between them means nothing. "
            "Extract both with one model and the same taps."
        )
