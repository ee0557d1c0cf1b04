"""An embedding of a task by the features that its classes depend on, and the distance of two tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_transfer.diagnostics.domain_rows import check_finite, drawn
from hf_transfer.diagnostics.linear_fit import fit_linear
from hf_transfer.features.probes.labelled_rows import read_rows


__all__ = ["head_fisher", "task_distance", "task_embedding"]


def task_embedding(
    features: Any, labels: Any = None, *, column: str = "features", max_rows: int | None = 2000, seed: int = 0
) -> np.ndarray:
    r"""
    Embedding of a task in the manner of Task2Vec: how much each feature tells about the weights of a probe.

    A logistic regression with weights $W$ is fitted to features $x_i$ of a model that is the same for all tasks. With
    $p_i$ the probabilities that it gives row $i$, the embedding is the diagonal of the Fisher information of $W$,
    averaged over the $C$ classes,

    $$ F_d = \frac{1}{C N} \sum_i \sum_c \sum_{y} p_{iy}
             \Bigl( \frac{\partial \log p_{iy}}{\partial W_{cd}} \Bigr)^2
           = \frac{1}{C N} \sum_i x_{id}^2 \sum_c p_{ic} (1 - p_{ic}) $$

    the second moment of each feature where the probe is unsure. Its width is that of the features, whatever the
    classes are and however many: tasks are comparable by [`task_distance`].

    Args:
        features (`datasets.Dataset`, array or list of arrays):
            What `extract_features` returns, or `(N, D)`; of one model for all tasks.
        labels (array, *optional*):
            Class numbers; by default the column `labels` of a data set. -100 marks what has no label.
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        max_rows (`int`, *optional*, defaults to 2000):
            Most rows, drawn at random if there are more; `None` for all.
        seed (`int`, *optional*, defaults to 0):
            Of the draw, and of the folds that choose the regularisation.

    Shape:
        - returns `(D,)` float64, at least 0, in squared units of the features. It is not normalised: its size tells
          how unsure the probe is, and [`task_distance`] normalises as the paper does.

    Degenerate cases:
        A feature that is 0 in all rows has 0. Names of classes do not matter, and neither do the units of a feature in
        a distance of tasks, as long as they are the same for both.

    Deviations from the paper:
        The paper takes the Fisher information of all weights of a network whose head was trained on the task, averaged
        over each filter. Features that were computed once know only the head, so this is the information of its
        weights, averaged over the classes of each feature; layers below are not seen. It depends on the domain far
        more than on the labels: for features of texts, permuted labels give the same embedding. A gate at each feature
        in place of the weights of the head was tried, and dropped: for two halves of one task it gives distances as
        large as for two tasks. No noise is trained (the paper's robust variant).

    Raises:
        ValueError: if the labels are no classes, or of one class; if a feature is not finite.
        ImportError: without scikit-learn.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> rows = generator.normal(size=(300, 4))
        >>> labels = (rows[:, 2] > 0).astype(int)
        >>> int(task_embedding(rows, labels).argmin())  # rows that the probe is unsure of have feature 2 near 0
        2

    Paper: Achille et al., "Task2Vec: Task Embedding for Meta-Learning", ICCV 2019,
    https://huggingface.co/papers/1902.03545
    """
    rows = read_rows(features, labels, column=column)
    if rows.task not in ("single_label", "token"):
        raise ValueError(
            f"The labels are of the task `{rows.task}`: the embedding is of a probe that tells classes apart. Pass "
            "one class number for each row, or leave the labels out."
        )
    check_finite(rows.features, "data")
    chosen = drawn(len(rows.features), max_rows, np.random.default_rng(seed))
    table, groups = rows.features[chosen].astype(np.float64), rows.groups
    names, numbers = np.unique(rows.targets[chosen], return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"All {len(numbers)} rows are of class {names[0]}: a probe of one class depends on no feature, and the "
            "embedding would be zero. Give rows of at least two classes, or leave the labels out."
        )
    fitted = fit_linear(table, numbers, None if groups is None else groups[chosen], seed=seed)
    return head_fisher(table, fitted.logits(table))


def head_fisher(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """
    Diagonal Fisher information of the weights of a softmax regression, averaged over classes, see [`task_embedding`].

    Shape:
        - features: `(N, D)`, logits: `(N, C)` of the regression for them; returns `(D,)`.

    Example:
        >>> head_fisher(np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]])).tolist()  # 2^2 * 1/2 * 1/2
        [1.0, 0.0]
    """
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return (shares * (1 - shares)).mean(1) @ features**2 / len(features)


def task_distance(first: ArrayLike, second: ArrayLike) -> float:
    r"""
    Distance of two task embeddings: the cosine distance after each feature is normalised by the sum of both.

    $$ 1 - \cos \Bigl( \frac{F_a}{F_a + F_b}, \frac{F_b}{F_a + F_b} \Bigr) $$

    so that features count alike, however large their information is.

    Args:
        first (array): $F_a$, `(D,)`, at least 0, as [`task_embedding`] returns it.
        second (array): $F_b$, `(D,)`.

    Shape:
        - returns a number in [0, 1], dimensionless: 0 if one embedding is a multiple of the other, 1 if no feature is
          above 0 in both. Symmetric. Values are small: two halves of one task of 600 reviews are at 0.01, reviews of
          two kinds of products at 0.03 to 0.05, reviews and questions to a bank at 0.1.

    Degenerate cases:
        Features that are 0 in both are left out. An embedding of zeros is at 1 from any other, and at 0 from
        another of zeros.

    Deviations from the paper:
        None; its asymmetric distance, which subtracts the complexity of one task, is left out, as its trivial task
        has no counterpart here.

    Raises:
        ValueError: if the widths differ, or an entry is negative or not finite.

    Example:
        >>> task_distance([1.0, 2.0, 0.0], [2.0, 4.0, 0.0]), task_distance([1.0, 0.0], [0.0, 3.0])
        (0.0, 1.0)

    Paper: Achille et al., "Task2Vec: Task Embedding for Meta-Learning", ICCV 2019,
    https://huggingface.co/papers/1902.03545
    """
    ours, theirs = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(
            f"The embeddings have shapes {ours.shape} and {theirs.shape}: they are of two models or layers, whose "
            "features have nothing in common. Embed both tasks with features of one model."
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all() and min(ours.min(), theirs.min()) >= 0):
        raise ValueError(
            "An embedding has entries that are negative or not finite: it is no Fisher information, and the distance "
            "would mean nothing. Pass what `task_embedding` returns."
        )
    matters = (ours > 0) | (theirs > 0)
    if not matters.any():
        return 0.0
    total = ours[matters] + theirs[matters]
    left, right = ours[matters] / total, theirs[matters] / total
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    return 1.0 if lengths == 0 else float(min(max(1 - left @ right / lengths, 0.0), 1.0))
