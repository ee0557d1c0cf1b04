"""How good a model is on a target without labels, estimated from arrays; higher is better for all of them."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike


INTERPOLATION = 0.55
"""Share of the larger part in a mixture of two rows; the value of the MixVal paper."""

_BLOCK = 512  # rows of the matrix of similarities that are held at once

__all__ = [
    "INTERPOLATION",
    "deep_embedded_validation",
    "importance_weighted_validation",
    "information_maximization",
    "log_softmax",
    "mixed_logit_agreement",
    "mixing_partners",
    "negative_entropy",
    "probe_consistency",
    "soft_neighborhood_density",
]


def importance_weighted_validation(errors: ArrayLike, weights: ArrayLike) -> float:
    r"""
    Minus the importance-weighted error: $-\frac{1}{N} \sum_i w_i e_i$ over held-out source rows (IWCV).

    With $w$ the ratio of the target's density to the source's, its expectation is minus the error on the target, if
    the two differ in their inputs only.

    Args:
        errors (array): $e_i$, `(N,)`: 0 or 1, or a loss.
        weights (array): $w_i \ge 0$, `(N,)` (dimensionless).

    Raises:
        ValueError: if there is no row, or the two do not fit each other.

    Example:
        >>> importance_weighted_validation([1, 0, 1], [0.5, 2.0, 1.0])
        -0.5

    Paper: Sugiyama et al., "Covariate Shift Adaptation by Importance Weighted Cross Validation", JMLR 2007
    """
    errors, weights = _rows(errors, weights)
    return float(-(weights * errors).mean())


def deep_embedded_validation(errors: ArrayLike, weights: ArrayLike) -> float:
    r"""
    Minus the importance-weighted error with a control variate (DEV): the weights, whose mean should be one.

    $$ -\Bigl( \overline{w e} + \eta\,\overline{w} - \eta \Bigr), \qquad
       \eta = -\frac{\operatorname{cov}(w e, w)}{\operatorname{var}(w)} $$

    Args:
        errors (array): $e_i$, `(N,)`: 0 or 1, or a loss.
        weights (array): $w_i \ge 0$, `(N,)` (dimensionless).

    Degenerate batches:
        Weights that do not vary, as of one row, control nothing: $\eta$ is zero.

    Raises:
        ValueError: if there is no row, or the two do not fit each other.

    Example:
        >>> round(deep_embedded_validation([0, 0, 1, 1], [0.5, 1.0, 1.5, 2.0]), 6)  # 0.875 - 1.5 * 0.25
        -0.5

    Paper: You et al., "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", ICML 2019,
    https://proceedings.mlr.press/v97/you19a.html
    """
    errors, weights = _rows(errors, weights)
    weighted = weights * errors
    # eta does not depend on the scale of the weights, and their squares may overflow
    scale = max(float(weights.max()), np.finfo(np.float64).tiny)
    centred = weights / scale - (weights / scale).mean()
    variance = (centred**2).mean()
    if variance <= (1e-12 * (weights / scale).mean()) ** 2:
        return float(-weighted.mean())
    eta = -(weighted / scale * centred).mean() / variance
    return float(-(weighted.mean() + eta * (weights.mean() - 1.0)))


def log_softmax(logits: ArrayLike) -> np.ndarray:
    """
    Logarithms of the probabilities, in float64.

    Example:
        >>> np.exp(log_softmax([[0.0, 1e4]])).tolist()
        [[0.0, 1.0]]
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or not logits.size:
        raise ValueError(
            f"Logits of shape {logits.shape} were given: there is no prediction to look at. Give a row for each "
            "example and a column for each class, `(N, C)`."
        )
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def negative_entropy(logits: ArrayLike) -> float:
    r"""
    Minus the mean entropy of the predictions: $\frac{1}{N} \sum_i \sum_c p_{ic} \log p_{ic}$, in nats, at most 0.

    Args:
        logits (array): `(N, C)`.

    Raises:
        ValueError: if there is no row or no class.

    Example:
        >>> round(negative_entropy([[0.0, 0.0]]), 4)  # - log 2
        -0.6931

    Paper: Morerio et al., "Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain Adaptation", ICLR 2018,
    https://huggingface.co/papers/1711.10288
    """
    return -_entropy(log_softmax(logits))


