"""Importance weights of source rows, by the method of choice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import numpy as np

from hf_transfer.features.reweighting.domain_classifier import DomainClassifier
from hf_transfer.features.reweighting.feature_pairs import needs_libraries, read_pair, standardised_pair
from hf_transfer.features.reweighting.kernel_mean_matching import kernel_mean_matching
from hf_transfer.features.reweighting.kliep import kliep
from hf_transfer.features.reweighting.mean_one import as_weights, report
from hf_transfer.features.reweighting.nearest_neighbour import nearest_neighbour
from hf_transfer.features.reweighting.ulsif import ulsif


_RATIOS: dict[str, Callable[..., np.ndarray]] = {
    "kmm": kernel_mean_matching,
    "kliep": kliep,
    "ulsif": ulsif,
    "nearest_neighbour": nearest_neighbour,
}
METHODS = ("domain_classifier", *_RATIOS)
"""What `importance_weights` knows."""

__all__ = ["METHODS", "importance_weights"]


def importance_weights(
    source: Any,
    target: Any,
    *,
    method: str = "domain_classifier",
    clip: float | None = 0.99,
    seed: int = 0,
    column: str = "features",
    **options: Any,
) -> np.ndarray:
    r"""
    Weights of mean 1 under which the source rows are distributed as the target's: $w_i \propto p_t(x_i) / p_s(x_i)$.

    Labels are not read. The weights correct a covariate shift, where $p(y \mid x)$ is the same in both domains.

    Args:
        source (`datasets.Dataset` or array):
            What `extract_features` returned, or `(n_s, D)`.
        target (`datasets.Dataset` or array):
            Alike, `(n_t, D)`.
        method (`str`, *optional*, defaults to `"domain_classifier"`):
            `domain_classifier`: the odds of a logistic regression that never saw the row ([`DomainClassifier`]; the
            default, and the one for features of hundreds of dimensions). `kmm`: kernel mean matching. `kliep` and
            `ulsif`: a sum of kernels, by likelihood and by least squares. `nearest_neighbour`: how many target rows a
            source row is the nearest to.
        clip (`float`, *optional*, defaults to 0.99):
            Quantile of the ratios at which they are cut off before they are brought to mean 1, in (0, 1]; `None` cuts
            nothing.
        seed (`int`, *optional*, defaults to 0):
            Of folds, centres and chunks.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        **options:
            Of the method: `strengths`, `folds` of `domain_classifier`; `bandwidth`, `bound`, `tolerance`, `chunk` of
            `kmm`; `scales`, `centres` of `kliep` and `ulsif`, `folds` of the first, `penalties` of the second; `k` of
            `nearest_neighbour`.

    Shape:
        - returns: `(n_s,)` float64, dimensionless, 0 or more, of mean 1, in the order of the rows.

    Degenerate batches:
        All weights are 1 where the method gives no row any weight.

    Raises:
        ValueError: if the method or an option is unknown or out of range; if the features do not fit each other.
        ImportError: if scikit-learn is not installed.

    Relations:
        [`reweight`] extracts the features and adds the weights to a data set. [`label_shift_weights`] is for domains
        that differ in how frequent the classes are. All methods but `domain_classifier` standardise the features over
        both domains and measure distances, which say little in many dimensions.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> source, target = generator.normal(0, 1, (200, 2)), generator.normal(1, 1, (100, 2))
        >>> weights = importance_weights(source, target)
        >>> near, far = source.sum(1) > 2, source.sum(1) < 0
        >>> round(float(weights.mean()), 6), bool(weights[near].mean() > weights[far].mean())
        (1.0, True)
    """
    _check(method, options)
    needs_libraries("Importance weighting")
    if method == "domain_classifier":
        ratio = DomainClassifier(seed=seed, column=column, **options).fit(source, target).source_ratio
    else:
        rows = standardised_pair(*read_pair(source, target, column=column)[:2])
        seeded = {} if method == "nearest_neighbour" else {"seed": seed}
        ratio = _RATIOS[method](*rows, **seeded, **options)
    weights = as_weights(ratio, clip=clip)
    report(weights, method)
    return weights


def _check(method: str, options: dict[str, Any]) -> None:
    if method not in METHODS:
        near = get_close_matches(str(method), METHODS, 1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        raise ValueError(
            f"There is no weighting method `{method}`: no weights would be computed. Pass one of "
            f"{', '.join(METHODS)}.{meant}"
        )
    known = inspect.signature(DomainClassifier if method == "domain_classifier" else _RATIOS[method]).parameters
    names = [name for name in known if name not in ("source", "target", "seed", "column")]
    foreign = sorted(options.keys() - set(names))
    if foreign:
        raise ValueError(
            f"`{method}` has no option {', '.join(foreign)}: it would have no effect. Its options are "
            f"{', '.join(names)}; leave the others out."
        )
