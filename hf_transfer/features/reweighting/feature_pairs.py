"""Source and target features as two matrices that fit each other, and their scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_transfer.features.probes.labelled_rows import read_features


__all__ = ["needs_libraries", "read_matrix", "read_pair", "standardised_pair"]


def needs_libraries(what: str) -> None:
    """
    Check that scikit-learn and scipy are there.

    Raises:
        ImportError: if they are not.
    """
    try:
        import scipy  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{what} needs scikit-learn and scipy, which are not installed: there is nothing to compute the weights "
            'with. Run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error


def read_matrix(features: Any, *, column: str = "features", name: str = "source") -> tuple[np.ndarray, Any]:
    """
    One vector a row, and the example of each row where an example has several (its views); `None` otherwise.

    Args:
        features (`datasets.Dataset` or array): what `extract_features` returned, or `(N, D)`.
        column (`str`, *optional*, defaults to `"features"`): which features of a data set.
        name (`str`, *optional*, defaults to `"source"`): what error messages call them.

    Raises:
        ValueError: if there is no row, a row has a vector for each token, or a number is not finite.
    """
    table, sizes, groups = read_features(features, column=column)
    if sizes is not None:
        raise ValueError(
            f"The {name} features hold a vector for each token: a weight belongs to an example, and examples differ "
            'in length. Extract them with `pooling="mean"`, or give one vector a row.'
        )
    if not len(table):
        raise ValueError(
            f"The {name} has no rows of features: there is nothing to compare. Check the split and the filters it "
            "went through."
        )
    if not np.isfinite(table).all():
        raise ValueError(
            f"The {name} features hold numbers that are not finite: no distance or density can be computed from them. "
            "Check the model for overflow in half precision, or leave these rows out."
        )
    return table, groups


def read_pair(source: Any, target: Any, *, column: str = "features") -> tuple[np.ndarray, np.ndarray, Any, Any]:
    """
    The features of both, and the examples their rows belong to, as [`read_matrix`] gives them.

    Raises:
        ValueError: as [`read_matrix`]; if the features of the two differ in width.
    """
    source_rows, source_groups = read_matrix(source, column=column, name="source")
    target_rows, target_groups = read_matrix(target, column=column, name="target")
    if source_rows.shape[1] != target_rows.shape[1]:
        raise ValueError(
            f"The source features have width {source_rows.shape[1]}, the target's {target_rows.shape[1]}: they are of "
            "different models or taps. Extract both with the same model and the same `taps`."
        )
    return source_rows, target_rows, source_groups, target_groups


def standardised_pair(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Both in float64, every feature with mean 0 and deviation 1 over the rows of both; one that does not vary is 0.

    Example:
        >>> standardised_pair(np.array([[0.0, 7.0]]), np.array([[2.0, 7.0]]))
        (array([[-1.,  0.]]), array([[1., 0.]]))
    """
    both = np.concatenate([source, target]).astype(np.float64)
    mean, scale = both.mean(0), both.std(0)
    # the deviation of a constant is a rounding error of its size
    varies = scale > 1e-7 * np.maximum(np.abs(both).max(0), np.finfo(np.float64).tiny)
    both = np.where(varies, (both - mean) / np.where(varies, scale, 1.0), 0.0)
    return both[: len(source)], both[len(source) :]