def information_maximization(logits: ArrayLike) -> float:
    r"""
    Mutual information of rows and predictions: the entropy of the mean prediction minus the mean entropy, in nats.

    $$ H\Bigl(\frac{1}{N} \sum_i p_i\Bigr) - \frac{1}{N} \sum_i H(p_i) $$

    Between 0, where all rows get one prediction, and $\log C$, where each class gets as many rows, all certain.

    Args:
        logits (array): `(N, C)`.

    Raises:
        ValueError: if there is no row or no class.

    Example:
        >>> round(information_maximization([[1e4, 0.0], [0.0, 1e4]]), 4)  # log 2
        0.6931

    Paper: Musgrave et al., "Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain
    Adaptation", 2022, https://huggingface.co/papers/2208.07360
    """
    logs = log_softmax(logits)
    mean = np.exp(logs).mean(0)
    diversity = -float((mean * np.log(np.where(mean > 0, mean, 1.0))).sum())
    return diversity - _entropy(logs)


def soft_neighborhood_density(logits: ArrayLike, *, temperature: float = 0.05) -> float:
    r"""
    Soft neighbourhood density (SND): how many rows each row is close to, as an entropy in nats.

    With $s_{ij}$ the cosine of the predictions (after softmax) of rows $i$ and $j$,

    $$ -\frac{1}{N} \sum_i \sum_{j \ne i} q_{ij} \log q_{ij}, \qquad
       q_{ij} = \frac{e^{s_{ij} / \tau}}{\sum_{k \ne i} e^{s_{ik} / \tau}} $$

    It is at most $\log(N - 1)$, where all predictions are equal: compare it for the same rows only.

    Args:
        logits (array): `(N, C)`.
        temperature (`float`, *optional*, defaults to 0.05):
            $\tau > 0$ (dimensionless); the paper's value.

    Degenerate batches:
        One row has no neighbour: 0.

    Raises:
        ValueError: if there is no row or no class; if `temperature` is not positive.

    Example:
        >>> round(soft_neighborhood_density([[2.0, 1.0]] * 4), 4)  # log 3
        1.0986

    Paper: Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density", ICCV 2021, https://huggingface.co/papers/2108.10860
    """
    if temperature <= 0:
        raise ValueError(
            f"`temperature={temperature}` is not positive: similarities have no softmax at it. Give a small number, "
            "such as 0.05."
        )
    directions = np.exp(log_softmax(logits))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    count = len(directions)
    if count == 1:
        return 0.0
    total = 0.0
    for start in range(0, count, _BLOCK):
        similarity = directions[start : start + _BLOCK] @ directions.T / temperature
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        similarity -= similarity.max(1, keepdims=True)
        weights = np.exp(similarity)
        similarity[rows, start + rows] = 0.0  # its weight is zero
        sums = weights.sum(1)
        total += float((np.log(sums) - (weights * similarity).sum(1) / sums).sum())
    return total / count


