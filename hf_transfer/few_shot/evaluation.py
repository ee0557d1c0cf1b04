"""Few-shot methods on features of a frozen model, over many episodes at once."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_transfer.few_shot.episodes import EpisodeRows, Episodes
from hf_transfer.few_shot.labels import class_labels
from hf_transfer.few_shot.results import FewShotResults
from hf_transfer.functional.few_shot import nearest_mean, prototypes, simpleshot
from hf_transfer.functional.few_shot_logistic import logistic
from hf_transfer.functional.transductive import bd_cspn, laplacian_shot, tim


Method = Callable[..., Tensor]
"""`(support (E, S, D), labels (E, S), query (E, Q, D), n_way)` to logits `(E, Q, n)`."""

_METHODS: dict[str, Method] = {
    function.__name__: function
    for function in (nearest_mean, prototypes, simpleshot, logistic, bd_cspn, laplacian_shot, tim)
}
METHODS = tuple(_METHODS)
"""Names of the methods, the order of the tables."""
TRANSDUCTIVE = ("bd_cspn", "laplacian_shot", "tim")
"""Those that classify the queries of an episode together."""

_FLOATS_AT_ONCE = 2_000_000  # of gathered features: what the caches of a CPU hold is read once

__all__ = ["METHODS", "TRANSDUCTIVE", "Method", "evaluate_few_shot", "gather_episodes"]


def evaluate_few_shot(
    features: Any,
    labels: Any = None,
    *,
    methods: Sequence[str] | Mapping[str, str | Method] | None = None,
    n_way: int = 5,
    k_shot: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    base_features: Any = None,
    device: Any = None,
    batch_size: int | None = None,
    confidence: float = 0.95,
    column: str = "features",
    label_names: Sequence[str] | None = None,
) -> FewShotResults:
    """
    Accuracy of few-shot methods over many n-way k-shot episodes of rows whose features are known.

    All methods see the same episodes, so that their differences are paired. The episodes are those of [`Episodes`]
    with the numbers 0 to `episodes - 1`.

    Args:
        features (`datasets.Dataset`, array or tensor):
            What `extract_features` returns, or `(N, D)`.
        labels (array, tensor or sequence, *optional*):
            The class of every row, numbers or names; by default the column `labels` or `label` of the data set.
        methods (`Sequence[str]` or `Mapping`, *optional*):
            Names out of `nearest_mean`, `prototypes`, `simpleshot`, `logistic`, `bd_cspn`, `laplacian_shot`, `tim`
            (the last three are transductive), by default all; or a mapping of your names to these or to functions
            `(support (E, S, D), labels (E, S), query (E, Q, D), n_way) -> logits (E, Q, n)`.
        n_way (`int`, *optional*, defaults to 5):
            Classes of an episode.
        k_shot (`int`, *optional*, defaults to 1):
            Support rows of each class.
        queries (`int`, *optional*, defaults to 15):
            Query rows of each class.
        episodes (`int`, *optional*, defaults to 600):
            How many.
        seed (`int`, *optional*, defaults to 0):
            Of the episodes.
        base_features (`datasets.Dataset`, array or tensor, *optional*):
            `(M, D)` features of other classes, such as those trained on: their mean is what SimpleShot and
            LaplacianShot centre by. A single mean `(D,)` will do.
        device (`str` or `torch.device`, *optional*):
            Where to compute; by default where a tensor of features is, else the CPU.
        batch_size (`int`, *optional*):
            Episodes at once; by default as many as memory close to the processor holds. The result does not depend
            on it but for rounding.
        confidence (`float`, *optional*, defaults to 0.95):
            Of the intervals, in (0, 1).
        column (`str`, *optional*, defaults to `"features"`):
            Which features of a data set.
        label_names (`Sequence[str]`, *optional*):
            Names of the classes by number, for messages; by default those of the data set.

    Raises:
        ValueError: if a method is unknown, features are no finite numbers of one width, labels are missing or of
            another number, and as [`Episodes`] does for classes that are too few or too small.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = np.repeat(np.arange(4), 10)
        >>> features = np.eye(4)[labels] + 0.1 * generator.standard_normal((40, 4))
        >>> results = evaluate_few_shot(
        ...     features, labels, methods=["nearest_mean", "tim"], n_way=3, queries=5, episodes=20
        ... )
        >>> results.accuracies.shape, results.mean("nearest_mean") > 0.9
        ((2, 20), True)
    """
    chosen = _chosen(methods)
    if episodes < 1:
        raise ValueError(f"`episodes={episodes}`: there is nothing to take a mean of. Pass 600 or more, as papers do.")
    if labels is None and not hasattr(features, "column_names"):
        raise ValueError(
            "The features are an array and `labels` is missing: episodes are drawn class by class. Pass the class of "
            "every row, or the data set that `extract_features` returned."
        )
    numbers, names = class_labels(features if labels is None else labels)
    table = _table(features, column, device)
    if len(numbers) != len(table):
        raise ValueError(
            f"There are {len(table)} rows of features and {len(numbers)} labels: they cannot belong together. Pass a "
            "label for each row, -100 where it has none."
        )
    base_mean = None if base_features is None else _base_mean(base_features, column, table)
    draws = Episodes(numbers, n_way=n_way, k_shot=k_shot, queries=queries, seed=seed, label_names=label_names or names)
    at_once = batch_size or max(1, _FLOATS_AT_ONCE // (draws.size * table.shape[1]))
    accuracies, seconds = np.empty((len(chosen), episodes)), dict.fromkeys(chosen, 0.0)
    with torch.inference_mode():
        for start in range(0, episodes, at_once):
            rows = draws.draw(range(start, min(start + at_once, episodes)))
            support, given, query, truth = gather_episodes(table, rows)
            for at, (name, method) in enumerate(chosen.items()):
                began = time.perf_counter()
                options = {"base_mean": base_mean} if _takes_base_mean(method) else {}
                logits = method(support, given, query, n_way, **options)
                right = (logits.argmax(-1) == truth).sum(-1)
                accuracies[at, start : start + len(right)] = right.cpu().numpy() / truth.shape[1]
                seconds[name] += time.perf_counter() - began
    transductive = tuple(name for name, method in chosen.items() if method in _TRANSDUCTIVE_FUNCTIONS)
    return FewShotResults(tuple(chosen), accuracies, n_way, k_shot, queries, seed, transductive, seconds, confidence)


def gather_episodes(features: Tensor, rows: EpisodeRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Features and classes of episodes: support `(E, S, D)`, its classes `(E, S)`, query `(E, Q, D)`, its classes
    `(E, Q)`; classes are those within the episode.
    """
    support, query = (
        # three times as fast as indexing by a table
        features.index_select(0, torch.from_numpy(part.reshape(-1)).to(features.device)).unflatten(0, part.shape)
        for part in (rows.support, rows.query)
    )
    given, truth = (
        torch.from_numpy(part).to(features.device).expand(len(rows.classes), -1)
        for part in (rows.support_labels, rows.query_labels)
    )
    return support, given, query, truth


