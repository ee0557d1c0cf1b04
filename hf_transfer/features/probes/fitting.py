"""Fitting a probe to features: reading them, choosing among candidates, keeping what is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hf_transfer.features.probes.class_means import fit_class_means
from hf_transfer.features.probes.labelled_rows import ProbeRows, read_rows
from hf_transfer.features.probes.logistic import fit_logistic
from hf_transfer.features.probes.mlp import MLP_STRENGTHS, fit_mlp
from hf_transfer.features.probes.neighbours import METRICS, NEIGHBOURS, fit_neighbours
from hf_transfer.features.probes.probe import Probe
from hf_transfer.features.probes.ridge import RIDGE_STRENGTHS, fit_ridge
from hf_transfer.features.probes.training import STRENGTHS, Fitted, Training, no_sklearn, standardised


_OPTIONS = {
    "logistic": {"strengths": STRENGTHS},
    "ridge": {"strengths": RIDGE_STRENGTHS},
    "nearest_class_mean": {"shrinkages": (1.0,)},
    "knn": {"neighbours": NEIGHBOURS, "metrics": METRICS},
    "mlp": {"strengths": MLP_STRENGTHS, "hidden_size": 256, "epochs": 200, "patience": 10},
}
_FITS: dict[str, Callable[..., Fitted]] = {
    "logistic": fit_logistic,
    "ridge": fit_ridge,
    "nearest_class_mean": fit_class_means,
    "knn": fit_neighbours,
    "mlp": fit_mlp,
}
_SAMPLE = 64  # rows kept to check a folded head

__all__ = ["fit_probe"]


def fit_probe(
    features: Any,
    labels: Any = None,
    *,
    kind: str = "logistic",
    validation: Any = None,
    column: str = "features",
    task: str | None = None,
    label_names: Sequence[str] | None = None,
    strengths: Sequence[float] | None = None,
    shrinkages: Sequence[float] | None = None,
    neighbours: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    hidden_size: int | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    folds: int | None = None,
    seed: int = 0,
    standardize: bool = True,
    intercept: bool = True,
) -> Probe:
    r"""
    Fit a probe to cached features: a small model that reads the frozen one's answer off its features.

    The candidates of a kind are judged on rows that were held out: those of `validation`, or else folds with equal
    shares of the classes; for ridge regression and neighbours each row is left out in turn, in closed form. The best
    accuracy (micro F1 of several labels, squared error of a regression) wins, of equals the lowest log loss, of those
    the strongest regularisation. Tokens of one example, and its views, are held out together.

    Args:
        features (`datasets.Dataset` or array):
            What `extract_features` returns, or `(N, D)`; `(N, T, D)` or a list of `(T, D)` for tokens.
        labels (array, *optional*):
            Needed for arrays: class numbers or names `(N,)`; 0 and 1 `(N, C)` for several labels a row; real values
            `(N,)` or `(N, K)`; a list for each row of tokens. By default the column `labels`. Rows labelled -100 are
            left out.
        kind (`str`, *optional*, defaults to `"logistic"`):
            `logistic` regression; `ridge` regression, for classes as least squares on 1 and -1; `nearest_class_mean`;
            `knn`, the nearest neighbours; `mlp`, a network with one hidden layer. The first three are linear and can
            be folded into a model.
        validation (`datasets.Dataset` or `(features, labels)`, *optional*):
            Labelled rows to choose by; nothing is fitted to them.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set, such as `"block.3"`.
        task (`str`, *optional*):
            `single_label`, `multi_label`, `regression` or `token`; by default told from the labels.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number; by default those of the data set.
        strengths (`Sequence[float]`, *optional*):
            Inverse regularisation strengths to choose from (dimensionless): `C` of a logistic regression, 1e-4 to
            100; 1 / penalty of a ridge regression, 1e-6 to 100; 1 / weight decay of a network, 1e4.
        shrinkages (`Sequence[float]`, *optional*, defaults to `(1.0,)`):
            Of the covariance by which distances to class means are measured, in [0, 1]; 1 is the Euclidean distance.
        neighbours (`Sequence[int]`, *optional*, defaults to `(1, 3, 5, 10, 20, 50)`):
            How many neighbours vote.
        metrics (`Sequence[str]`, *optional*, defaults to `("cosine", "euclidean")`):
            Distances of neighbours.
        hidden_size (`int`, *optional*, defaults to 256):
            Width of the network's hidden layer.
        epochs (`int`, *optional*, defaults to 200):
            Most passes over the rows for a network.
        patience (`int`, *optional*, defaults to 10):
            Passes without a better one after which a network stops.
        folds (`int`, *optional*):
            Of the cross-validation; 5 below 5,000 rows, 3 from there on. Given, ridge regression and neighbours use
            folds too.
        seed (`int`, *optional*, defaults to 0):
            Of the folds, and of a network.
        standardize (`bool`, *optional*, defaults to `True`):
            Whether each feature is brought to mean 0 and deviation 1; one that does not vary is left at its scale.
        intercept (`bool`, *optional*, defaults to `True`):
            Whether there is a constant term, for which the features are centred too. Without one the probe fits into
            a head that has no bias, such as those of decoders.

    Degenerate batches:
        Where nothing can be held out (one row of each class), the middle candidate is taken. A class without any row
        is never the answer of a linear probe.

    Raises:
        ValueError: if no row has a label or all have the same; if the labels do not fit the features, the task or the
            kind; if an option belongs to another kind.
        ImportError: if scikit-learn is not installed.

    Relations:
        [`fit_head`] extracts, fits and folds in one call. [`FreezeBackbone`] trains the head by gradient descent,
        with augmentation and any objective.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> features = np.eye(3)[labels] + 0.1 * generator.standard_normal((60, 3))
        >>> probe = fit_probe(features, labels, kind="ridge", label_names=["ant", "bee", "fly"])
        >>> probe.score(features, labels)["accuracy"]
        1.0
    """
    given = {
        "strengths": strengths,
        "shrinkages": shrinkages,
        "neighbours": neighbours,
        "metrics": metrics,
        "hidden_size": hidden_size,
        "epochs": epochs,
        "patience": patience,
    }
    options = _options(kind, {name: value for name, value in given.items() if value is not None})
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise no_sklearn() from error
    rows = read_rows(features, labels, column=column, task=task, label_names=label_names)
    held = None
    if validation is not None:
        pair = validation if isinstance(validation, tuple) else (validation, None)
        held = read_rows(*pair, column=column, task=rows.task, label_names=rows.label_names or None)
    training, mean, scale = _training(rows, held, standardize=standardize, intercept=intercept, folds=folds, seed=seed)
    _check(training, rows, kind)
    fitted = _FITS[kind](training, **options)
    places = np.linspace(0, len(rows.features) - 1, min(_SAMPLE, len(rows.features))).astype(np.int64)
    return Probe(
        strength=fitted.strength,
        scores=fitted.scores,
        rows=training.rows,
        kind=kind,
        task=rows.task,
        label_names=rows.label_names,
        mean=mean,
        scale=scale,
        arrays=fitted.arrays,
        settings={**fitted.settings, "classes": training.classes, "intercept": intercept},
        column=column,
        sample=rows.features[places].astype(np.float32),
    )


def _options(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    if kind not in _OPTIONS:
        raise ValueError(
            f"There is no probe of the kind `{kind}`: nothing would be fitted. Pass one of {', '.join(_OPTIONS)}."
        )
    known = _OPTIONS[kind]
    foreign = sorted(given.keys() - known.keys())
    if foreign:
        raise ValueError(
            f"A probe of the kind `{kind}` has no {', '.join(foreign)}: it would have no effect. Its options are "
            f"{', '.join(known)}; leave the others out."
        )
    unknown = [metric for metric in given.get("metrics", ()) if metric not in METRICS]
    if unknown:
        raise ValueError(
            f"There is no metric `{unknown[0]}` for neighbours: which rows are near would not be told. Pass some of "
            f"{', '.join(METRICS)}."
        )
    for name, value in given.items():
        several = not isinstance(known[name], int)
        numbers = value if several else [value]
        low = name != "shrinkages"
        if not len(numbers) or (name != "metrics" and any(n < 0 or (low and n == 0) or n > 1 > low for n in numbers)):
            raise ValueError(
                f"`{name}={value}` is nothing to choose from or holds a number out of its range: it is "
                f"{'between 0 and 1' if not low else 'above 0'}. Leave it out for the default, {known[name]}."
            )
    return {**known, **given}


def _training(
    rows: ProbeRows, held: ProbeRows | None, *, standardize: bool, intercept: bool, folds: int | None, seed: int
) -> tuple[Training, np.ndarray, np.ndarray]:
    if held is not None and held.features.shape[1] != rows.features.shape[1]:
        raise ValueError(
            f"The rows for validation have features of width {held.features.shape[1]}, the others of "
            f"{rows.features.shape[1]}: they are of another model or tap. Extract both alike."
        )
    if held is not None and held.targets.shape[1:] != rows.targets.shape[1:]:
        raise ValueError(
            f"The rows for validation have {held.targets.shape[1:]} labels each, the others {rows.targets.shape[1:]}: "
            "they are of another task. Pass a split of the same data set."
        )
    if folds is not None and folds < 2:
        raise ValueError(
            f"`folds={folds}` holds nothing out: there would be nothing to choose by. Pass at least 2, or rows for "
            "`validation`."
        )
    inputs, mean, scale = standardised(rows, held, standardize=standardize, centred=intercept)
    targets = rows.targets if held is None else np.concatenate([rows.targets, held.targets])
    by_class = targets.ndim == 1
    training = Training(
        inputs,
        targets,
        rows=len(rows.targets),
        classes=(len(rows.label_names) or int(targets.max()) + 1) if by_class else targets.shape[1],
        labels="classes" if by_class else "several" if rows.task == "multi_label" else "values",
        groups=rows.groups,
        intercept=intercept,
        folds=folds,
        seed=seed,
    )
    return training, mean, scale


def _check(training: Training, rows: ProbeRows, kind: str) -> None:
    if training.labels == "classes" and len(np.unique(rows.targets)) < 2:
        raise ValueError(
            f"All {len(rows.targets)} labelled rows are of one class: any head that always answers it is perfect. "
            "Give rows of every class."
        )
    if training.labels == "values" and kind == "logistic":
        raise ValueError(
            "The labels are real values, and a logistic regression predicts classes: it cannot be fitted to them. "
            'Pass `kind="ridge"`, "knn" or "mlp".'
        )
    if kind == "nearest_class_mean" and (training.labels != "classes" or not training.intercept):
        what = "needs a constant term" if training.labels == "classes" else "needs rows of one class each"
        raise ValueError(
            f"The nearest class mean {what}: a distance to each class cannot be told otherwise. Pass "
            f'`kind="{"ridge" if training.labels == "values" else "logistic"}"`.'
        )