def mixing_partners(classes: ArrayLike, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Another row for each row to be mixed with, at random: one of the same class, and one of any other class.

    Args:
        classes (array): class that each row is put into, `(N,)`.
        generator (`np.random.Generator`): draws.

    Shape:
        - returns two arrays of row numbers `(N,)`, -1 where there is none.

    Example:
        >>> same, other = mixing_partners([0, 0, 1], np.random.default_rng(0))
        >>> same.tolist(), other[:2].tolist(), bool(other[2] in (0, 1))
        ([1, 0, -1], [2, 2], True)
    """
    classes = np.asarray(classes)
    same, other = np.full(len(classes), -1), np.full(len(classes), -1)
    for value in np.unique(classes):
        own, rest = np.flatnonzero(classes == value), np.flatnonzero(classes != value)
        if len(own) > 1:
            places = np.arange(len(own)) + generator.integers(1, len(own), size=len(own))
            same[own] = own[places % len(own)]
        if len(rest):
            other[own] = rest[generator.integers(len(rest), size=len(own))]
    return same, other


def mixed_logit_agreement(logits: ArrayLike, partners: ArrayLike, *, share: float = INTERPOLATION) -> float:
    r"""
    How often the class of a mixture is that of its larger part: of $\lambda z_i + (1 - \lambda) z_j$ that of $z_i$.

    Mixing logits is mixing the inputs of a linear head. Two rows of one class mix to that class, so that only partners
    of another class tell something.

    Args:
        logits (array): $z$, `(N, C)`.
        partners (array): number $j$ of the row that each is mixed with, `(N,)`; -1 for none.
        share (`float`, *optional*, defaults to 0.55):
            $\lambda$ in (0.5, 1) (dimensionless); the paper's value.

    Degenerate batches:
        Without any partner there is no boundary between classes: 0.

    Example:
        >>> mixed_logit_agreement([[2.0, 0.0], [0.0, 3.0]], [1, 0])  # 0.55 * 2 < 0.45 * 3
        0.5

    Paper: Hu et al., "Mixed Samples as Probes for Unsupervised Model Selection in Domain Adaptation", NeurIPS 2023,
    https://openreview.net/forum?id=ackajXqei2
    """
    logits, partners = np.asarray(logits, dtype=np.float64), np.asarray(partners)
    rows = np.flatnonzero(partners >= 0)
    if not len(rows):
        return 0.0
    mixed = share * logits[rows] + (1 - share) * logits[partners[rows]]
    return float((mixed.argmax(1) == logits[rows].argmax(1)).mean())


def probe_consistency(
    target: ArrayLike, classes: ArrayLike, source: ArrayLike, labels: ArrayLike, *, strength: float = 1.0
) -> float:
    """
    Reverse validation on features: accuracy on labelled source rows of what was learned from the target's predictions.

    A logistic regression on features, standardised by the target, is fitted to the target with the classes that the
    model puts it into, and asked for the classes of the source.

    Args:
        target (array): features of the target, `(N, D)`.
        classes (array): the classes the model puts these rows into, `(N,)`.
        source (array): features of the source, `(M, D)`.
        labels (array): its true classes, `(M,)`.
        strength (`float`, *optional*, defaults to 1.0):
            Inverse regularisation strength as in scikit-learn, relative to one row (dimensionless).

    Degenerate batches:
        Where the target is put into one class, that is the answer for every source row.

    Deviations from the papers:
        No new network is trained from the target back to the source, and nothing is adapted on the way back.

    Raises:
        ImportError: if scikit-learn is not installed.

    Example:
        >>> probe_consistency([[-1.0], [-2.0], [1.0], [2.0]], [0, 0, 1, 1], [[-1.5], [1.5], [3.0]], [0, 1, 0])
        0.6666666666666666

    Paper: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, https://huggingface.co/papers/1505.07818
    """
    target, source = np.asarray(target, dtype=np.float64), np.asarray(source, dtype=np.float64)
    classes, labels = np.asarray(classes), np.asarray(labels)
    if len(np.unique(classes)) == 1:
        return float(np.mean(labels == classes[0]))
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "Reverse validation needs scikit-learn, which is not installed: there is nothing to fit the probe with. "
            'Run `pip install "hf-transfer-learning[recipes]"`.'
        ) from error
    scaler = StandardScaler().fit(target)
    probe = LogisticRegression(C=strength, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a solution this close ranks models as well
        probe.fit(scaler.transform(target), classes)
    return float(np.mean(probe.predict(scaler.transform(source)) == labels))


def _entropy(logs: np.ndarray) -> float:
    # an infinite logit would make 0 * -inf
    return float(-(np.exp(logs) * np.maximum(logs, -1e300)).sum(1).mean())


def _rows(errors: ArrayLike, weights: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    errors, weights = np.asarray(errors, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if errors.shape != weights.shape or errors.ndim != 1 or not len(errors):
        raise ValueError(
            f"Errors of shape {errors.shape} and weights of shape {weights.shape} were given: each source row has one "
            "of each. Give two arrays of one number a row, with at least one row."
        )
    return errors, weights