_TRANSDUCTIVE_FUNCTIONS = tuple(_METHODS[name] for name in TRANSDUCTIVE)


def _chosen(methods: Any) -> dict[str, Method]:
    if methods is None:
        methods = METHODS
    elif isinstance(methods, str):
        methods = (methods,)
    if not isinstance(methods, Mapping):
        methods = {name: name for name in methods}
    named: dict[str, str | Method] = dict(methods)
    unknown = [str(method) for method in named.values() if not callable(method) and method not in _METHODS]
    if unknown or not named:
        raise ValueError(
            f"There is no few-shot method {', '.join(f'`{name}`' for name in unknown) or 'to evaluate'}: its "
            f"predictions are not known. Pass names out of {', '.join(METHODS)}, or a mapping of names to functions."
        )
    return {name: _METHODS[method] if isinstance(method, str) else method for name, method in named.items()}


def _takes_base_mean(method: Method) -> bool:
    try:
        return "base_mean" in inspect.signature(method).parameters
    except ValueError:  # functions of C
        return False


def _table(features: Any, column: str, device: Any) -> Tensor:
    if hasattr(features, "column_names"):
        from hf_transfer.features.probes.labelled_rows import read_features

        features, sizes, groups = read_features(features, column=column)
        if sizes is not None or groups is not None:
            raise ValueError(
                "The features are of tokens, or of several views of a row: an episode has one vector a row. Extract "
                'them again with `pooling="mean"` and one view.'
            )
    table = features if isinstance(features, Tensor) else _as_tensor(features)
    if table.ndim != 2 or not table.numel() or table.is_complex():
        raise ValueError(
            f"The features are of shape {tuple(table.shape)}: a few-shot method takes one vector a row. Pass (N, D)."
        )
    table = table.detach().to(device=device, dtype=torch.float32).contiguous()
    if not bool(table.isfinite().all()):
        raise ValueError(
            "Some features are not finite: every distance to them would be NaN. Extract them again in float32, or "
            "leave these rows out."
        )
    return table


def _as_tensor(values: Any) -> Tensor:
    array = np.asarray(values)
    # a table that is mapped from disk cannot be written to, which torch warns of
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _base_mean(base: Any, column: str, table: Tensor) -> Tensor:
    if not hasattr(base, "column_names") and len(base) and np.ndim(base[0]) == 0:
        base = base[None] if isinstance(base, Tensor) else _as_tensor(base)[None]
    mean = _table(base, column, table.device).mean(0)
    if len(mean) != table.shape[1]:
        raise ValueError(
            f"`base_features` are {len(mean)} wide, the features {table.shape[1]}: their mean is of another space. "
            "Extract both by the same model and tap."
        )
    return mean
