"""TrAdaBoost: source rows lose weight where they mislead on a few labelled target rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_transfer.features.probes.labelled_rows import ProbeRows, read_rows
from hf_transfer.features.reweighting.feature_pairs import needs_libraries, read_matrix, read_pair
from hf_transfer.features.reweighting.mean_one import as_weights, report
from hf_transfer.functional.task_loss import UNLABELLED


_SMALLEST = 1e-10  # error of a round: at 0 the weights of its mistakes would be infinite

__all__ = ["InstanceTransfer", "has_label", "tradaboost"]


@dataclass(frozen=True, eq=False)
class InstanceTransfer:
    """
    What [`tradaboost`] fitted.

    Args:
        source_weights (`np.ndarray`): `(n_s,)` float64 of mean 1, what is left of each source row after the last
            round; 1 for rows without a label.
        target_weights (`np.ndarray`): `(n_t,)` float64 of mean 1; large where a target row is hard.
        errors (`tuple[float, ...]`): of each round, on the target rows as they were weighted in it.
        betas (`tuple[float, ...]`): $\beta_t$ of each round; a round votes with log 1 / beta.
        classes (`np.ndarray`): the class numbers that occur.
        estimators (`Sequence`): the classifier of each round.
    """

    source_weights: np.ndarray = field(repr=False)
    target_weights: np.ndarray = field(repr=False)
    errors: tuple[float, ...]
    betas: tuple[float, ...]
    classes: np.ndarray
    estimators: Sequence[Any] = field(repr=False)
    column: str = "features"

    def predict(self, features: Any) -> np.ndarray:
        """
        Class numbers `(N,)`, by the votes of the second half of the rounds.

        Args:
            features (`datasets.Dataset` or array): as for [`tradaboost`].
        """
        rows = np.asarray(read_matrix(features, column=self.column, name="given")[0], np.float64)
        votes = np.zeros((len(rows), len(self.classes)))
        for number in range(len(self.estimators) // 2, len(self.estimators)):
            predicted = np.searchsorted(self.classes, self.estimators[number].predict(rows))
            votes[np.arange(len(rows)), predicted] -= np.log(self.betas[number])
        return self.classes[votes.argmax(1)]


def tradaboost(
    source: Any,
    target: Any,
    labels_source: Any = None,
    labels_target: Any = None,
    *,
    rounds: int = 20,
    estimator: Any = None,
    column: str = "features",
) -> InstanceTransfer:
    r"""
    Boost on source rows and a few labelled target rows at once: weights of target rows that are answered wrongly grow,
    as in AdaBoost, those of source rows shrink, as they mislead.

    In round $t$ a classifier is fitted to all rows with weights $p \propto w$. With $\epsilon_t$ its weighted error on
    the target rows, and $N$ rounds,

    $$ \beta_t = \frac{\epsilon_t}{(1 - \epsilon_t)(C - 1)}, \qquad
       \beta = \frac{1}{1 + \sqrt{2 \ln n_s / N}} $$

    a wrong source row is multiplied by $\beta$ and a wrong target row divided by $\beta_t$. The second half of the
    rounds votes, each with $\ln 1 / \beta_t$.

    Args:
        source (`datasets.Dataset` or array):
            What `extract_features` returned, or `(n_s, D)`.
        target (`datasets.Dataset` or array):
            The labelled target rows, alike, `(n_t, D)`. A few for each class are enough.
        labels_source (array, *optional*):
            `(n_s,)` class numbers; by default the column of the data set. Rows labelled -100 take no part.
        labels_target (array, *optional*):
            Alike.
        rounds (`int`, *optional*, defaults to 20):
            $N$, at most; the paper takes 100, at which most source rows have lost their weight.
        estimator (scikit-learn classifier, *optional*):
            What is boosted; its `fit` takes `sample_weight`. By default a logistic regression of `C` 1 on standardised
            features.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of data sets.

    Degenerate batches:
        A round that is no better than chance on the target ends the boosting and does not count; if it is the first,
        its classifier answers alone and the weights stay 1.

    Deviations from the paper:
        $C - 1$ in $\beta_t$, as in SAMME, so that more than two classes can be boosted while a round is better than
        chance; with two it is the paper's. An error of 0 counts as 1e-10.

    Raises:
        ValueError: if labels are missing, are not one class a row or all the same; if the features do not fit each
            other; if `rounds` is below 1.
        TypeError: if the estimator takes no `sample_weight`.
        ImportError: if scikit-learn is not installed.

    Relations:
        It reads target labels, where [`importance_weights`] and [`label_shift_weights`] need none.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> source, target = generator.normal(0, 1, (80, 1)), generator.normal(0, 1, (20, 1))
        >>> labels = (source[:, 0] > 0).astype(int)
        >>> labels[60:] = 1 - labels[60:]  # a quarter of the source says the opposite
        >>> boosted = tradaboost(source, target, labels, (target[:, 0] > 0).astype(int))
        >>> bool(boosted.source_weights[:60].mean() > 10 * boosted.source_weights[60:].mean())
        True

    Paper: Dai et al., "Boosting for Transfer Learning", ICML 2007
    """
    if rounds < 1:
        raise ValueError(f"`rounds={rounds}`: no classifier would be fitted. Give 1 or more, such as the default 20.")
    needs_libraries("TrAdaBoost")
    all_source, all_target, *_ = read_pair(source, target, column=column)
    rows = _labelled_rows(source, target, labels_source, labels_target, column)
    inputs = np.concatenate([part.features for part in rows]).astype(np.float64)
    labels = np.concatenate([part.targets for part in rows])
    is_target = np.repeat([False, True], [len(part.targets) for part in rows])
    classes = np.unique(labels)
    chance = 1 - 1 / len(classes)
    shrink = 1 / (1 + np.sqrt(2 * np.log((~is_target).sum()) / rounds))
    weights = np.ones(len(inputs))
    estimators: list[Any] = []
    errors: list[float] = []
    betas: list[float] = []
    for _ in range(rounds):
        fitted = _fitted(estimator, inputs, labels, weights)
        wrong = fitted.predict(inputs) != labels
        error = float(weights[is_target & wrong].sum() / weights[is_target].sum())
        if error >= chance and estimators:
            break
        beta = max(error, _SMALLEST) / ((1 - min(error, chance)) * (len(classes) - 1))
        estimators.append(fitted)
        errors.append(error)
        betas.append(beta)
        if error >= chance:
            break
        weights[~is_target & wrong] *= shrink
        weights[is_target & wrong] /= beta
        weights /= weights.sum()
    source_weights, target_weights = np.ones(len(all_source)), np.ones(len(all_target))
    source_weights[has_label(source, labels_source)] = as_weights(weights[~is_target])
    target_weights[has_label(target, labels_target)] = as_weights(weights[is_target])
    report(source_weights, "TrAdaBoost")
    return InstanceTransfer(source_weights, target_weights, tuple(errors), tuple(betas), classes, estimators, column)


def _labelled_rows(source: Any, target: Any, labels_source: Any, labels_target: Any, column: str) -> list[ProbeRows]:
    first = read_rows(source, labels_source, column=column)
    second = read_rows(target, labels_target, column=column, label_names=first.label_names or None)
    for rows in (first, second):
        if rows.task != "single_label":
            raise ValueError(
                f"The labels are those of the task `{rows.task}`: a row is answered right or wrong only where it has "
                "one class. Give class numbers, one a row."
            )
    classes = np.unique(np.concatenate([first.targets, second.targets]))
    if len(classes) < 2:
        raise ValueError(
            f"All labelled rows are of class {classes[0]}: every classifier is right, and there is nothing to boost. "
            "Give rows of every class."
        )
    return [first, second]


def has_label(features: Any, labels: Any = None) -> np.ndarray:
    """Which rows have a label, `(N,)` bool, by `labels` or the column of the data set."""
    if labels is None:
        name = "labels" if "labels" in features.column_names else "label"
        labels = features.select_columns([name]).with_format(None)[:][name]
    values = np.asarray(labels)
    return np.ones(len(values), bool) if values.dtype.kind in "UOST" else values != UNLABELLED


def _fitted(estimator: Any, inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Any:
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.validation import has_fit_parameter

    weights = weights * (len(weights) / weights.sum())  # the regularisation is relative to one row
    if estimator is None:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            inputs, labels, logisticregression__sample_weight=weights
        )
    if not has_fit_parameter(estimator, "sample_weight"):
        raise TypeError(
            f"`fit` of {type(estimator).__name__} takes no `sample_weight`: every round would fit the same "
            "classifier. Pass one that does, such as `DecisionTreeClassifier(max_depth=3)`."
        )
    fresh: Any = clone(estimator)
    return fresh.fit(inputs, labels, sample_weight=weights)
