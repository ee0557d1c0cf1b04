"""The terms of Ben-David's bound on the error in the target domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.diagnostics.a_distance import ADistance
from hf_transfer.diagnostics.domain_rows import DomainRows, check_finite, split_examples
from hf_transfer.diagnostics.linear_fit import fit_linear
from hf_transfer.features.probes.labelled_rows import ProbeRows, read_rows


__all__ = ["DomainBound", "domain_bound"]


@dataclass(frozen=True)
class DomainBound:
    """
    The terms of the bound; made by [`domain_bound`].

    Args:
        source_error (`float`): share of source rows that are classified wrongly.
        half_distance (`float`): half the proxy A-distance, in [0, 1].
        joint_error (`float`, *optional*): the third term, `lambda`: error in source plus error in target of one
            classifier that was fitted to both; `None` where it is unknown.

    Example:
        >>> print(DomainBound(0.05, 0.6))
        target error <= 0.050 (source error) + 0.600 (half the proxy A-distance) + lambda = 0.650 + lambda
        lambda, the joint error of the best classifier, is unknown: it takes target labels.
        >>> DomainBound(0.05, 0.25, 0.125).total
        0.425
    """

    source_error: float
    half_distance: float
    joint_error: float | None = None

    @property
    def known(self) -> float:
        """The sum of the first two terms."""
        return self.source_error + self.half_distance

    @property
    def total(self) -> float | None:
        """The sum of all terms; `None` where the third is unknown."""
        return None if self.joint_error is None else self.known + self.joint_error

    def __str__(self) -> str:
        terms = f"target error <= {self.source_error:.3f} (source error) + {self.half_distance:.3f} (half the proxy "
        if self.joint_error is None:
            lines = [f"{terms}A-distance) + lambda = {self.known:.3f} + lambda"]
            lines.append("lambda, the joint error of the best classifier, is unknown: it takes target labels.")
        else:
            lines = [f"{terms}A-distance) + {self.joint_error:.3f} (lambda) = {self.known + self.joint_error:.3f}"]
        if self.known + (self.joint_error or 0.0) >= 1:
            lines.append("It says nothing: every error is at most 1.")
        return "\n".join(lines)


def domain_bound(
    source_error: float,
    distance: float | ADistance,
    *,
    source: Any = None,
    target: Any = None,
    source_labels: Any = None,
    target_labels: Any = None,
    column: str = "features",
    held_out: float = 0.5,
    seed: int = 0,
) -> DomainBound:
    r"""
    The terms of Ben-David's bound on the target error, with the proxy A-distance for the divergence.

    $$ \varepsilon_T(h) \le \varepsilon_S(h) + \tfrac{1}{2} d_{\mathcal{H} \Delta \mathcal{H}} + \lambda, \qquad
       \lambda = \min_{h'} \varepsilon_S(h') + \varepsilon_T(h') $$

    $\lambda$ is how well one classifier could do in both domains. It takes target labels: without `target_labels` it
    is said to be unknown. With them it is estimated by a logistic regression fitted to one part of both domains, whose
    errors on the other part are added.

    This is a reading of terms, not a guarantee: the proxy is below the divergence the bound speaks of, the terms for a
    finite sample are left out, and the bound is loose. What it shows is which term is large: the source error (train
    longer), the distance (align), or $\lambda$ (no alignment helps, classes do not correspond).

    Args:
        source_error (`float`):
            Error on held-out source rows, in [0, 1].
        distance (`float` or [`ADistance`]):
            Proxy A-distance, in [0, 2].
        source (`datasets.Dataset` or array, *optional*):
            Features of the source, for $\lambda$.
        target (`datasets.Dataset` or array, *optional*):
            Features of the target, for $\lambda$. Its column of labels is not read.
        source_labels (array, *optional*):
            By default the column `labels` of the source.
        target_labels (array, *optional*):
            Class numbers of the target rows, for evaluation.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        held_out (`float`, *optional*, defaults to 0.5):
            Share of the examples of each domain that the errors of $\lambda$ are measured on.
        seed (`int`, *optional*, defaults to 0):
            Of the split.

    Shape:
        - returns [`DomainBound`]; all terms dimensionless.

    Deviations from the paper:
        The divergence is that of linear classifiers of the domain, not of their symmetric differences.

    Raises:
        ValueError: if an error or distance is out of range; if target labels come without features of both domains; if
            a domain has fewer than 4 labelled examples.

    Relations:
        [`proxy_a_distance`] gives the distance.

    Example:
        >>> domain_bound(0.1, 1.5).known
        0.85

    Paper: Ben-David et al., "A theory of learning from different domains", Machine Learning 2010,
    https://doi.org/10.1007/s10994-009-5152-4
    """
    value = float(distance)
    for name, number, highest in (("source_error", source_error, 1), ("distance", value, 2)):
        if not 0 <= number <= highest:
            raise ValueError(
                f"`{name}={number}` is outside [0, {highest}]: the terms of the bound are shares of rows. Give the "
                "error as 1 - accuracy, and the distance as `proxy_a_distance` returns it."
            )
    if target_labels is None:
        return DomainBound(float(source_error), value / 2)
    if source is None or target is None:
        raise ValueError(
            "`target_labels` were given without features of both domains: the joint error is that of a classifier "
            "which is fitted to both. Pass `source=` and `target=` too."
        )
    known = read_rows(source, source_labels, column=column)
    told = read_rows(target, target_labels, column=column, label_names=known.label_names or None)
    return DomainBound(float(source_error), value / 2, _joint_error([known, told], held_out, seed))


def _joint_error(domains: list[ProbeRows], held_out: float, seed: int) -> float:
    generator = np.random.default_rng(seed)
    fit, held = [], []
    for name, rows in zip(("source", "target"), domains, strict=True):
        examples = DomainRows(rows.features, rows.groups).examples
        if rows.task not in ("single_label", "token") or examples.max() < 3:
            raise ValueError(
                f"The {name} has {examples.max() + 1} labelled examples of the task `{rows.task}`: the joint error is "
                "that of a classifier, and takes 4 of each domain at least. Pass class numbers for more rows, or "
                "leave `target_labels` out."
            )
        check_finite(rows.features, name)
        own, other = split_examples(examples, held_out, generator)
        fit.append((rows.features[own], rows.targets[own], examples[own]))
        held.append((rows.features[other], rows.targets[other]))
    # both domains count alike in lambda: the smaller is repeated, copies of a row in one fold
    most = max(len(labels) for _, labels, _ in fit)
    repeated = [[column[np.resize(np.arange(len(part[1])), most)] for column in part] for part in fit]
    repeated[1][2] = repeated[1][2] + repeated[0][2].max() + 1
    features, labels, groups = (np.concatenate(columns) for columns in zip(*repeated, strict=True))
    fitted = fit_linear(features, labels, groups, seed=seed)
    return float(sum((fitted.logits(rows).argmax(1) != labels).mean() for rows, labels in held))
