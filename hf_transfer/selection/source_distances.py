"""The distances of several sources from one target, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hf_transfer.selection.distance import DomainDistance, checked_domains, measured
from hf_transfer.selection.task_embeddings import task_embedding


ORDERS = ("frechet", "a_distance", "mmd", "task")
"""What several sources can be sorted by."""

__all__ = ["ORDERS", "compare_domains", "distance_table"]


def compare_domains(
    sources: Mapping[str, Any],
    target_features: Any,
    *,
    source_labels: Mapping[str, Any] | None = None,
    target_labels: Any = None,
    by: Literal["frechet", "a_distance", "mmd", "task"] = "frechet",
    column: str = "features",
    seed: int = 0,
    max_rows: int = 2000,
    figure: bool = True,
) -> dict[str, DomainDistance]:
    """
    The distances of several sources from one target, the nearest first.

    Every source is cut to the size of the smallest, as the Frechet distance grows when rows get fewer.

    Args:
        sources (`Mapping[str, Any]`):
            Features of each source by its name, by the same model as the target's.
        target_features (`datasets.Dataset`, array or list of arrays):
            Of the target.
        source_labels (`Mapping[str, Any]`, *optional*):
            Class numbers by the name of the source; sources may be left out.
        target_labels (array, *optional*):
            Class numbers of the target.
        by (`str`, *optional*, defaults to `"frechet"`):
            What to sort by: `"frechet"`, which has no upper end; `"a_distance"` is 2 for all sources that are told
            apart; `"mmd"` has kernels of other widths for each source; `"task"` needs labels, sources without are
            last.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        seed (`int`, *optional*, defaults to 0):
            Of all draws.
        max_rows (`int`, *optional*, defaults to 2000):
            Most rows of each domain.
        figure (`bool`, *optional*, defaults to `True`):
            Whether to keep what `plot` draws.

    Returns:
        `dict[str, DomainDistance]`: by name, the nearest first; equal ones by name.

    Raises:
        ValueError: if there is no source, labels are of no source, or `by` is unknown or needs labels that are not
            there; as [`domain_distance`] does.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> target, near, far = generator.normal(size=(3, 40, 4))
        >>> list(compare_domains({"far": far + 2, "near": near + 0.5}, target))
        ['near', 'far']
    """
    labels = dict(source_labels or {})
    _check(sources, labels, target_labels, by)
    smallest = max_rows
    for features in sources.values():
        source, _ = checked_domains(features, target_features, column, max_rows)
        smallest = min(smallest, int(source.examples.max()) + 1)
    embedding = None
    if labels and target_labels is not None:
        embedding = task_embedding(target_features, target_labels, column=column, max_rows=max_rows, seed=seed)
    found = {
        name: measured(
            features,
            target_features,
            labels.get(name),
            embedding,
            column=column,
            seed=seed,
            max_rows=max_rows,
            source_rows=smallest,
            figure=figure,
        )
        for name, features in sources.items()
    }

    def key(name: str) -> tuple[bool, float, str]:
        value = found[name].as_dict()[by]
        return value is None, value or 0.0, name

    return {name: found[name] for name in sorted(found, key=key)}


def distance_table(distances: Mapping[str, DomainDistance]) -> str:
    """
    The distances of several sources as Markdown, in the order given.

    Args:
        distances (`Mapping[str, DomainDistance]`): what [`compare_domains`] returned.
    """
    lines = ["| source | A-distance | MMD^2 | p | Frechet | by chance | task |", "|---|---|---|---|---|---|---|"]
    for name, found in distances.items():
        low, high = found.a_distance.interval
        cells = [
            f"{found.a_distance.distance:.3f} [{low:.3f}, {high:.3f}]",
            f"{found.mmd.mmd:.4f}",
            f"{found.mmd.p_value:.3g}",
            f"{found.frechet:.4g}",
            f"{found.frechet_by_chance:.4g}",
            "" if found.task is None else f"{found.task:.3f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _check(sources: Mapping[str, Any], labels: Mapping[str, Any], target_labels: Any, by: str) -> None:
    if not sources:
        raise ValueError("No source was given, so there is nothing to compare. Pass `{name: features}`.")
    unknown = sorted(set(labels) - set(sources))
    if unknown:
        raise ValueError(
            f"There are labels of {', '.join(unknown)}, but sources {', '.join(sources)}: they would be dropped. Use "
            "the same names in `sources` and `source_labels`."
        )
    if by not in ORDERS:
        raise ValueError(
            f'by="{by}" is no distance: sources cannot be sorted by it. Choose one of {", ".join(ORDERS)}.'
        )
    if by == "task" and (not labels or target_labels is None):
        raise ValueError(
            'by="task" was given without labels of the target and a source: there is no embedding to compare. Pass '
            '`source_labels=` and `target_labels=`, or `by="frechet"`.'
        )
