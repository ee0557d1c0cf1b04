"""The proxy A-distance: how well a linear classifier tells two domains apart on rows it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.diagnostics.domain_rows import DomainRows, drawn, read_domains, split_examples
from hf_transfer.diagnostics.linear_fit import fit_linear
from hf_transfer.features.probes.training import STRENGTHS


__all__ = ["ADistance", "proxy_a_distance"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class ADistance:
    """
    A proxy A-distance; made by [`proxy_a_distance`].

    Args:
        distance (`float`): in [0, 2]: 0 if the domains cannot be told apart, 2 if they always can.
        interval (`tuple[float, float]`): where it lies at the given confidence, in [0, 2].
        error (`float`): share of the held-out rows whose domain was told wrongly.
        raw (`float`): the distance before it is clamped: below 0 where the classifier does worse than chance.
        train_rows (`int`): rows of each domain that the classifier was fitted to.
        held_out_rows (`int`): rows of each domain that the error is of.
        strength (`float`): chosen inverse regularisation strength `C` of the classifier.
        confidence (`float`): of the interval.

    Example:
        >>> print(ADistance(1.5, (1.3, 1.7), error=0.125, raw=1.5, train_rows=80, held_out_rows=80, strength=0.1))
        proxy A-distance 1.500 (95% interval 1.300 to 1.700; domain told wrongly for 12.5% of 2 x 80 held-out rows)
    """

    distance: float
    interval: tuple[float, float]
    error: float
    raw: float
    train_rows: int
    held_out_rows: int
    strength: float
    confidence: float = 0.95

    def __float__(self) -> float:
        return self.distance

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"proxy A-distance {self.distance:.3f} ({self.confidence:.0%} interval {low:.3f} to {high:.3f}; domain "
            f"told wrongly for {self.error:.1%} of 2 x {self.held_out_rows} held-out rows)"
        )


def proxy_a_distance(
    source: Any,
    target: Any,
    *,
    column: str = "features",
    held_out: float = 0.5,
    strengths: Sequence[float] = STRENGTHS,
    max_rows: int | None = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ADistance:
    r"""
    Proxy A-distance (PAD): how far apart two domains are for a linear classifier, from its error on held-out rows.

    $$ \hat d_A = \max\bigl(0,\; 2 (1 - 2 \varepsilon)\bigr) $$

    where $\varepsilon$ is the error of a logistic regression that tells source from target, on rows it was not fitted
    to, both domains in equal numbers. The fit sees one part of the rows only: their mean and scale standardise the
    features, and cross-validation among them chooses the regularisation. So features of any width that hold nothing of
    the domain give about 0.

    The interval is that of the held-out error: exact binomial (Clopper and Pearson), or for tokens and views a
    bootstrap over examples, as rows of one example are not independent. It does not hold the chance of the split: see
    how far another `seed` is.

    Args:
        source (`datasets.Dataset`, array or list of arrays):
            What `extract_features` returns, or `(N, D)`; for tokens `(N, T, D)` or a list of `(T, D)`.
        target (`datasets.Dataset`, array or list of arrays):
            The same of the other domain. Labels are never read.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set, such as `"block.3"`.
        held_out (`float`, *optional*, defaults to 0.5):
            Share of the examples that the error is measured on, in (0, 1).
        strengths (`Sequence[float]`, *optional*):
            Inverse regularisation strengths `C` to choose from, on standardised features.
        max_rows (`int`, *optional*, defaults to 10000):
            Most rows of each domain; drawn at random if there are more. `None` for all.
        confidence (`float`, *optional*, defaults to 0.95):
            Of the interval, in (0, 1).
        seed (`int`, *optional*, defaults to 0):
            Of the draw and the split.

    Shape:
        - source: `(N, D)`, target: `(M, D)`. The larger domain is cut at random to the size of the smaller.
        - returns [`ADistance`]: a distance in [0, 2], dimensionless.

    Degenerate batches:
        Constant features give an error of one half and distance 0. Copies of a row in both parts are remembered, not
        told apart: drop them first.

    Deviations from the paper:
        A logistic regression on standardised features with held-out rows and an interval; published numbers come from
        linear classifiers of several kinds, some judged on the rows they were chosen by, and are higher.

    Raises:
        ValueError: if an option is out of range; if the widths differ, there are fewer than 4 examples of a domain, or
            a feature is not finite.
        ImportError: without scikit-learn.

    Relations:
        [`mmd_test`] tells whether domains differ at all, by more than their hyperplane. [`domain_bound`] puts the
        distance beside the source error.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> source, target = generator.normal(size=(200, 8)), generator.normal(size=(100, 8))
        >>> proxy_a_distance(source, target).distance < 0.5, proxy_a_distance(source, target + 9).distance
        (True, 2.0)

    Paper: Ben-David et al., "Analysis of Representations for Domain Adaptation", NIPS 2006; in this form Ganin et al.,
    "Domain-Adversarial Training of Neural Networks", JMLR 2016, https://huggingface.co/papers/1505.07818
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence={confidence}` is outside (0, 1): no interval holds every value or none. Give a share such "
            "as 0.95."
        )
    domains = read_domains(source, target, column=column, who="the proxy A-distance", least=4)
    generator = np.random.default_rng(seed)
    # split before rows are drawn: no draw then leaves a part without examples
    parts = [[rows.take(part) for part in split_examples(rows.examples, held_out, generator)] for rows in domains]
    shares = (1 - held_out, held_out)
    fits, helds = (_balanced([part[side] for part in parts], max_rows, shares[side], generator) for side in (0, 1))
    grouped = any(rows.groups is not None for rows in fits)
    fitted = fit_linear(
        np.concatenate([rows.features for rows in fits]),
        np.repeat([0, 1], [len(rows) for rows in fits]),
        _joint_examples(fits) if grouped else None,
        strengths=strengths,
        seed=seed,
    )
    wrong = []
    for number, rows in enumerate(helds):
        logits = fitted.logits(rows.features)
        score = logits[:, 1] - logits[:, 0]
        told = score > 0 if number == 0 else score < 0
        wrong.append(np.where(score == 0, 0.5, told))  # half right: a draw would depend on which domain is called 0
    error = float((wrong[0].mean() + wrong[1].mean()) / 2)
    low, high = _interval(wrong, helds, confidence, generator)
    raw = 2 * (1 - 2 * error)
    return ADistance(
        distance=_clamped(raw),
        interval=(_clamped(2 * (1 - 2 * high)), _clamped(2 * (1 - 2 * low))),
        error=error,
        raw=raw,
        train_rows=len(fits[0]),
        held_out_rows=len(helds[0]),
        strength=fitted.strength,
        confidence=confidence,
    )


def _clamped(distance: float) -> float:
    return float(min(max(distance, 0.0), 2.0))


def _balanced(
    domains: Sequence[DomainRows], max_rows: int | None, share: float, generator: np.random.Generator
) -> list[DomainRows]:
    """As many rows of one domain as of the other, and at most this share of `max_rows`."""
    size = min(map(len, domains))
    size = size if max_rows is None else min(size, max(round(share * max_rows), 2))
    return [rows.take(drawn(len(rows), size, generator)) for rows in domains]


def _joint_examples(domains: Sequence[DomainRows]) -> np.ndarray:
    """Numbers of the examples of both domains, none of them twice."""
    first, second = (rows.examples for rows in domains)
    return np.concatenate([first, second + first.max() + 1])


def _interval(
    wrong: Sequence[np.ndarray], domains: Sequence[DomainRows], confidence: float, generator: np.random.Generator
) -> tuple[float, float]:
    """Of the error."""
    tail = (1 - confidence) / 2
    if all(rows.groups is None for rows in domains):
        from scipy.stats import beta

        count = sum(map(len, wrong))
        errors = float(sum(part.sum() for part in wrong))
        low = float(beta.ppf(tail, errors, count - errors + 1)) if errors > 0 else 0.0
        high = float(beta.ppf(1 - tail, errors + 1, count - errors)) if errors < count else 1.0
        return low, high
    resampled = np.zeros(_RESAMPLES)
    for part, rows in zip(wrong, domains, strict=True):
        sizes, sums = np.bincount(rows.examples), np.bincount(rows.examples, weights=part)
        times = generator.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=_RESAMPLES)
        resampled += (times @ sums) / (times @ sizes) / 2
    return float(np.quantile(resampled, tail)), float(np.quantile(resampled, 1 - tail))
