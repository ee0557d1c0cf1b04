"""From two data sets and a frozen model to a source data set with a column `sample_weight`, in one call."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from hf_transfer.features.extraction.extract import extract_features
from hf_transfer.features.extraction.kwargs import ExtractionKwargs, checked, for_evaluation
from hf_transfer.features.probes.fitting import fit_probe
from hf_transfer.features.probes.labelled_rows import read_rows
from hf_transfer.features.reweighting.feature_pairs import read_matrix
from hf_transfer.features.reweighting.importance import METHODS, importance_weights
from hf_transfer.features.reweighting.label_shift import label_shift_weights
from hf_transfer.features.reweighting.mean_one import as_weights, report
from hf_transfer.features.reweighting.tradaboost import has_label, tradaboost
from hf_transfer.features.reweighting.weight_column import with_weights
from hf_transfer.functional.task_loss import SAMPLE_WEIGHT
from hf_transfer.weights.slots import base_of


if TYPE_CHECKING:
    from datasets import Dataset

_ALL = (*METHODS, "bbse", "tradaboost")

__all__ = ["reweight"]


def reweight(
    model: nn.Module,
    source: Dataset,
    target: Dataset,
    processor: Any = None,
    *,
    method: str = "domain_classifier",
    clip: float | None = 0.99,
    seed: int = 0,
    head: str | None = None,
    extraction: ExtractionKwargs | None = None,
    **options: Any,
) -> Dataset:
    """
    The source with a float column `sample_weight` that makes it count as the target would, by features of a frozen
    model. Train on it, or on `mix_domains` of it: the task loss of an attached model honours the column.

    The features of both are extracted, or read from the cache, and given to the method. The effective sample size of
    the weights is logged; a warning says if it is under 10% of the rows, or a few rows carry most of the weight.

    Args:
        model (`nn.Module`):
            Any classifier of `transformers`, also under PEFT. It is not changed.
        source (`datasets.Dataset`):
            As for [`extract_features`].
        target (`datasets.Dataset`):
            Alike. Its labels are read by `tradaboost` only.
        processor (*optional*):
            The model's own, for raw columns.
        method (`str`, *optional*, defaults to `"domain_classifier"`):
            One of [`importance_weights`]; `bbse` for label shift ([`label_shift_weights`], by probes fitted to one
            half of the source and judged on the other, both ways); `tradaboost`, where a few target rows are labelled.
        clip (`float`, *optional*, defaults to 0.99):
            Quantile at which weights are cut off; `None` cuts nothing. It does not apply to `bbse` and `tradaboost`.
        seed (`int`, *optional*, defaults to 0):
            Of whatever the method draws.
        head (`str`, *optional*):
            Name of the head, where it cannot be told from the model.
        extraction (`dict`, *optional*):
            Options of [`extract_features`], such as `batch_size` and `cache_dir`.
        **options:
            Of the method: those of [`importance_weights`]; `confusion` of `bbse`; `rounds`, `estimator` of
            `tradaboost`.

    Shape:
        - returns the source, its rows in order, with `sample_weight` float64 of mean 1. For token classification the
          features of an example are the mean over its tokens, and its weight holds for all of them.

    Raises:
        ValueError: if the method or an option is unknown; if the source has a column `sample_weight` already; if
            labels are missing where they are needed; and whatever [`extract_features`] raises.
        ImportError: if scikit-learn or `datasets` is not installed.

    Relations:
        [`importance_weights`], [`label_shift_weights`] and [`tradaboost`] take features or probabilities that are
        there already.

    Example:
        >>> import tempfile, torch
        >>> from datasets import Dataset
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = BertForSequenceClassification(config)
        >>> source = Dataset.from_dict({"input_ids": [[1, 2], [3, 4], [5, 6]] * 4, "labels": [0, 1, 1] * 4})
        >>> target = source.select(range(4)).remove_columns("labels")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     weighted = reweight(model, source, target, extraction={"cache_dir": folder, "progress": False})
        >>> weighted.column_names
        ['input_ids', 'labels', 'sample_weight']
    """
    _check(method, options, source)
    given = for_evaluation(checked(extraction))
    if type(base_of(model)).__name__.endswith("ForTokenClassification"):
        if method in ("bbse", "tradaboost"):
            raise ValueError(
                f"`{method}` for {type(base_of(model)).__name__}: it compares the classes of examples, and here "
                "tokens have them. Choose another method, such as `domain_classifier`."
            )
        given["pooling"] = "mean"  # one vector an example
    features = extract_features(model, source, processor, head=head, **given)
    target_features = extract_features(model, target, processor, head=head, **given)
    if method == "bbse":
        weights = _by_label_shift(features, target_features, seed, **options)
    elif method == "tradaboost":
        weights = tradaboost(features, target_features, **options).source_weights
    else:
        weights = importance_weights(features, target_features, method=method, clip=clip, seed=seed, **options)
    return with_weights(source, weights)


def _check(method: str, options: dict[str, Any], source: Any) -> None:
    if method not in _ALL:
        near = get_close_matches(str(method), _ALL, 1)
        raise ValueError(
            f"There is no weighting method `{method}`: no weights would be computed. Pass one of {', '.join(_ALL)}."
            + (f" Did you mean `{near[0]}`?" if near else "")
        )
    known = {"bbse": {"confusion"}, "tradaboost": {"rounds", "estimator"}}
    if foreign := sorted(options.keys() - known.get(method, set(options))):
        raise ValueError(
            f"`{method}` has no option {', '.join(foreign)}: it would have no effect. Its options are "
            f"{', '.join(sorted(known[method]))}; leave the others out."
        )
    if SAMPLE_WEIGHT in (getattr(source, "column_names", None) or ()):
        raise ValueError(
            f"The source has a column `{SAMPLE_WEIGHT}` already: which of the two weights counts would not be clear. "
            f'Remove it first: `source.remove_columns("{SAMPLE_WEIGHT}")`.'
        )


def _by_label_shift(source: Any, target: Any, seed: int, confusion: str = "hard") -> np.ndarray:
    """Row weights by two probes, each fitted to one half of the labelled source and judged on the other."""
    rows = read_rows(source)
    if rows.task != "single_label":
        raise ValueError(
            f"The source labels are those of the task `{rows.task}`: label shift is estimated for one class a row. "
            "Choose another method, such as `domain_classifier`."
        )
    half = _halves(rows.targets, seed)
    names = rows.label_names or [str(number) for number in range(int(rows.targets.max()) + 1)]
    priors = np.bincount(rows.targets, minlength=len(names)) / len(rows.targets)
    target_rows, _ = read_matrix(target, name="target")
    estimates = []
    for fitted, judged in ((half, ~half), (~half, half)):
        probe = fit_probe(rows.features[fitted], rows.targets[fitted], label_names=names, seed=seed)
        held = probe.probabilities(rows.features[judged])
        shift = label_shift_weights(held, rows.targets[judged], probe.probabilities(target_rows), confusion=confusion)
        # of a class of one row nothing is held out: its share is taken to be what it was
        estimates.append(np.where(shift.source_priors > 0, shift.target_priors, priors))
    estimate = np.mean(estimates, axis=0)
    class_weights = np.divide(estimate, priors, out=np.ones(len(names)), where=priors > 0)
    labelled = has_label(source)
    weights = np.ones(len(labelled))
    weights[labelled] = as_weights(class_weights[rows.targets])
    report(weights[labelled], "bbse")
    return weights


def _halves(labels: np.ndarray, seed: int) -> np.ndarray:
    """Half of the rows of each class; both halves get a row of every class that has two."""
    generator, half = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = generator.permutation(np.flatnonzero(labels == label))
        half[places[: (len(places) + 1) // 2]] = True
    return half
